"""Images that lie inside annotation files: base64 in a LabelMe file, bytes in a Parquet file."""

import base64
import binascii
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

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
    file, first_rows = _parquet(path)
    group = max(index for index, first in enumerate(first_rows) if first <= row)
    column = file.read_row_group(group, columns=[field], use_threads=False)[field]
    value: Any = column[row - first_rows[group]].as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if not content:
        raise FieldProblem(field, None, "no image bytes in the row")
    return bytes(content)


@lru_cache(maxsize=2)
def _parquet(path: Path) -> tuple[pq.ParquetFile, list[int]]:
    file, first_rows, count = pq.ParquetFile(path, memory_map=True), [], 0
    for group in range(file.num_row_groups):
        first_rows.append(count)
        count += file.metadata.row_group(group).num_rows
    return file, first_rows
