"""Plain folders: `real/` beside `fake/`; the folders below the latter name the generators."""

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Finding, Place, Record, Rows
from fxray.errors import DataError
from fxray.grammar.lenient import VERDICT_WORDS
from fxray.schema import Verdict

_LABEL_NAMES = {**VERDICT_WORDS, "reals": Verdict.REAL, "fakes": Verdict.GENERATED}


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
    suffixes = _image_suffixes()
    for top in tops:
        if top not in known:
            yield Finding.of(Place(str(top)), FieldProblem("folder", top.name, "no label; its files are left out"))
            continue
        verdict = _LABEL_NAMES[top.name.lower()]
        for folder, names in _walk(top):
            generator = Path(os.path.relpath(folder, top)).parts[:1]
            for name in names:
                if os.path.splitext(name)[1].lower() not in suffixes:  # noqa: PTH122 - once per image
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


def _walk(top: Path) -> Iterator[tuple[str, list[str]]]:
    for folder, folders, names in os.walk(top):
        folders.sort()
        yield folder, sorted(names)


def _image_suffixes() -> frozenset[str]:
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    return frozenset(known | {".heic", ".heif"})  # they are no image that is read here, and that has to be said
