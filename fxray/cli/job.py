"""`fxray submit` and `fxray job`: training as a job on a Ray cluster."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from fxray.cli.arguments import ConfigOption, SetOption, checked_config, run_of_job

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Follow, stop and list jobs on a Ray cluster.")

AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        "-a",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="Of the cluster's dashboard.",
    ),
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="As `fxray submit` printed it.")]
LOCAL_DASHBOARD = "http://127.0.0.1:8265"


def submit(
    config: ConfigOption,
    run_dir: Annotated[
        str,
        typer.Option(
            "--run-dir",
            "-d",
            metavar="DIR",
            help="Folder of the run: an address (s3://bucket/run), or an absolute path that every node reaches.",
        ),
    ],
    overrides: SetOption = None,
    address: AddressOption = LOCAL_DASHBOARD,
    follow: Annotated[bool, typer.Option(help="Show the job's output until it ends.")] = True,
    submission_id: Annotated[
        str | None, typer.Option(metavar="JOB", help="Name of the job; by default Ray makes one.")
    ] = None,
    driver_on: Annotated[
        str, typer.Option(metavar="TYPE", help="Node type for the driver (reward, ...), in place of the head.")
    ] = "",
) -> None:
    """Train on a Ray cluster, as `fxray train` does here.

    The configuration is checked against the cluster's nodes first. What travels is fxray, the configuration and the
    modules of your reward functions that lie in this folder, with what they import from it; the cluster needs fxray's
    dependencies. Paths of data and models are those of the cluster. With --follow the exit code is the job's.

    \b
    Examples:
      fxray submit --config qwen2.5-vl-7b --run-dir /shared/runs/7b
      fxray submit -c my.yaml -d /shared/runs/a --no-follow --submission-id a -s ray.use_node_types=true
      fxray submit -c my.yaml -d s3://bucket/runs/a --driver-on reward
    """
    from fxray.config.load import name_of
    from fxray.launch import jobs
    from fxray.launch.demand import missing

    tree = checked_config(config, overrides)
    run_dir = run_of_job(run_dir)
    client = _connect(address)
    nodes = jobs.cluster_nodes(address)
    if tree.ray.autoscales:
        for line in missing(tree, nodes, driver_on=driver_on):
            typer.echo(f"to be brought by the autoscaler: {line}", err=True)
    else:
        jobs.refuse_what_has_no_place(tree, nodes, driver_on)
    job = jobs.submit(
        client,
        tree,
        run_dir,
        name=name_of(config),
        user_folder=Path.cwd(),
        submission_id=submission_id,
        driver_on=driver_on,
    )
    if not follow:
        typer.echo(job)
        return
    typer.echo(f"job {job}; ^C leaves it running, `fxray job stop {job}` ends it", err=True)
    _follow(client, job)


@app.command("logs")
def logs(job: JobArgument, address: AddressOption = LOCAL_DASHBOARD) -> None:
    """Show a job's output from its start until it ends; the exit code is the job's.

    \b
    Example:
      fxray job logs raysubmit_jJMKS5TSqeF2jFqV
    """
    _follow(_connect(address), job)


@app.command("stop")
def stop(job: JobArgument, address: AddressOption = LOCAL_DASHBOARD) -> None:
    """End a job. What its run directory holds stays; the same submission goes on from there.

    \b
    Example:
      fxray job stop raysubmit_jJMKS5TSqeF2jFqV
    """
    from fxray.launch import jobs

    had_run = jobs.stop(_connect(address), job)
    typer.echo(f"{job} {'is asked to stop' if had_run else 'had ended already'}")


@app.command("list")
def show_list(address: AddressOption = LOCAL_DASHBOARD) -> None:
    """List fxray's jobs on a cluster, the newest last.

    \b
    Example:
      fxray job list --address http://127.0.0.1:8265
    """
    from fxray.launch import jobs

    lines = list(jobs.described(jobs.list_jobs(_connect(address))))
    for line in lines:
        typer.echo("  ".join(line.values()))
    if not lines:
        typer.echo("none of fxray's jobs is known to this cluster; `fxray submit` hands one in", err=True)


def _connect(address: str) -> Any:
    from fxray.launch import jobs

    client = jobs.connect(address)
    logging.disable(logging.INFO)  # Ray's own words on packages and web sockets
    return client


def _follow(client: Any, job: str) -> None:
    from fxray.launch import jobs

    try:
        code = jobs.follow(client, job, lambda piece: typer.echo(piece, nl=False))
    except KeyboardInterrupt:
        typer.echo(f"{job} goes on; `fxray job logs {job}` follows it again", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"{job} {jobs.status_of(client, job).lower()}", err=True)
    raise typer.Exit(code)
