"""Image files are read by threads, ahead of whoever examines them, decoded, and asked where they come from."""

import glob
import hashlib
import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from fxray.data.images import decoding, open_image, read_image_file, upright_rgb
from fxray.detect.detection import Picture
from fxray.detect.provenance import Provenance, read_provenance
from fxray.errors import DataError, DeadlineError, ResourceError
from fxray.processors import num_processors

NUM_THREADS = min(max(num_processors() // 2, 1), 4)
EARLY_BYTES = 0 if num_processors() > 2 else 2**18
"""The threads decode files from this size on. On two processors they would hold up the engine, which needs both, for
longer than whoever waits for its answers takes to decode a small image: docs/benchmarks.md."""
DEADLINE_S = 300.0
"""For the next of some files to be read; a disk that does not answer ends the command, not the machine."""
_MAX_WAITING, _MAX_WAITING_BYTES = 64, 192_000_000
THUMBNAIL_PX = 480
THUMBNAIL_BYTES = 48 * 2**10


@dataclass(frozen=True, slots=True)
class Read:
    """A file's bytes, or the reason why there are none.

    Attributes:
        file: As it was named.
        size_bytes: Of the file; -1 where even that is not known.
        modified_ns: When it was changed last, since 1970.
        encoded: What is in it.
        problem: Why that is not known.
        seconds: That it took.
    """

    file: str
    size_bytes: int
    modified_ns: int
    encoded: bytes = b""
    problem: DataError | ResourceError | None = None
    seconds: float = 0.0

    @property
    def held_bytes(self) -> int:
        """Memory that it takes."""
        return len(self.encoded)


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that was read, or the reason why not.

    Attributes:
        file: As it was named.
        size_bytes: Of the file; -1 where even that is not known.
        modified_ns: When it was changed last, since 1970.
        picture: Its pixels; None where there are none.
        sha256: Of the file, in hex; empty where it could not be read.
        provenance: What the file says of itself.
        thumbnail: A small JPEG of it, without any metadata.
        problem: Why there are no pixels.
    """

    file: str
    size_bytes: int = -1
    modified_ns: int = -1
    picture: Picture | None = None
    sha256: str = ""
    provenance: Provenance | None = None
    thumbnail: bytes = b""
    problem: DataError | ResourceError | None = None

    @property
    def held_bytes(self) -> int:
        """Memory that its pixels take."""
        return 3 * self.picture.image.width * self.picture.image.height if self.picture else 0

    def without_picture(self) -> "Opened":
        """All but the pixels, to be kept while they are examined."""
        return replace(self, picture=None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of each file beside its pixels."""

    thumbnail: bool = False
    personal: bool = False
    stability: bool = False
    num_samples: int = 0


def read_file(file: str) -> Read:
    """Reads a file; whatever is wrong with it is told, not raised.

    Args:
        file: Its path.
    """
    start_s, path = time.monotonic(), Path(file)
    status = _status(path)
    try:
        if os.path.isdir(path):  # noqa: PTH112 - pathlib raises where a path is too long or may not be looked at
            found = "no image was found in this folder" if os.access(path, os.R_OK | os.X_OK) else "cannot be searched"
            raise DataError(found, where=file, remedy="name one that holds images")
        if file.startswith(("http://", "https://")) and not os.path.lexists(file):
            raise DataError("is an address, and nothing is fetched", where=file, remedy="download it first")
        if glob.has_magic(file) and not os.path.lexists(file):
            raise DataError("no file matches this pattern", where=file, remedy="check the path and the ending")
        encoded = read_image_file(path, file)
    except DataError as error:
        return Read(file, *status, problem=error)
    except MemoryError:
        return Read(file, *status, problem=_too_large(file))
    return Read(file, *status, encoded, seconds=time.monotonic() - start_s)


def open_file(read: Read, wanted: Wanted, check: Callable[[Picture], object]) -> Opened:
    """Decodes a file that was read; whatever is wrong with it is told, not raised.

    Args:
        read: The file.
        wanted: What to make of it.
        check: Raises a `DataError` where a picture cannot be examined.
    """
    file, status = read.file, (read.size_bytes, read.modified_ns)
    if read.problem:
        return Opened(file, *status, problem=read.problem)
    start_s, provenance = time.monotonic(), None
    digest = hashlib.sha256(read.encoded).hexdigest()
    try:
        image = open_image(read.encoded, file)
        with decoding(read.encoded, file):
            pixels = upright_rgb(image)
        provenance = read_provenance(read.encoded, image, keeps_personal=wanted.personal)
        picture = Picture(file, pixels, digest, read.seconds + time.monotonic() - start_s)
        check(picture)
        thumbnail = make_thumbnail(pixels) if wanted.thumbnail else b""
    except DataError as error:
        return Opened(file, *status, sha256=digest, provenance=provenance, problem=error)
    except MemoryError:
        return Opened(file, *status, sha256=digest, problem=_too_large(file))
    return Opened(file, *status, picture, digest, provenance, thumbnail)


def _too_large(file: str) -> ResourceError:
    return ResourceError("needs more memory than there is", where=file, remedy="scale the image down")


def make_thumbnail(image: Image.Image) -> bytes:
    """A JPEG of at most 480 pixels a side and 48 KiB, with nothing in it but pixels."""
    small = image.resize(_fitted(image.size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    for quality in (85, 70, 50, 30, 10):
        encoded = io.BytesIO()
        small.save(encoded, "JPEG", quality=quality)
        if encoded.tell() <= THUMBNAIL_BYTES:
            break
    return encoded.getvalue()


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, THUMBNAIL_PX / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _status(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


class ReadAhead:
    """Files that are read by threads, each given out as soon as it is ready.

    At most 64 files and about 192 MB wait to be taken, so that memory does not grow with their number.

    Args:
        files: What to read.
        read: Makes an item of one; runs in the threads.
    """

    def __init__(self, files: Sequence[str], read: Callable[[str], Read | Opened]) -> None:
        self._todo, self._read = deque(files), read
        self._ready: deque[Read | Opened] = deque()
        self._reading: set[str] = set()
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        for number in range(min(NUM_THREADS, len(files))):
            threading.Thread(target=self._work, name=f"reader-{number}", daemon=True).start()

    def take(self, *, wait: bool) -> Read | Opened | None:
        """The next file that is ready.

        Args:
            wait: None then means that no more will come; else only that none is ready now.

        Raises:
            DeadlineError: No file was read for five minutes.
        """
        with self._changed:
            if wait and not self._changed.wait_for(self._has_news, DEADLINE_S):
                raise DeadlineError(
                    f"no file was read within {DEADLINE_S:g} s",
                    where=", ".join(sorted(self._reading)),
                    remedy="check the disk that they lie on, or leave them out",
                )
            if self._failure:
                raise self._failure
            self._changed.notify_all()
            return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Nothing more is opened."""
        with self._changed:
            self._todo.clear()
            self._ready.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_room)
                if not self._todo or self._failure:
                    return
                file = self._todo.popleft()
                self._reading.add(file)
            try:
                item = self._read(file)
            except BaseException as error:  # noqa: BLE001 - a thread's end; `take` raises it
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._reading.discard(file)
                self._ready.append(item)
                self._changed.notify_all()

    def _has_news(self) -> bool:
        return bool(self._ready or self._failure or not (self._todo or self._reading))

    def _has_room(self) -> bool:
        held_bytes = sum(item.held_bytes for item in self._ready)
        return not self._todo or (len(self._ready) < _MAX_WAITING and held_bytes < _MAX_WAITING_BYTES)
