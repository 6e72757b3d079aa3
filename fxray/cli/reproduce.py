"""`fxray reproduce`: the paper's tables with a detector of one's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import ConfigOption, SetOption
from fxray.cli.baseline import chosen_size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from fxray.experiments.experiment import Experiment
    from fxray.experiments.reproduce import Result
    from fxray.experiments.trainings import Setting

ALL = "all"


def reproduce(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="table2, ..., table7, figure3, ..., a YAML file of one's own, or all."),
    ],
    config: ConfigOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Data, trainings and tables.")],
    overrides: SetOption = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Parquet file of an outside data set: 4o=4o.parquet. May be repeated."),
    ] = None,
    baselines: Annotated[
        str, typer.Option(help="Networks of rows of other detectors: small (two cores fit them), or published.")
    ] = "small",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what is there and what is missing.")] = False,
    max_concurrent: Annotated[
        int, typer.Option("--max-concurrent", metavar="N", min=1, help="Trainings at once, each a Ray job of its own.")
    ] = 1,
) -> None:
    """Train and measure the rows of the paper's tables.

    Every row is a training in a run directory of its own below DIR/runs, or a part or a measurement of one; rows share
    data, SFT and trainings where their settings allow. Tables with intervals and paired differences, the paper's
    numbers in grey beside them: Markdown, LaTeX, CSV, JSON, HTML. The same command goes on where it was. A training
    that fails is told in the table, the others go on, and the exit code is 1. What each table is: docs/experiments.md.

    \b
    Examples:
      fxray reproduce table4 --config tiny --out runs/paper --dry-run
      fxray reproduce table2 table4 table5 --config tiny --out runs/paper
      fxray reproduce table3 -c qwen2.5-vl-7b --out runs/paper --ood 4o=4o.parquet --ood ff++=ff.parquet
      fxray reproduce table2 -c qwen2.5-vl-7b --out runs/7b -s ray.address=auto --max-concurrent 4
    """
    from fxray.config.load import load_config
    from fxray.experiments.experiment import load_experiment, shipped_experiments

    chosen = list(dict.fromkeys(n for name in names for n in (shipped_experiments() if name == ALL else [name])))
    stems = [Path(name).stem for name in chosen]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise typer.BadParameter(f"two experiments would both write to {out / twice[0]}: give one file another name")
    experiments = {stem: load_experiment(name) for stem, name in zip(stems, chosen, strict=True)}
    outside, size = _outside(ood or [], experiments), chosen_size(baselines, "--baselines")
    load_config(config, overrides or ())  # what is wrong with it is told before heavy imports
    from fxray.experiments.trainings import Setting

    setting = Setting(lambda more: load_config(config, [*(overrides or ()), *more]), out, outside, size)
    experiments = _possible(experiments, setting, {Path(name).stem for name in names})
    if dry_run:
        for name, experiment in experiments.items():
            _print_plan(name, experiment, setting)
        return
    from fxray.cli.progress import show_progress
    from fxray.experiments.reproduce import reproduce as work

    with show_progress("stopped; the same command goes on") as on_event:
        results = work(experiments, setting, on_event, max_concurrent=max_concurrent)
    _show(results.values())
    if any(result.failures for result in results.values()):
        raise typer.Exit(1)


def _show(results: "Iterable[Result]") -> None:
    from fxray.cli.tables import print_paper_table

    for result in results:
        for table in result.tables:
            print_paper_table(table)
        typer.echo(result.folder)


def _possible(
    experiments: dict[str, "Experiment"], setting: "Setting", named: "Collection[str]"
) -> dict[str, "Experiment"]:
    """Those that are named, and those of `all` that the data allow; why another one is left out is told."""
    from fxray.errors import ConfigError
    from fxray.experiments.data import fold_names

    found = {}
    for name, experiment in experiments.items():
        try:
            if experiment.split is not None and name not in named:
                fold_names(experiment.split, setting.configure(()))
            found[name] = experiment
        except ConfigError as error:
            typer.echo(f"{name} is left out: {error.message}", err=True)
    return found


def _outside(options: list[str], experiments: dict[str, "Experiment"]) -> dict[str, Path]:
    known = sorted({name for experiment in experiments.values() for name in experiment.outside})
    found = {}
    for option in options:
        name, equals, file = option.partition("=")
        if not (name and equals and file):
            raise typer.BadParameter(f"--ood {option}: expected NAME=FILE, such as 4o=4o.parquet")
        if not Path(file).is_file():
            raise typer.BadParameter(f"--ood {option}: there is no file {file}")
        if name not in known:
            hint = f"expected one of {', '.join(known)}" if known else "these experiments ask about none"
            raise typer.BadParameter(f"--ood {option}: no column is about a data set {name}; {hint}")
        if name in found:
            raise typer.BadParameter(f"--ood {name} is given twice: one file is one data set")
        found[name] = Path(file)
    return found


def _print_plan(name: str, experiment: "Experiment", setting: "Setting") -> None:
    from rich.table import Table

    from fxray.cli.tables import print_table
    from fxray.experiments.plan import plan

    table = Table("row", "training", "state", "GRPO steps", title=f"{name}: {experiment.title}", title_justify="left")
    for row in plan(experiment, setting):
        table.add_row(row.title, row.training, row.state, "–" if row.num_steps is None else str(row.num_steps))
    print_table(table)
