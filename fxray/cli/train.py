"""`fxray train`, and its two halves `fxray sft` and `fxray grpo`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import ConfigOption, RunDirOption, SetOption, checked_config, chosen_run, within
from fxray.cli.tables import show_report

if TYPE_CHECKING:
    from fxray.events import OnEvent


def train(config: ConfigOption, overrides: SetOption = None, run_dir: RunDirOption = None) -> None:
    """Train a detector, from SFT to the report.

    SFT, the GRPO stages, evaluation after each, report. The same command on an existing run directory goes on where
    it was.

    \b
    Examples:
      fxray train --config tiny
      fxray train -c configs/qwen2.5-vl-7b.yaml -d runs/7b -s data.train=train.parquet -s seed=1
      fxray train -c configs/qwen2.5-vl-7b.yaml -d s3://bucket/runs/7b
    """
    tree = checked_config(config, overrides)
    run = chosen_run(run_dir, config)
    with _shown(run) as (folder, on_event):
        from fxray.launch import phases  # takes seconds

        report = phases.train(tree, folder, on_event)
    show_report(report, within(run, report.page, folder))


def sft(config: ConfigOption, overrides: SetOption = None, run_dir: RunDirOption = None) -> None:
    """Supervised fine-tuning alone.

    \b
    Example:
      fxray sft --config tiny --run-dir runs/demo
    """
    tree = checked_config(config, overrides)
    run = chosen_run(run_dir, config)
    with _shown(run) as (folder, on_event):
        from fxray.launch import phases  # takes seconds

        adapter = phases.run_sft_phase(tree, folder, on_event)
    typer.echo(within(run, adapter, folder))


def grpo(
    config: ConfigOption,
    stage: Annotated[str, typer.Option("--stage", metavar="NAME", help="A stage of the schedule: alpha, beta, gamma.")],
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """One stage of GRPO alone.

    The phases before it must be done.

    \b
    Example:
      fxray grpo --config tiny --run-dir runs/demo --stage alpha
    """
    tree = checked_config(config, overrides)
    run = chosen_run(run_dir, config)
    with _shown(run) as (folder, on_event):
        from fxray.launch import phases  # takes seconds

        adapter = phases.run_grpo_stage(tree, folder, stage, on_event)
    typer.echo(within(run, adapter, folder))


@contextmanager
def _shown(run: str) -> "Iterator[tuple[Path, OnEvent]]":
    """The run's folder, and who is told of its progress; says where the run is, and when it stops that it can go on."""
    from fxray.cli.progress import show_progress
    from fxray.events import Note
    from fxray.remote import local_folder

    with show_progress(f"stopped; the same command goes on, `fxray status {run}` says from where") as on_event:
        on_event(Note(f"run directory {run}"))
        with local_folder(run, on_event) as folder:
            yield folder, on_event
