"""Which files are examined: what the paths on a command line stand for."""

import glob
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from fxray.detect.manifest import MANIFEST_SUFFIXES, paths_in

STDIN = "-"
_NOT_READ = {".heic", ".heif", ".svg", ".dng", ".nef", ".arw", ".cr2", ".cr3", ".orf", ".raf", ".rw2"}
"""Are listed all the same: that an image was not examined is better said than left out."""
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


def files_of(paths: Sequence[str], stdin: BinaryIO | None = None, leave_out: Path | None = None) -> list[str]:
    """The files that are examined, each once, in the order in which they were named.

    Args:
        paths: Each a file, a folder, a glob, a manifest (CSV, JSON lines, Parquet) of files and folders, or "-": paths
            in `stdin`, which NULs divide where there are any, else lines. What is none of these stands for itself, so
            that whoever reads it says what is wrong.
        stdin: Where "-" reads from.
        leave_out: The folder that results go to: neither it nor what a folder or a glob finds in it. A file in it that
            is named outright is examined.

    Raises:
        DataError: A manifest cannot be read.
    """
    skipped = os.path.realpath(leave_out) if leave_out else ""
    found: dict[str, None] = {}
    for path in paths:
        for line in _lines(stdin) if path == STDIN else [path]:
            for each in _matching(line, skipped):
                found.update(dict.fromkeys(_files_at(each, skipped)))
    return list(found)


def _lines(stdin: BinaryIO | None) -> list[str]:
    """The paths that another program writes; those of `find -print0` may hold line breaks."""
    written = stdin.read() if stdin else b""
    paths = written.split(b"\0") if b"\0" in written else [line.rstrip(b"\r") for line in written.split(b"\n")]
    return [os.fsdecode(path) for path in paths if path]


def is_any_there(files: Sequence[str]) -> bool:
    """Whether one of the paths is a file, so that there may be an image to ask an engine about."""
    return any(os.path.isfile(file) for file in files)  # noqa: PTH113 - pathlib raises where a folder is not readable


def _matching(path: str, skipped: str) -> list[str]:
    """What a glob stands for, by name; anything else stands for itself.

    What lies in the skipped folder is left out, and so are lists, which datasets have beside their images, unless the
    glob asks for them by their suffix or finds nothing else.
    """
    if not glob.has_magic(path) or os.path.lexists(path):
        return [path]
    found = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - pathlib takes no absolute pattern
    if not _is_list(path):
        found = [each for each in found if not _is_list(each)] or found
    return [each for each in found if not _is_in(each, skipped)] if found else [path]


def _is_list(path: str) -> bool:
    """Whether a path is a list by its name; folders have such names too, as those that Spark writes."""
    return Path(path).suffix.lower() in MANIFEST_SUFFIXES and not os.path.isdir(path)  # noqa: PTH112 - as below


def _is_in(path: str, folder: str) -> bool:
    """Whether a path is the folder, or leads into it."""
    return bool(folder) and f"{os.path.realpath(path)}/".startswith(f"{folder}/")


def _files_at(path: str, skipped: str) -> Iterator[str]:
    if _is_list(path):
        for each in paths_in(Path(path)):
            yield from [each] if _is_list(each) else _files_at(each, skipped)  # no lists in lists
    elif os.path.isdir(path):  # noqa: PTH112 - pathlib raises where a path is too long or may not be looked at
        yield from _images_below(path, skipped)
    else:
        yield path


def _begins_as_image(path: Path) -> bool:
    """Whether a file without a suffix, as browsers keep them, is an image by its first bytes."""
    try:
        with path.open("rb") if path.is_file() else io.BytesIO() as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(_STARTS) or (start[:4], start[8:]) == (b"RIFF", b"WEBP") or start[4:12] == b"ftypavif"


def _images_below(folder: str, skipped: str) -> Iterator[str]:
    """Image files below a folder, by name; links are followed, but no folder is searched twice.

    A folder that cannot be searched, and one in which there is no image, stands for itself, but not the skipped one.
    """
    extensions = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN} | _NOT_READ
    seen: set[tuple[int, int]] = set()
    refused: list[str] = []
    num_found = 0
    for place, folders, names in os.walk(folder, followlinks=True, onerror=lambda e: refused.append(str(e.filename))):
        try:
            status = Path(place).stat()
        except OSError:  # it was deleted, or its disk went away, since it was listed
            refused.append(place)
            folders.clear()
            continue
        if (status.st_dev, status.st_ino) in seen or (skipped and os.path.realpath(place) == skipped):
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if suffix in extensions or (not suffix and _begins_as_image(Path(place) / name)):
                num_found += 1
                yield str(Path(place) / name)
    yield from refused
    if not num_found and not refused and os.path.realpath(folder) != skipped:
        yield folder
