"""Plain folders: `real/` beside `fake/`; the folders below the latter name the generators.

Links to folders are followed, each folder once: where it lies, if that is below a label. A link up out of the labels is
left out. Files with no image's ending are findings, one per folder; passed over without one are hidden files and
folders, what file browsers leave (`Thumbs.db`, `desktop.ini`), and texts beside images (`.txt`, `.json`, `.csv` and the
like).
"""

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from fxray.counts import counted
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Finding, Place, Record, Rows
from fxray.errors import DataError
from fxray.grammar.lenient import VERDICT_WORDS
from fxray.schema import Verdict

_LABEL_NAMES = {**VERDICT_WORDS, "reals": Verdict.REAL, "fakes": Verdict.GENERATED}
_OF_BROWSERS = frozenset({"thumbs.db", "desktop.ini"})
_OF_TEXTS = frozenset({".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".html"})


def read(src: Path, images: Images) -> Rows:
    """The image files below `real/`, `fake/` and folders of like names.

    Raises:
        DataError: There is no such folder.
    """
    del images
    tops = sorted(path for path in src.iterdir() if path.is_dir()) if src.is_dir() else []
    known = [path for path in tops if path.name.lower() in _LABEL_NAMES]
    if not known:
        raise DataError(
            f"no folder named after a label, expected some of {', '.join(sorted(_LABEL_NAMES))}",
            where=str(src),
            remedy="name the folder that holds real/ and fake/",
        )
    suffixes, seen = _image_suffixes(), _own_places(src, known)
    yield from _beside(src, suffixes)
    for top in tops:
        if top not in known:
            yield Finding.of(Place(str(top)), FieldProblem("folder", top.name, "no label; its files are left out"))
            continue
        verdict = _LABEL_NAMES[top.name.lower()]
        for entry in _walk(top, seen):
            if isinstance(entry, Finding):
                yield entry
                continue
            folder, names = entry
            generator = Path(os.path.relpath(folder, top)).parts[:1]
            for name in names:
                if not _has_suffix(name, suffixes):
                    continue
                file = os.path.join(folder, name)  # noqa: PTH118
                yield Record(
                    place=Place(file),
                    image=file,
                    image_field="file",
                    name=os.path.relpath(file, src),
                    label=verdict.value,
                    generator=generator[0] if generator and verdict is not Verdict.REAL else None,
                )
            yield from _left_out(folder, [name for name in names if not _has_suffix(name, suffixes)])


def _own_places(src: Path, tops: list[Path]) -> dict[str, str]:
    """Where the folders below some are met without links, by what they are once links are resolved; "" for all above.

    A link can then take no folder out of its own label.
    """
    root = Path(os.path.realpath(src))
    places = {str(above): "" for above in (root, *root.parents)}
    for top in sorted(tops, key=Path.is_symlink):
        for folder, folders, _ in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            places.setdefault(os.path.realpath(folder), folder)
    return places


def _walk(top: Path, seen: dict[str, str]) -> Iterator[tuple[str, list[str]] | Finding]:
    """Every folder below one, with its files by name; hidden ones are passed over.

    Args:
        top: The folder.
        seen: Where folders are read, by what they are once links are resolved, "" for none of them; grows.
    """
    errors: list[OSError] = []
    for folder, folders, names in os.walk(top, followlinks=True, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(folder)
        place = seen.setdefault(real, folder)
        if place != folder:
            folders.clear()
            what = f"the same folder as {place}, which is read" if place else "a folder that holds the labels' own"
            yield Finding.of(Place(folder), FieldProblem("folder", real, f"{what}; this one is left out"))
            continue
        yield folder, sorted(name for name in names if not name.startswith("."))
    for error in errors:
        yield Finding.of(Place(str(error.filename)), FieldProblem("folder", top.name, f"unread: {error.strerror}"))


def _beside(src: Path, suffixes: frozenset[str]) -> Iterator[Finding]:
    seen = (path.name for path in src.iterdir() if not path.name.startswith(".") and not path.is_dir())
    if names := sorted(name for name in seen if _has_suffix(name, suffixes)):
        reason = f"{counted(len(names), 'image')} in none of the labels' folders left out, this one first"
        yield Finding.of(Place(str(src)), FieldProblem("file", names[0], reason))


def _left_out(folder: str, names: list[str]) -> Iterator[Finding]:
    odd = [name for name in names if name.lower() not in _OF_BROWSERS]
    if odd := [name for name in odd if not _has_suffix(name, _OF_TEXTS)]:
        count = f"{counted(len(odd), 'file')} left out, no image by the ending, this one first"
        yield Finding.of(Place(folder), FieldProblem("file", odd[0], count))


def _has_suffix(name: str, suffixes: frozenset[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122 - once per image


def _image_suffixes() -> frozenset[str]:
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    return frozenset(known | {".heic", ".heif"})  # they are no image that is read here, and that has to be said
