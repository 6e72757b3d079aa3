"""Single rows of a dataset file, however faulty, read again when a finding is to be shown."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fxray.data.images import image_beside, read_image_file
from fxray.errors import DataError

_COLUMNS = ("image", "image_path", "label", "regions", "width_px", "height_px", "generator", "source")
_BATCH_ROWS = 16


def rows_at(path: Path, numbers: Collection[int]) -> dict[int, dict[str, Any]]:
    """Fields of rows, as far as the file can be read; `image` holds the encoded image wherever it lies, or None.

    Args:
        path: The Parquet file.
        numbers: Of the rows, counted from 0; only their row groups are read.
    """
    found: dict[int, dict[str, Any]] = {}
    try:
        with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
            columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
            start = 0
            for group in range(file.num_row_groups):
                num_rows = file.metadata.row_group(group).num_rows
                if any(start <= number < start + num_rows for number in numbers):
                    number = start
                    for batch in file.iter_batches(_BATCH_ROWS, [group], columns, use_threads=False):
                        for offset in range(batch.num_rows):
                            if number + offset in numbers:
                                found[number + offset] = _fields(path, batch.slice(offset, 1).to_pylist()[0])
                        number += batch.num_rows
                start += num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        pass  # the finding that says so is shown without a picture
    return found


def _fields(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    relative, image = fields.get("image_path"), fields.get("image")
    if isinstance(relative, str):
        try:
            image = read_image_file(image_beside(path, relative), "")
        except DataError:
            image = None
    return fields | {"image": image if isinstance(image, bytes) else None}
