"""Images under the name of their own checksum: equal ones are kept once, and a name proves its content."""

import hashlib
import os
from pathlib import Path

from fxray.files import disk_errors

FOLDER = "images"


class ImageStore:
    """The images beside a dataset file.

    Args:
        root: Folder of the dataset file.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: set[str] = set()

    def put(self, encoded: bytes, suffix: str) -> str:
        """Keeps an image, and returns its path relative to the dataset file: `images/ab/ab12....jpg`.

        A file is written aside and renamed, and can only be read afterwards, so that no tool changes it in place. What
        a killed process left aside is in nobody's way: containers and nodes use the same process numbers again.

        Raises:
            ResourceError: The disk is full or not writable.
        """
        digest = hashlib.sha256(encoded).hexdigest()
        folder = f"{FOLDER}/{digest[:2]}"
        relative = f"{folder}/{digest}.{suffix}"
        path = f"{self._root}/{relative}"
        if self._has(path, len(encoded)):
            return relative
        with disk_errors(Path(path)):
            if folder not in self._folders:
                os.makedirs(f"{self._root}/{folder}", exist_ok=True)  # noqa: PTH103 - once per image: pathlib is slow here
                self._folders.add(folder)
            self._write(f"{self._root}/{folder}/.{digest}.{os.urandom(8).hex()}.tmp", path, encoded)
        return relative

    @staticmethod
    def _write(aside: str, path: str, encoded: bytes) -> None:
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        try:
            with os.fdopen(file, "wb") as out:
                out.write(encoded)
            os.replace(aside, path)  # noqa: PTH105
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise

    @staticmethod
    def _has(path: str, num_bytes: int) -> bool:
        try:
            return os.stat(path).st_size == num_bytes  # noqa: PTH116
        except OSError:
            return False
