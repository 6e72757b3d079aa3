"""`fxray data import`: from a tool's export to a dataset."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.all_cores import on_all_cores
from fxray.counts import counted
from fxray.data.formats.catalogue import help_table

if TYPE_CHECKING:
    from fxray.data.import_job import Summary

SHOWN_FINDINGS = 10
HELP = f"""Make a dataset of a tool's annotations.

Images are kept once each, under the name of their checksum. Rows that cannot be read are listed in findings.jsonl with
file, row, field, value and reason; the others are imported, and the exit code is 0 unless --strict. An interrupted
import goes on when it is run again. A large one runs on all cores by Ray.

\b
Formats, what to name as SRC, the raster their boxes lie in, and what they carry:
{help_table()}

"stored" is the raster as it lies in the image file, "displayed" the upright image, EXIF orientation applied.

\b
Examples:
  fxray data import folders photos/ datasets/photos
  fxray data import coco export/instances.json datasets/flaws --images export/images --label generated
  fxray data import mapping archive.json datasets/mine --mapping layout.yaml --strict
"""


class FrameChoice(StrEnum):
    """Raster of the boxes."""

    STORED = "stored"
    DISPLAYED = "displayed"


class UnitChoice(StrEnum):
    """Unit of the boxes."""

    PIXELS = "pixels"
    PERCENT = "percent"
    PERMILLE = "permille"
    FRACTION = "fraction"


class LabelChoice(StrEnum):
    """Label of rows that have none."""

    REAL = "real"
    GENERATED = "generated"


def import_(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="Name of a format.")],
    src: Annotated[Path, typer.Argument(metavar="SRC", help="File or folder of annotations.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="New folder for dataset.parquet and images/.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the images; by default that of SRC.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML that says where fields are, for the format mapping.")
    ] = None,
    boxes_frame: Annotated[
        FrameChoice | None, typer.Option(help="Raster of the boxes, if not the format's own.")
    ] = None,
    boxes_unit: Annotated[
        UnitChoice | None, typer.Option(help="Unit of the boxes: pixels, or parts of a side in 100, 1000 or 1.")
    ] = None,
    label: Annotated[LabelChoice | None, typer.Option(help="Label of rows that have none.")] = None,
    generator: Annotated[str | None, typer.Option(help="Generator of generated rows that have none.")] = None,
    category: Annotated[str | None, typer.Option(help="Category of rows that have none.")] = None,
    source: Annotated[str | None, typer.Option(help="Source of rows that have none; by default each its own.")] = None,
    id_prefix: Annotated[
        str, typer.Option(metavar="TEXT", help="Stands before all ids, where another import has the same names.")
    ] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Refuse the whole if one row cannot be read.")] = False,
) -> None:
    from fxray.cli.progress import show_progress
    from fxray.data.formats import catalogue
    from fxray.data.formats.mapping import load_mapping
    from fxray.data.imports import import_dataset
    from fxray.data.rows import Reading
    from fxray.schema import Verdict

    found = catalogue.find(form)
    folder = _images_folder(form, src, images, mapping)
    layout = load_mapping(mapping) if mapping is not None else None
    reading = Reading(
        frame=boxes_frame.value if boxes_frame else (layout or found).frame,
        unit=boxes_unit.value if boxes_unit else None,
        label=Verdict(label.value) if label else None,
        generator=generator,
        category=category,
        source=source,
        id_prefix=id_prefix,
    )
    with show_progress() as on_event:
        summary = import_dataset(
            found,
            src,
            dst,
            images=folder,
            reading=reading,
            is_strict=strict,
            on_event=on_event,
            layout=layout,
            all_cores=on_all_cores,
        )
    _show(dst, summary)


def _images_folder(form: str, src: Path, images: Path | None, mapping: Path | None) -> Path:
    """Checks that the arguments fit one another and are there; gives the folder that image names are relative to."""
    from fxray.errors import ConfigError, DataError

    if (mapping is None) == (form == "mapping"):
        raise ConfigError("--mapping goes with the format mapping, and only with it", remedy="see docs/data-formats.md")
    if not src.exists():
        raise DataError("no such file or folder", where=str(src), remedy="check the path")
    folder = images or (src if src.is_dir() else src.parent)
    if not folder.is_dir():
        raise DataError("no such folder", where=f"--images {folder}", remedy="check the path")
    return folder


def _show(dst: Path, summary: Summary) -> None:
    """Says on stderr what came of it, and on stdout where the dataset is."""
    mib = summary.num_image_bytes / 2**20
    words = [f"{counted(summary.num_rows, 'row')}, {counted(summary.num_images, 'image')} ({mib:.1f} MiB)"]
    if summary.num_refused:
        words.append(f"{counted(summary.num_refused, 'entry', 'entries')} cannot be read")
    if summary.num_warnings:
        words.append(counted(summary.num_warnings, "warning"))
    typer.echo("; ".join(words), err=True)
    if summary.num_refused or summary.num_warnings:
        from fxray.data.import_job import FINDINGS, first_findings

        for finding in first_findings(dst / FINDINGS, SHOWN_FINDINGS):
            typer.echo(f"  {'warning' if finding.is_warning else 'refused'}: {finding}", err=True)
        if summary.num_refused + summary.num_warnings > SHOWN_FINDINGS:
            typer.echo(f"  all of them: {dst / FINDINGS}", err=True)
    typer.echo(dst / "dataset.parquet")
