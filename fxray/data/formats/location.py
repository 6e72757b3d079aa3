"""Where the image files of an export lie."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fxray.data.formats.fields import text
from fxray.data.formats.record import FieldProblem

_SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.-]+)://|^data:", re.IGNORECASE)
_DRIVE = re.compile(r"^[A-Za-z]:/")


@dataclass(frozen=True, slots=True)
class Images:
    """The folder that an export's image names are relative to.

    Attributes:
        folder: Given by the user, or the folder of the export.
    """

    folder: Path

    def find(self, name: Any, field: str, *beside: Path) -> str:
        """The file that an image name stands for.

        Args:
            name: As the tool wrote it: absolute, relative, a file URL, with slashes of any kind.
            field: Path of its field within the row.
            beside: Further folders it may be relative to, asked first.

        Raises:
            FieldProblem: It is a URL of a network, or there is no such file.
        """
        written = text(name, field)
        path = written.replace("\\", "/")
        if path.startswith("file://"):
            path = unquote(path.removeprefix("file://"))
        elif _SCHEME.match(path):
            raise FieldProblem(field, name, "a URL; fetch the images first and name their folder with --images")
        if "\0" in path:
            raise FieldProblem(field, name, "a zero byte, expected the path of a file")
        folders = (*beside, self.folder)
        candidates = [folder / form for folder in folders for form in dict.fromkeys((written, path))]
        if path.startswith(("/", "../")) or _DRIVE.match(path):  # of another machine: the name alone may be right
            candidates += [folder / path.rsplit("/", 1)[1] for folder in folders]
        for candidate in candidates:
            if _is_there(candidate):
                return str(candidate)
        raise FieldProblem(field, name, f"no such file below {self.folder}; name the images' folder with --images")

    def name_below(self, file: str | Path, name: str) -> str:
        """What to call an image of a folder of folders: its path below the folder; the name itself if it lies outside.

        Args:
            file: The image.
            name: As the tool wrote it, which may be that of another image in another folder.
        """
        below = os.path.relpath(file, self.folder)
        return name if Path(below).parts[0] == ".." else below


def _is_there(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except OSError:  # a name that is too long
        return False
