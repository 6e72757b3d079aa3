"""`fxray data select`: the best rated images of each category and generator."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import JsonOption
from fxray.cli.tables import print_table
from fxray.counts import counted

if TYPE_CHECKING:
    from fxray.data.ratings import Cell

MAX_CELLS = 40
"""Categories and generators of the table of what was selected."""


def select(
    data: Annotated[Path, typer.Argument(help="Dataset file with the rated images.")],
    ratings: Annotated[Path, typer.Argument(help="CSV file with the columns sample_id, rater, rating.")],
    out: Annotated[Path, typer.Argument(help="Dataset file to write.", dir_okay=False)],
    top: Annotated[int, typer.Option(min=1, help="Images to keep of each category and generator.")],
    per_image: Annotated[int, typer.Option("--ratings", min=1, help="Ratings that each image must have.")] = 3,
    scale: Annotated[
        tuple[float, float] | None, typer.Option(metavar="LOW HIGH", help="Refuse ratings outside.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the lot that settles equal ratings.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Keep the best rated generated images of each category and generator; real images all stay.

    Images are ranked by mean rating, then by lowest rating, then by lot.

    \b
    Example:
      fxray data select generated.parquet ratings.csv screened.parquet --top 1 --scale 1 5
    """
    from fxray.cli.progress import show_progress
    from fxray.data.dataset import Dataset
    from fxray.data.ratings import choose, read_ratings
    from fxray.data.subset import write_subset
    from fxray.events import Step
    from fxray.schema import Verdict

    if scale and scale[0] >= scale[1]:
        raise typer.BadParameter(f"--scale {scale[0]:g} {scale[1]:g}: LOW must be less than HIGH")
    if out.exists() and out.resolve() == data.resolve():
        raise typer.BadParameter("OUT is DATA; name another file")
    dataset = Dataset.open(data)
    generated = frozenset(s.sample_id for s in dataset.samples if s.annotation.verdict is Verdict.GENERATED)
    given = read_ratings(ratings, generated, per_image=per_image, scale=scale)
    rows, cells = choose(dataset.samples, given, top=top, seed=seed)
    with show_progress() as on_event:
        write_subset(dataset, rows, out, lambda done, total: on_event(Step("select", done, total)))
    num_kept, num_real = sum(cell.num_kept for cell in cells), len(dataset.samples) - len(generated)
    if as_json:
        kept = [dataset.samples[row].sample_id for row in rows]
        typer.echo(json.dumps({"num_rated": len(given), "num_kept": num_kept, "num_real": num_real, "kept": kept}))
        return
    _show_cells(cells)
    typer.echo(f"{num_kept} of {counted(len(given), 'rated image')} kept, {num_real} real ones with them: {out}")


def _show_cells(cells: "Sequence[Cell]") -> None:
    from rich.table import Table

    table = Table(title="Kept by category and generator", title_justify="left")
    table.add_column("category")
    table.add_column("generator")
    for label in ("rated", "kept", "lowest mean kept"):
        table.add_column(label, justify="right")
    for cell in cells[:MAX_CELLS]:
        table.add_row(cell.category, cell.generator, str(cell.num_rated), str(cell.num_kept), f"{cell.lowest_kept:.2f}")
    print_table(table)
    if len(cells) > MAX_CELLS:
        typer.echo(f"and {counted(len(cells) - MAX_CELLS, 'more pair', 'more pairs')} of category and generator")
