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
    _, first_rows = _parquet(path)
    group = bisect_right(first_rows, row) - 1
    value: Any = _column(path, group, field)[row - first_rows[group]].as_py()
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


@lru_cache(maxsize=1)
def _column(path: Path, group: int, field: str) -> pa.ChunkedArray:
    """The images of one row group, kept while its rows are read one after the other."""
    return _parquet(path)[0].read_row_group(group, columns=[field], use_threads=False)[field]
