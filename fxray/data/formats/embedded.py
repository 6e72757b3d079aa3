"""Images that lie inside annotation files: base64 in a LabelMe file, bytes in a Parquet file."""

import base64
import binascii
import json
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fxray.data.formats.record import FieldProblem, Record
from fxray.data.probe import read_image_file

LABELME_FIELD = "imageData"
IMAGES_AT_A_TIME = 16
"""Of a Parquet file, held in memory: row groups may hold many thousands."""


def image_bytes(record: Record) -> bytes:
    """The encoded image of a record, wherever it lies.

    Raises:
        FieldProblem: It cannot be read.
    """
    path = Path(record.image)
    if record.member is not None:
        return _from_parquet(path, record.member, record.image_field)
    if record.image_field == LABELME_FIELD:
        return _from_labelme(path)
    return read_image_file(path, record.image_field)


def _from_labelme(path: Path) -> bytes:
    try:
        return base64.b64decode(json.loads(read_image_file(path, LABELME_FIELD))[LABELME_FIELD], validate=True)
    except (binascii.Error, ValueError, TypeError, KeyError) as error:
        if isinstance(error, FieldProblem):
            raise
        raise FieldProblem(LABELME_FIELD, str(path), f"no base64 image: {error}") from error


def _from_parquet(path: Path, row: int, field: str) -> bytes:
    try:
        _, first_rows = _parquet(path)
        group = bisect_right(first_rows, row) - 1
        value: Any = _row_group(path, group, field).value(row - first_rows[group])
    except (pa.ArrowException, OSError) as error:
        raise FieldProblem(field, str(error)[:200], "Parquet that cannot be read at this row") from error
    content = value.get("bytes") if isinstance(value, dict) else value
    if not content:
        raise FieldProblem(field, None, "no image bytes in the row")
    return bytes(content)


@lru_cache(maxsize=2)
def _parquet(path: Path) -> tuple[pq.ParquetFile, list[int]]:
    """The file, and the first row of each of its row groups."""
    file = pq.ParquetFile(path, memory_map=True)
    counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return file, list(accumulate(counts, initial=0))[:-1]


class _RowGroup:
    """One column of a row group, of which a few rows are held while they are read one after the other."""

    def __init__(self, path: Path, group: int, field: str) -> None:
        self._path, self._group, self._field = path, group, field
        self._fault: Exception | None = None
        self._begin()

    def _begin(self) -> None:
        file, _ = _parquet(self._path)
        self._batches = file.iter_batches(IMAGES_AT_A_TIME, [self._group], [self._field], use_threads=False)
        self._start, self._held = 0, pa.array([])

    def value(self, offset: int) -> Any:
        """The value of a row; what lies before a row that was read last is sought from the group's start.

        Raises:
            ArrowException, OSError: The file is damaged here, or was before.
        """
        if offset < self._start:
            self._begin()
        if self._fault is not None and offset >= self._start + len(self._held):
            raise self._fault
        try:
            while offset >= self._start + len(self._held):
                batch = next(self._batches)
                self._start += len(self._held)
                self._held = batch.column(0)
        except (pa.ArrowException, OSError) as error:
            self._fault = error
            raise
        return self._held[offset - self._start].as_py()


@lru_cache(maxsize=1)
def _row_group(path: Path, group: int, field: str) -> _RowGroup:
    return _RowGroup(path, group, field)
