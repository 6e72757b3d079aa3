"""Options that several commands share, and the configuration that they stand for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fxray.config.tree import Config

MAX_SEED = 2**31 - 1
"""As a configuration's; torch has none beyond 64 bits."""
ConfigOption = Annotated[
    str,
    typer.Option("--config", "-c", metavar="FILE", help="A YAML file, or the name of a shipped one: tiny, smoke, ..."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one field: grpo.group_size=8. May be repeated."),
]
RunDirOption = Annotated[
    str | None,
    typer.Option(
        "--run-dir",
        "-d",
        metavar="DIR",
        help="Folder of the run, also in object storage (s3://bucket/run); by default runs/<name of the config>.",
    ),
]
FinishedRunOption = Annotated[str, typer.Option("--run-dir", "-d", metavar="DIR", help="A run with a finished phase.")]
StageOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="sft, alpha, beta, ...; by default the last that is finished.")
]
ModelConfigOption = Annotated[
    str | None, typer.Option("--config", "-c", metavar="FILE", help="In place of a run: model and engine.")
]
AdapterOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Adapter in PEFT layout, in place of the run's last.")
]
ThresholdOption = Annotated[
    float, typer.Option(help="Score from which an image counts as generated, where a file has no verdicts.")
]
BootstrapOption = Annotated[int, typer.Option(min=1, max=10**6, help="Resamples behind each 95 % interval.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")]


UNPACKED_JOB = "working_dir_files"
"""Name of the folder below which Ray unpacks what travels with a job."""


def checked_config(path_or_name: str, overrides: list[str] | None) -> "Config":
    """The configuration, with every cross-field check passed.

    Raises:
        ConfigError: It names every field that cannot stay as it is.
    """
    from fxray.config.limits import check
    from fxray.config.load import load_config
    from fxray.config.problem import refuse

    config = load_config(path_or_name, overrides or ())
    refuse(check(config), where=path_or_name)
    return config


def chosen_run(run_dir: str | None, path_or_name: str) -> str:
    """The run directory that was given, or the one that belongs to the configuration: a path, or an address.

    Raises:
        ConfigError: It would lie in the working directory of a Ray job, which is deleted with the job.
    """
    from fxray.config.load import name_of

    chosen = run_dir or f"runs/{name_of(path_or_name)}"
    return run_of_job(chosen) if UNPACKED_JOB in Path.cwd().parts else chosen


def run_of_job(run_dir: str) -> str:
    """The run directory of a job on a cluster, which outlives the job's working directory.

    Raises:
        ConfigError: It is a relative path.
    """
    from fxray.errors import ConfigError

    if "://" not in run_dir and not Path(run_dir).is_absolute():
        raise ConfigError(
            f"{run_dir} is relative, to a folder that is deleted with the job",
            where="--run-dir",
            remedy="give an address such as s3://bucket/runs/7b, or an absolute path such as /shared/runs/7b",
        )
    return run_dir


def within(run_dir: str, path: Path, folder: Path) -> str:
    """What to call a file of a run that is worked on in `folder`: its place below the run directory as it was given."""
    from fxray.remote import is_remote

    base, _, options = run_dir.partition("?") if is_remote(run_dir) else (run_dir, "", "")
    return f"{base.rstrip('/')}/{path.resolve().relative_to(folder.resolve()).as_posix()}{options and '?'}{options}"
