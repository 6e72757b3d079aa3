"""A list of images in a file: CSV, JSON lines or Parquet with a column of paths, relative to the file's own folder."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fxray.data.separators import remedy_for_columns
from fxray.draw import plain_text
from fxray.errors import DataError

COLUMNS = ("path", "file", "image", "file_name")
"""The first of these that is there holds the paths; what `fxray detect` writes has `file`."""
_JSON_SUFFIXES = (".jsonl", ".ndjson")
MANIFEST_SUFFIXES = {".csv", ".parquet", *_JSON_SUFFIXES}
_MAX_CELL = 2**24
_GIVE_PATHS = "name the column, and give one path in each row, or name the folder: its lists are passed over"


def paths_in(manifest: Path) -> Iterator[str]:
    """The paths that a manifest lists, in its order.

    Raises:
        DataError: It cannot be read, has no column of paths, or one of them is none; names the row.
    """
    read = _parquet_rows if manifest.suffix.lower() == ".parquet" else _text_rows
    for place, row in read(manifest):
        column = next((name for name in COLUMNS if name in row), None)
        if column is None:
            raise _without_paths(manifest, place, [str(name) for name in row if name is not None])
        path = row[column]
        if not isinstance(path, str) or not path or "\0" in path:
            raise DataError(
                f"{column} {str(path)[:80]!r}, expected a path", where=f"{manifest}, {place}", remedy=_GIVE_PATHS
            )
        yield str(manifest.parent / path)


def _without_paths(manifest: Path, place: str, names: list[str]) -> DataError:
    """The error of a manifest, or in JSON lines of a row, that has no column of paths."""
    place = {".csv": ", line 1", ".parquet": ""}.get(manifest.suffix.lower(), f", {place}")
    there = plain_text(", ".join(names), 80) or "none"
    return DataError(
        f"no column is named {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}; there are: {there}",
        where=f"{manifest}{place}",
        remedy=remedy_for_columns(names, _GIVE_PATHS),
    )


def _text_rows(manifest: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    csv.field_size_limit(_MAX_CELL)
    try:
        with manifest.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
            if manifest.suffix.lower() == ".csv":
                reader = csv.DictReader(file, strict=True)
                yield from ((f"line {reader.line_num}", row) for row in reader)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line)
                    yield f"line {number}", row if isinstance(row, dict) else {}
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise _unreadable(manifest, error) from error


def _parquet_rows(manifest: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(manifest) as file:
            column = next((name for name in COLUMNS if name in file.schema_arrow.names), None)
            number = 0
            for batch in file.iter_batches(columns=[column] if column else []):
                for value in batch.column(0).to_pylist() if column else [None] * min(1, batch.num_rows):
                    yield f"row {number}", {column: value} if column else dict.fromkeys(file.schema_arrow.names)
                    number += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(manifest, error) from error


def _unreadable(manifest: Path, error: Exception) -> DataError:
    if isinstance(error, DataError):
        return error
    reason = getattr(error, "strerror", None) or error
    return DataError(
        f"is no readable list of images: {reason}", where=str(manifest), remedy="check the path and the file"
    )
