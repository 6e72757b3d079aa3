"""`fxray data agreement`: how far annotators of the same images agree."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import JsonOption
from fxray.cli.tables import number, print_table
from fxray.counts import counted

if TYPE_CHECKING:
    from fxray.data.agreement import Agreement, Mark


def agreement(
    files: Annotated[list[Path], typer.Argument(help="Dataset files, of one annotator each or of several.")],
    by_image: Annotated[
        bool, typer.Option("--by-image", help="Rows with the same image file belong together, whatever their ids.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far annotators of the same images agree: boxes by IoU, tags and labels by Krippendorff's alpha.

    Rows with the same sample_id belong together. A row without annotator counts as marked by its file's name,
    with its folder's before it where files share the name: two imports are `ana/dataset` and `ben/dataset`.

    \b
    Examples:
      fxray data agreement ana.parquet ben.parquet cleo.parquet
      fxray data agreement ana/dataset.parquet ben/dataset.parquet
      fxray data agreement export.parquet --by-image --json
    """
    from fxray.data.agreement import agree

    named = zip(files, _distinct_names(files), strict=True)
    result = agree(mark for file, name in named for mark in _marks(file, name, by_image=by_image))
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        _show_agreement(result)


def _distinct_names(files: Sequence[Path]) -> list[str]:
    """The files' names without endings, each with the folders before it that tell it from the others."""
    places = [file.absolute().with_suffix("").parts for file in files]

    def name(place: tuple[str, ...]) -> str:
        others = [other for other in places if other != place]
        depth = next(n for n in range(1, len(place) + 1) if all(other[-n:] != place[-n:] for other in others))
        return "/".join(place[-depth:])

    return [name(place) for place in places]


def _marks(file: Path, name: str, *, by_image: bool) -> "Iterator[Mark]":
    """What a file says, one image in memory at a time; `name` is who marked a row without annotator."""
    import hashlib

    from fxray.data.agreement import Mark
    from fxray.data.dataset import Dataset

    dataset = Dataset.open(file)
    for row, sample in enumerate(dataset.samples):
        image = hashlib.sha256(dataset.image_bytes(row)).hexdigest() if by_image else sample.sample_id
        size_px = sample.width_px, sample.height_px
        yield Mark(image, sample.annotator or name, size_px, sample.annotation, f"{file} row {row}")


def _show_agreement(result: "Agreement") -> None:
    from rich.table import Table

    table = Table(title="Pairs of annotators", title_justify="left")
    table.add_column("annotators")
    for label in ("images", "box IoU", "same tags"):
        table.add_column(label, justify="right")
    for pair in result.pairs:
        names = " and ".join(pair.annotators)
        table.add_row(names, str(pair.num_images), number(pair.box_iou), f"{pair.same_tags_frac:.1%}")
    print_table(table)
    typer.echo(f"{counted(result.num_images, 'image')} with several annotators, {result.num_single} with one")
    typer.echo(f"box IoU {number(result.box_iou)}")
    typer.echo(f"Krippendorff's alpha: tags {number(result.tag_alpha)}, label {number(result.label_alpha)}")
    for tag, alpha in result.alpha_by_tag.items():
        typer.echo(f"  {tag.value}: {number(alpha)}")
    typer.echo("(– where the marks do not vary)")
