"""Imports of any size: small ones in this process, large ones on all cores."""

import hashlib
import os
import time
from pathlib import Path
from typing import get_args

from fxray.data.formats.catalogue import Format, reader
from fxray.data.formats.location import Images
from fxray.data.formats.mapping import Layout, read_mapped
from fxray.data.formats.record import Rows
from fxray.data.formats.stream import Suffix
from fxray.data.import_job import RECORDS_PER_PART, ImportJob, Summary
from fxray.data.parts import ALONE_S, AllCores, each_part
from fxray.data.rows import Reading
from fxray.errors import ConfigError
from fxray.events import OnEvent, PhaseDone, PhaseStarted, Step

_OF_ANNOTATIONS = frozenset(get_args(Suffix))


def import_dataset(
    form: Format,
    src: Path,
    dst: Path,
    *,
    images: Path,
    reading: Reading,
    is_strict: bool,
    on_event: OnEvent,
    layout: Layout | None = None,
    all_cores: AllCores | None = None,
    alone_s: float = ALONE_S,
) -> Summary:
    """Imports annotations and images into a folder; an interrupted import goes on where it was.

    Args:
        form: The format.
        src: File or folder of annotations.
        dst: A new folder; on a cluster one that all nodes see.
        images: Folder that image names are relative to.
        reading: How records are read.
        is_strict: Whether one unreadable row refuses the whole.
        on_event: Is told how it goes.
        layout: What the mapping file says, for the format `mapping`.
        all_cores: What takes over where this process alone would be slow.
        alone_s: Seconds beyond which it does.

    Raises:
        ConfigError: The folder holds something else, or lies inside the source.
        DataError: The source cannot be read, has no readable row, or `is_strict` and some cannot be read.
    """
    if src.is_dir() and dst.resolve().is_relative_to(src.resolve()):
        raise ConfigError(
            "lies inside the folder that is read",
            where=str(dst),
            remedy=f"name a folder outside {src}; nothing was changed",
        )
    src, dst, images = src.absolute(), dst.absolute(), images.absolute()  # for processes that start elsewhere
    job = ImportJob(dst, plan(form, src, images, reading) | {"layout": layout and layout.model_dump(mode="json")})

    def read() -> Rows:
        return read_mapped(src, Images(images), layout) if layout else reader(form)(src, Images(images))

    num_parts = job.read(read, on_event)
    missing = job.missing_parts(num_parts)
    start_s = time.monotonic()
    on_event(PhaseStarted("convert", num_parts, num_parts - len(missing)))

    def convert(number: int) -> bytes:
        job.convert(number, reading)
        return b""

    converted = each_part(convert, missing, all_cores=all_cores, alone_s=alone_s)
    for done, _ in enumerate(converted, num_parts - len(missing) + 1):
        on_event(Step("convert", done, num_parts))
    on_event(PhaseDone("convert", time.monotonic() - start_s))
    return job.land(num_parts, is_strict=is_strict, on_event=on_event)


def plan(form: Format, src: Path, images: Path, reading: Reading) -> dict[str, object]:
    """What decides an import's outcome, as JSON holds it."""
    return {
        "format": form.name,
        "source": str(src.resolve()),
        "source_state": _state(src),
        "images": str(images.resolve()),
        "records_per_part": RECORDS_PER_PART,
        "reading": {name: getattr(reading, name) for name in Reading.__slots__},
    }


def _state(src: Path) -> str:
    """A checksum that changes with a file of annotations and with those below a folder, as far as `stat` tells it.

    Of other files below a folder, as images, the names count: readers look for them, and labels may be in their paths.
    """
    state = hashlib.sha256()
    for folder, folders, names in os.walk(src) if src.is_dir() else [(str(src.parent), list[str](), [src.name])]:
        folders.sort()
        for file in (Path(folder, name) for name in sorted(names)):
            name = os.path.relpath(file, src)
            if file == src or file.suffix.lower() in _OF_ANNOTATIONS:
                status = file.stat() if file.exists() else None
                state.update(os.fsencode(f"{name}\0{status and (status.st_size, status.st_mtime_ns)}\0"))
            elif "/." not in f"/{name}":  # tools leave hidden files of their own
                state.update(os.fsencode(f"{name}\0"))
    return state.hexdigest()
