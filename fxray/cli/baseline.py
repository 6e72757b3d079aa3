"""`fxray baseline`: other detectors, fitted and scored on one's own data."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import MAX_SEED, BootstrapOption, JsonOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fxray.baselines.ports import Size
    from fxray.baselines.registry import Entry
    from fxray.report.paper_table import PaperTable

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Fit and score other detectors on your data.")


@app.callback()
def baseline() -> None:
    """Other detectors to compare with."""


@app.command("list")
def show_list(as_json: JsonOption = False) -> None:
    """List the baselines.

    \b
    Examples:
      fxray baseline list
      fxray baseline list --json
    """
    from fxray.baselines.registry import BASELINES

    if as_json:
        import json
        from dataclasses import asdict

        present = [{k: v for k, v in asdict(entry).items() if k != "place"} for entry in BASELINES]
        typer.echo(json.dumps({"baselines": present}, indent=2))
        return
    from rich.table import Table

    from fxray.cli.tables import print_table

    table = Table(title="Baselines", title_justify="left")
    for column in ("name", "paper", "what it sees", "boxes", "--weights takes"):
        table.add_column(column)
    for entry in BASELINES:
        table.add_row(entry.name, entry.source, entry.sees, "yes" if entry.has_masks else "no", entry.weights or "–")
    print_table(table)
    typer.echo("`fxray evaluate --predictions` scores what others say, whoever runs them.")


@app.command()
def run(
    train: Annotated[Path, typer.Option(metavar="FILE", help="Parquet file to fit on.")],
    test: Annotated[Path, typer.Option(metavar="FILE", help="Parquet file to answer, of other sources.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Predictions, records and the table.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="See `fxray baseline list`; without: all."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of weights, order, crops and resamples.")] = 0,
    device: Annotated[str, typer.Option(help="As torch names it: cpu, cuda:0.")] = "cpu",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training images; by default the baseline's own number.")
    ] = None,
    size: Annotated[str, typer.Option(help="Of networks: small (two cores fit it), or published.")] = "small",
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="What a baseline starts from, on this machine. May be repeated."),
    ] = None,
    num_bootstrap: BootstrapOption = 1000,
) -> None:
    """Fit baselines, let them answer the test set, and write a table of all with intervals.

    The threshold is chosen on a fifth of the training set that shares no source with the rest. Each baseline runs in a
    process of its own: one that fails does not stop the others. The same command again goes on with those that are
    missing. docs/baselines.md says what each one is.

    \b
    Examples:
      fxray baseline run --train train.parquet --test test.parquet --out baselines
      fxray baseline run npr segformer --train a.parquet --test b.parquet --out big --device cuda:0 --size published
      fxray baseline run linear-probe --weights linear-probe=clip-vit-l14 --train a.parquet --test b.parquet --out probe
    """
    from fxray.baselines.ports import Settings
    from fxray.baselines.registry import find
    from fxray.baselines.run import run_baselines
    from fxray.baselines.table import write_baselines
    from fxray.cli.progress import show_progress
    from fxray.versions import versions

    wanted_size = chosen_size(size, "--size")
    given = _weights(weights or [])
    entries = find(names or [], with_weights=given)
    _refuse_what_none_takes(entries, {"size": size, "epochs": epochs, "device": device})
    with show_progress() as on_event:
        outcome = run_baselines(
            entries,
            Settings(seed, device, epochs, wanted_size),
            given,
            train=train,
            test=test,
            out=out,
            versions=versions(),
            on_event=on_event,
        )
    if outcome.records:
        _print(out, write_baselines(out, outcome.records, test, num_bootstrap=num_bootstrap, seed=seed))
    for name, error in outcome.failures.items():
        typer.echo(f"error: {name}: {error}", err=True)
    if outcome.failures:
        raise typer.Exit(1)


def chosen_size(given: str, option: str) -> "Size":
    """A size of networks.

    Raises:
        typer.BadParameter: There is no such size.
    """
    from fxray.baselines.ports import SIZES

    for size in SIZES:
        if size == given:
            return size
    raise typer.BadParameter(f"{option} {given}: expected one of {', '.join(SIZES)}")


def _refuse_what_none_takes(entries: "Sequence[Entry]", options: "Mapping[str, object]") -> None:
    """Keeps an option from being given to baselines that it makes no difference to."""
    from fxray.baselines.ports import Settings

    for name, value in options.items():
        is_given = value != getattr(Settings(seed=0), name)
        if is_given and not any(name in entry.takes for entry in entries):
            names = ", ".join(entry.name for entry in entries)
            raise typer.BadParameter(f"--{name} {value} makes no difference to {names}: leave it out")


def _weights(given: list[str]) -> dict[str, Path]:
    """NAME=PATH pairs by name, which are of baselines."""
    from fxray.baselines.registry import find

    pairs = [each.partition("=") for each in given]
    for place, (name, _, path) in enumerate(pairs):
        if not name or not path:
            raise typer.BadParameter(f"--weights {name}: expected NAME=PATH")
        if name in [before for before, _, _ in pairs[:place]]:
            raise typer.BadParameter(f"--weights {name} is given twice: a baseline starts from one")
    find([name for name, _, _ in pairs])
    return {name: Path(os.path.expanduser(path)) for name, _, path in pairs}  # noqa: PTH111 - of nobody: as it stands


def _print(out: Path, written: "PaperTable") -> None:
    from rich.table import Table

    from fxray.cli.tables import print_table

    table = Table(title="Baselines", caption="\n".join(written.notes), title_justify="left", caption_justify="left")
    for column in written.header:
        table.add_column(column)
    for row in written.rows:
        table.add_row(row.title, *row.cells)
    print_table(table)
    typer.echo(str(out / "baselines.md"))
