"""The formats by name: what each carries, and in which raster its boxes lie.

Reading this table imports no reader, so that a command's help can show it at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from fxray.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fxray.data.exported import Exported
    from fxray.data.formats.location import Images
    from fxray.data.formats.record import Frame, Rows


@dataclass(frozen=True, slots=True)
class Format:
    """A format.

    Attributes:
        name: On the command line.
        source: What to name as the source.
        frame: Raster of its boxes, as the tool that writes it has it.
        carries: What can be read from it beside images.
        module: Module below `fxray.data.formats` with `read`.
        is_written: Whether its module also has `write`.
    """

    name: str
    source: str
    frame: Frame
    carries: str
    module: str
    is_written: bool = False


_ALL = "boxes, captions, tags, label, generator, category, source"
FORMATS = {
    form.name: form
    for form in (
        Format("swift", "ms-swift JSONL", "stored", _ALL, "swift", is_written=True),
        Format("coco", "COCO JSON", "displayed", _ALL, "coco", is_written=True),
        Format("labelstudio", "Label Studio JSON", "displayed", _ALL, "labelstudio", is_written=True),
        Format("huggingface", "folder of Parquet files", "displayed", _ALL, "huggingface", is_written=True),
        Format("labelme", "LabelMe JSON, file or folder", "displayed", "boxes, captions, tags, label", "labelme"),
        Format("cvat", "CVAT XML 1.1 for images", "displayed", "boxes, captions, tags, label", "cvat"),
        Format("via", "VIA 2 JSON or project", "displayed", "boxes, captions, tags, label", "via"),
        Format("voc", "Pascal VOC XML, file or folder", "displayed", "boxes, captions", "voc"),
        Format("qwen", "Qwen bbox_2d JSON or JSONL", "stored", "boxes, captions, tags, label", "qwen"),
        Format("synthscars", "SynthScars JSON", "stored", "boxes, captions; all generated", "synthscars"),
        Format("manifest", "CSV, JSON or JSONL list", "displayed", _ALL, "manifest"),
        Format("folders", "folder with real/ and fake/", "displayed", "label, generator", "folders"),
        Format("mapping", "any JSON, by --mapping FILE", "displayed", _ALL, "mapping"),
    )
}


class Reader(Protocol):
    """`read` of a format's module."""

    def __call__(self, src: Path, images: Images) -> Rows: ...


class Writer(Protocol):
    """`write` of a format's module."""

    def __call__(self, rows: Iterator[Exported], dst: Path, *, has_predictions: bool) -> Path: ...


def find(name: str, *, to_write: bool = False) -> Format:
    """The format of a name.

    Raises:
        ConfigError: There is none, or it is only read.
    """
    known = [form.name for form in FORMATS.values() if form.is_written or not to_write]
    if name not in known:
        verb = "written" if to_write else "read"
        raise ConfigError(
            f"format {name!r}, expected one that is {verb}: {', '.join(known)}",
            remedy="see `fxray data import --help`",
        )
    return FORMATS[name]


def reader(form: Format) -> Reader:
    """The reader of a format."""
    return cast(Reader, import_module(f"fxray.data.formats.{form.module}").read)


def writer(form: Format) -> Writer:
    """The writer of a format that has one."""
    return cast(Writer, import_module(f"fxray.data.formats.{form.module}").write)


def help_table(*, to_write: bool = False) -> str:
    """The formats as lines of text, for a command's help."""
    rows = [form for form in FORMATS.values() if form.is_written or not to_write]
    return "\n".join(f"  {form.name:<12} {form.source:<31} {form.frame:<10} {form.carries}" for form in rows)
