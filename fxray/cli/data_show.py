"""`fxray data show`: what is marked on the images of a dataset, drawn onto them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from PIL import Image

    from fxray.data.dataset import Dataset

MAX_PANELS = 100
PANEL_SIDE_PX, PANEL_ENLARGED_PX = 448, 600
SINGLE_SIDE_PX = 2048
OTHER_PICTURES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def show(
    data: Annotated[Path, typer.Argument(help="Dataset file.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="PNG file of the sheet or of one --id; a folder where --id is several."),
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="Draw this image, large. May be repeated.")
    ] = None,
    num: Annotated[int, typer.Option(min=1, max=MAX_PANELS, help="Images on the sheet, drawn at random.")] = 24,
    columns: Annotated[int, typer.Option(min=1, max=12, help="Columns of the sheet.")] = 6,
    generator: Annotated[str | None, typer.Option(metavar="NAME", help="Only images of this generator.")] = None,
    annotator: Annotated[str | None, typer.Option(metavar="NAME", help="Only images that they marked.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw; another seed shows other images.")] = 0,
) -> None:
    """Draw boxes, numbered captions and tags onto images: a contact sheet, or single images.

    An image that cannot be read gets a panel that says why; the exit code is then 1.

    \b
    Examples:
      fxray data show train.parquet --out sheet.png
      fxray data show train.parquet --generator flux --num 12 --seed 2
      fxray data show train.parquet --id train-000004 --id train-000007 --out drawn
    """
    from fxray.data.dataset import Dataset

    if out is not None:
        _check_out(out, num_ids=len(ids or ()))
    dataset = Dataset.open(data)
    faults: list[str] = []
    if ids:
        place = out or Path(f"{data.stem}-drawn")
        for path in _draw_single(dataset, _rows_of(dataset, ids), place, faults):
            typer.echo(path)
    else:
        path = out or Path(f"{data.stem}.png")
        rows = _drawn_rows(dataset, num, seed, generator=generator, annotator=annotator)
        _draw_sheet(dataset, rows, path, columns, faults)
        typer.echo(path)
    for fault in faults:
        typer.echo(f"not drawn: {fault}", err=True)
    raise typer.Exit(1 if faults else 0)


def _check_out(out: Path, *, num_ids: int) -> None:
    """Sees to it that a sheet goes into a PNG file, one image into such a file or a folder, and several into a folder.

    Raises:
        BadParameter: It would not.
    """
    is_png = _is_png(out)
    is_other = out.suffix.lower() in OTHER_PICTURES and not out.is_dir()
    if (num_ids == 0 and not is_png) or is_other:
        fits = "a file, not a folder" if out.is_dir() else f"a PNG; name it so: {out.with_suffix('.png')}"
        raise typer.BadParameter(f"--out {out}: {'a drawing' if num_ids else 'the sheet'} is {fits}")
    if (num_ids > 1 and is_png) or (num_ids and not is_png and out.is_file()):
        raise typer.BadParameter(f"--out {out}: images by --id go into a folder, a single one also into a PNG file")


def _is_png(path: Path) -> bool:
    """Whether a place is for one drawing; any other is a folder."""
    return path.suffix.lower() == ".png" and not path.is_dir()


def _rows_of(dataset: "Dataset", ids: Sequence[str]) -> list[int]:
    import difflib

    from fxray.errors import DataError

    places = {sample.sample_id: row for row, sample in enumerate(dataset.samples)}
    for sample_id in ids:
        if sample_id not in places:
            near = difflib.get_close_matches(sample_id, places, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"ids look like {dataset.samples[0].sample_id!r}"
            raise DataError(f"no sample {sample_id!r}", where=str(dataset.path), remedy=remedy)
    return [places[sample_id] for sample_id in ids]


def _drawn_rows(dataset: "Dataset", num: int, seed: int, *, generator: str | None, annotator: str | None) -> list[int]:
    """Some of the rows that pass, in the order of the file."""
    from fxray.data.strata import by_luck
    from fxray.errors import DataError

    passing = [
        (row, sample.sample_id)
        for row, sample in enumerate(dataset.samples)
        if generator in (None, sample.generator) and annotator in (None, sample.annotator)
    ]
    if not passing:
        generators = {sample.generator for sample in dataset.samples}
        annotators = {sample.annotator for sample in dataset.samples if sample.annotator}
        is_known = generator is None or generator in generators
        kind, names = ("annotators", annotators) if is_known else ("generators", generators)
        has_none = annotator is not None and not annotators
        raise DataError(
            f"no image of generator {generator or 'any'} and annotator {annotator or 'any'}",
            where=str(dataset.path),
            remedy="no row says who marked it; leave --annotator out"
            if has_none
            else f"{kind} here are {', '.join(sorted(names)[:20])}",
        )
    return sorted(row for row, _ in by_luck(passing, seed)[:num])


def _draw_sheet(dataset: "Dataset", rows: Sequence[int], path: Path, columns: int, faults: list[str]) -> None:
    from fxray.draw import contact_sheet
    from fxray.files import atomic_path

    sheet = contact_sheet((_panel(dataset, row, PANEL_SIDE_PX, faults) for row in rows), columns)
    with atomic_path(path) as aside:
        sheet.save(aside, "PNG")


def _draw_single(dataset: "Dataset", rows: Sequence[int], place: Path, faults: list[str]) -> Iterator[Path]:
    """Draws images one by one, a single one into the file that is named, others into a folder."""
    from fxray.files import atomic_path

    for row in rows:
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in dataset.samples[row].sample_id).lstrip(".")
        path = place if _is_png(place) else place / f"{row:06d}-{name[:80]}.png"
        panel = _panel(dataset, row, SINGLE_SIDE_PX, faults)
        with atomic_path(path) as aside:
            panel.save(aside, "PNG")
        yield path


def _panel(dataset: "Dataset", row: int, max_side_px: int, faults: list[str]) -> "Image.Image":
    """One image with its marks; the image itself is forgotten afterwards."""
    from fxray.data.images import decode_image
    from fxray.draw import draw_annotation, draw_notice, fitted
    from fxray.errors import DataError

    sample = dataset.samples[row]
    where = f"{dataset.path} row {row} (sample {sample.sample_id!r})"
    try:
        image = decode_image(dataset.image_bytes(row), where)
        if image.size != (sample.width_px, sample.height_px):
            raise DataError(
                f"image is {image.width}x{image.height} px, its row says {sample.width_px}x{sample.height_px}",
                where=where,
            )
    except DataError as error:
        faults.append(f"{error.where}: {error.message}")
        return draw_notice(sample.sample_id, error.message)
    image, regions = fitted(image, sample.annotation.regions, max_side_px)
    made_by = f"{sample.sample_id}, {sample.generator}" if sample.generator != "real" else sample.sample_id
    heading = f"{made_by}, by {sample.annotator}" if sample.annotator else made_by
    return draw_annotation(
        image,
        heading=heading,
        verdict=sample.annotation.verdict,
        regions=regions,
        tags=sample.annotation.tags,
        max_enlarged_height_px=max(max_side_px, PANEL_ENLARGED_PX),
    )
