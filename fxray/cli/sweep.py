"""`fxray sweep`: settings as data, trained with several seeds each, compared on the validation split."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import ConfigOption, SetOption

if TYPE_CHECKING:
    from fxray.sweep.file import SweepFile
    from fxray.sweep.results import Base


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file: fields, values, seeds, metric.")],
    config: ConfigOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Data, trials and results.")],
    overrides: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check and list the trials.")] = False,
    max_concurrent: Annotated[
        int, typer.Option("--max-concurrent", metavar="N", min=1, help="Trials at once, or settings with ASHA.")
    ] = 1,
) -> None:
    """Train settings with several seeds each, and find the best on the validation split.

    Every setting and seed is a run directory below DIR/trials; all are checked before the first begins, and those that
    share everything before GRPO share their SFT. Ray Tune runs them; ASHA may stop settings that fall behind. Tables,
    a figure, and the best setting as DIR/best.yaml, which `fxray train --config` takes. The same command goes on where
    it was. A trial that fails is told in the table, the others go on, and the exit code is 1. docs/experiments.md.

    \b
    Examples:
      fxray sweep configs/sweeps/tiny.yaml --config tiny --out runs/sweep --dry-run
      fxray sweep configs/sweeps/tiny.yaml --config tiny --out runs/sweep
      fxray sweep mine.yaml -c qwen2.5-vl-7b --out runs/7b-sweep -s ray.address=auto --max-concurrent 4
    """
    from fxray.config.load import load_config
    from fxray.sweep.file import load_sweep

    asked = load_sweep(file)
    given = tuple(overrides or ())
    load_config(config, given)  # what is wrong with it is told before heavy imports
    from fxray.sweep.results import Base

    base = Base(config, given, lambda more, above: load_config(config, [*given, *more], above), out)
    if dry_run:
        _print_plan(asked, base)
        return
    from fxray.cli.progress import show_progress
    from fxray.cli.tables import print_paper_table
    from fxray.sweep.sweep import sweep as work

    with show_progress("stopped; the same command goes on") as on_event:
        result = work(asked, base, max_concurrent=max_concurrent, on_event=on_event)
    print_paper_table(result.table)
    typer.echo(out / "sweep.html")
    if result.undone:
        raise typer.Exit(1)


def trial(config: Path, run_dir: Path, phase: Annotated[str, typer.Argument()] = "") -> None:
    """Bring a training to a phase, or to its end; `fxray sweep` and `fxray reproduce` hold its standard input open."""
    from fxray.config.load import load_config
    from fxray.launch.apart import end_with_parent

    end_with_parent()
    tree = load_config(config)
    from fxray.cli.progress import show_progress
    from fxray.launch import phases

    with show_progress() as on_event:
        if phase:
            phases.train_until(tree, run_dir, phase, on_event)
        else:
            phases.train(tree, run_dir, on_event)


def _print_plan(asked: "SweepFile", base: "Base") -> None:
    from rich.table import Table

    from fxray.cli.progress import show_progress
    from fxray.cli.tables import print_table
    from fxray.sweep.sweep import plan

    with show_progress() as on_event:
        planned = plan(asked, base, on_event)
    table = Table("trial", "setting", "state", "GRPO steps", title=asked.sweep.title, title_justify="left")
    for row in planned:
        table.add_row(row.name, row.title, row.state, "–" if row.num_steps is None else str(row.num_steps))
    print_table(table)
