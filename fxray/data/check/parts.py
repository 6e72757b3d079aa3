"""Parts of a dataset file, and a look at the images of one.

Only here are images read and decoded. What is seen of them is a few hundred bytes each; a look returns them, and keeps
them beside the dataset, so that a check that was interrupted, a second one, and a split find them there.
"""

import hashlib
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fxray.data.check.facts import Seen, folder_of, keep, known, pack
from fxray.data.check.findings import shown
from fxray.data.check.images import Unseen, examine_image
from fxray.data.images import image_beside, read_image_file
from fxray.data.parts import PART_ROWS
from fxray.errors import DataError

UNREADABLE = (pa.ArrowException, OSError, UnicodeError)
"""What a damaged Parquet file raises, and one whose path is no UTF-8."""
_COLUMNS = ("image", "image_path")
_BATCH_ROWS = 4
_BUFFER_BYTES = 2**20
_IN_FLIGHT_PER_THREAD = 4
_BYTES_WITHOUT_PIXELS = 256


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a dataset file that are looked at together: some row groups, or a slice of one.

    Attributes:
        path: The file.
        groups: First row group, and the one behind the last.
        skipped: Rows of these groups that come before.
        first_row: In the file.
        num_rows: Of the part.
    """

    path: Path
    groups: tuple[int, int]
    skipped: int
    first_row: int
    num_rows: int

    @property
    def facts_path(self) -> Path:
        """Where its facts are kept."""
        return folder_of(self.path) / f"{self.first_row:09d}-{self.first_row + self.num_rows:09d}.arrow"


def parts_of(path: Path) -> list[Part]:
    """Parts of about `PART_ROWS` rows; none where the file cannot be read.

    Row groups that hold images are joined and not cut: a slice would be read from the group's beginning.
    """
    try:
        metadata = _metadata(path)
    except UNREADABLE:
        return []
    parts, row, start, waiting = list[Part](), 0, 0, 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if group.num_rows > PART_ROWS and _image_bytes(group) <= _BYTES_WITHOUT_PIXELS * group.num_rows:
            if waiting:
                parts.append(Part(path, (start, number), 0, row - waiting, waiting))
            for skipped in range(0, group.num_rows, PART_ROWS):
                num_rows = min(PART_ROWS, group.num_rows - skipped)
                parts.append(Part(path, (number, number + 1), skipped, row + skipped, num_rows))
            start, waiting = number + 1, 0
        elif (waiting := waiting + group.num_rows) >= PART_ROWS:
            parts.append(Part(path, (start, number + 1), 0, row + group.num_rows - waiting, waiting))
            start, waiting = number + 1, 0
        row += group.num_rows
    if waiting:
        parts.append(Part(path, (start, metadata.num_row_groups), 0, row - waiting, waiting))
    return parts


def largest_group(path: Path) -> tuple[int, int]:
    """Rows, and bytes of images before they are compressed, of the row group that holds most of them.

    Raises:
        ArrowException, OSError, UnicodeError: The file cannot be read.
    """
    metadata = _metadata(path)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return max(((group.num_rows, _image_bytes(group)) for group in groups), key=lambda size: size[1], default=(0, 0))


def look_at(part: Part, num_threads: int) -> bytes:
    """Looks at the images of a part, of which Pillow lets several threads decode; those known already are not decoded.

    Args:
        part: Which.
        num_threads: How many look.

    Returns:
        Of `pack`: one entry a row, fewer where the file breaks off.
    """
    before = known(part.facts_path)
    seen, waiting = list[Seen](), deque[Future[Seen]]()
    pool = _threads(num_threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow mutters about odd metadata is no finding
        with suppress(*UNREADABLE):  # the rows before are told of, and the reader of the other columns says why it ends
            for encoded, relative in _images(part):
                waiting.append(pool.submit(_look, part.path, encoded, relative, before))
                if len(waiting) > _IN_FLIGHT_PER_THREAD * num_threads:
                    seen.append(waiting.popleft().result())
        seen += [future.result() for future in waiting]
    pa.default_memory_pool().release_unused()  # or the next part's batches are laid beside what this one's took
    if any(image.digest and image.digest not in before for image in seen):
        keep(part.facts_path, seen)
    return pack(seen)


@lru_cache(maxsize=1)
def _threads(num: int) -> ThreadPoolExecutor:
    """The same threads for all parts: each thread's allocator keeps what its largest image took."""
    return ThreadPoolExecutor(num)


def _look(path: Path, encoded: Any, relative: Any, before: dict[bytes, Seen]) -> Seen:
    """The facts of a row's image, wherever it lies."""
    if isinstance(relative, str):
        try:
            encoded = read_image_file(image_beside(path, relative), "")
        except DataError as error:
            return Unseen("image-missing", "image_path", error.message, shown(relative))
    if encoded is None:
        return Unseen("image-missing", "image", "neither image nor image_path is given, expected one", shown(None))
    if not isinstance(encoded, bytes) or not encoded:
        field = "image_path" if isinstance(relative, str) else "image"
        return Unseen("image-missing", field, f"{shown(encoded)}, expected the bytes of an image", shown(encoded))
    digest = hashlib.sha256(encoded).digest()
    return before.get(digest) or examine_image(encoded, digest)


def why_unreadable(part: Part) -> str:
    """What Parquet says of a part whose images cannot all be read."""
    try:
        deque(_images(part), maxlen=0)
    except UNREADABLE as error:
        return first_line(error)
    return "fewer rows than the file says"


def first_line(error: Exception) -> str:
    """The gist of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _images(part: Part) -> Iterator[tuple[Any, Any]]:
    """Image and image path of each row, as they stand there."""
    number = -part.skipped
    with pq.ParquetFile(part.path, metadata=_metadata(part.path), buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
        columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(_BATCH_ROWS, list(range(*part.groups)), columns, use_threads=False):
            rows = batch.to_pylist() if number + batch.num_rows > 0 else [{}] * batch.num_rows
            for fields in rows:
                if 0 <= number < part.num_rows:
                    yield fields.get("image"), fields.get("image_path")
                number += 1
            if number >= part.num_rows:
                return


def _metadata(path: Path) -> pq.FileMetaData:
    status = path.stat()
    return _footer(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _footer(path: Path, _mtime_ns: int, _num_bytes: int) -> pq.FileMetaData:
    """The footer of a file, read once: where each row group holds sixteen images, it is megabytes."""
    return pq.read_metadata(path)


def _image_bytes(group: pq.RowGroupMetaData) -> int:
    columns = [group.column(number) for number in range(group.num_columns)]
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == "image")
