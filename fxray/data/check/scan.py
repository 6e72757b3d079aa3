"""One pass over dataset files: every row's faults, and what its image looks like. Nothing but facts stays in memory."""

import os
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fxray.data.check.findings import Finding, Place, shown
from fxray.data.check.images import ImageFacts, inspect_image
from fxray.data.check.rows import Fault, row_faults
from fxray.data.dataset import SCHEMA, check_schema
from fxray.data.images import read_image_file
from fxray.errors import DataError
from fxray.events import OnEvent, Step, ignore

BATCH_ROWS = 16
_BUFFER_BYTES = 2**20
_IN_FLIGHT_PER_THREAD = 4


@dataclass(frozen=True, slots=True)
class SeenRow:
    """What stays of a row when it has been looked at. Text that the row lacks is empty.

    Attributes:
        place: Where it is.
        label: As it stands there, right or wrong.
        generator: As it stands there.
        source: As it stands there.
        captions: Of its regions.
        image: None where it cannot be decoded.
    """

    place: Place
    label: str
    generator: str
    source: str
    captions: tuple[str, ...]
    image: ImageFacts | None


@dataclass(slots=True)
class Scan:
    """What a pass found, in the order of files and rows."""

    rows: list[SeenRow] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def scan(paths: Sequence[Path], on_event: OnEvent = ignore) -> Scan:
    """Reads dataset files, however faulty; what cannot be read is a finding.

    Args:
        paths: Parquet files, which may be the splits of one set.
        on_event: Is told of rows done.
    """
    result, ids = Scan(), dict[str, Place]()
    num_rows = sum(map(_num_rows, paths))
    num_threads = len(os.sched_getaffinity(0))
    waiting: deque[tuple[Place, dict[str, Any], Future[tuple[ImageFacts | None, list[Fault]]]]] = deque()

    def take() -> None:
        place, fields, future = waiting.popleft()
        image, faults = future.result()
        faults = [*row_faults(fields), *faults]
        result.findings += [Finding(f.rule, f.message, place, f.field, shown(f.value)) for f in faults]
        result.rows.append(_seen(place, fields, image))
        if len(result.rows) % BATCH_ROWS == 0 or len(result.rows) == num_rows:
            on_event(Step("check", len(result.rows), num_rows))

    with ThreadPoolExecutor(num_threads) as pool, warnings.catch_warnings():  # Pillow lets other threads run
        warnings.simplefilter("ignore")  # what Pillow mutters about odd metadata is no finding
        for path in paths:
            for place, fields in _rows_of(path, result.findings):
                if place.sample_id and place.sample_id in ids:
                    message = f"{place.sample_id!r} also names {ids[place.sample_id]}"
                    first = ids[place.sample_id]
                    result.findings.append(
                        Finding("repeated-id", message, place, "sample_id", shown(place.sample_id), (first,))
                    )
                ids.setdefault(place.sample_id, place)
                encoded = fields.pop("image", None)
                waiting.append((place, fields, pool.submit(_inspect, path, encoded, fields)))
                if len(waiting) > _IN_FLIGHT_PER_THREAD * num_threads:
                    take()
        while waiting:
            take()
    return result


def _num_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return 0


def _rows_of(path: Path, findings: list[Finding]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Rows of a file up to where it can be read; why it cannot is added to the findings."""
    number = 0
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            try:
                check_schema(file.schema_arrow, path)
            except DataError as error:
                findings.append(Finding("schema", error.message, Place(str(path))))
            columns = [name for name in SCHEMA.names if name in file.schema_arrow.names]
            if file.metadata.num_rows == 0:
                findings.append(Finding("file-unreadable", "no rows, expected at least one", Place(str(path))))
            for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                for fields in batch.to_pylist():
                    sample_id = fields.get("sample_id")
                    yield Place(str(path), number, sample_id if isinstance(sample_id, str) else ""), fields
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0][:200]
        findings.append(
            Finding("file-unreadable", f"cannot be read after row {number - 1}: {told}", Place(str(path)))
            if number
            else Finding("file-unreadable", f"not a readable Parquet file: {told}", Place(str(path)))
        )


def _inspect(path: Path, encoded: Any, fields: dict[str, Any]) -> tuple[ImageFacts | None, list[Fault]]:
    """The facts and faults of a row's image, wherever it lies."""
    faults, field_name, relative = [], "image", fields.get("image_path")
    if isinstance(relative, str):
        field_name = "image_path"
        if Path(relative).is_absolute() or ".." in Path(relative).parts:
            message = f"{shown(relative)}, expected a path below {path.parent}"
            faults.append(Fault("image-path", field_name, message, relative))
        try:
            encoded = read_image_file(path.parent / relative, "")
        except DataError as error:
            return None, [*faults, Fault("image-missing", field_name, error.message, relative)]
    if encoded is None:
        return None, [Fault("image-missing", field_name, "neither image nor image_path is given, expected one")]
    if not isinstance(encoded, bytes) or not encoded:
        expected = f"{shown(encoded)}, expected the bytes of an image"
        return None, [*faults, Fault("image-missing", field_name, expected, encoded)]
    sides = (fields.get("width_px"), fields.get("height_px"))
    is_declared = all(isinstance(side, int) and side > 0 for side in sides)
    image, found = inspect_image(encoded, sides if is_declared else None)  # type: ignore[arg-type]
    return image, faults + found


def _seen(place: Place, fields: dict[str, Any], image: ImageFacts | None) -> SeenRow:
    def text(name: str) -> str:
        value = fields.get(name)
        return sys.intern(value) if isinstance(value, str) else ""

    regions = fields.get("regions")
    captions = (r.get("caption") for r in regions if isinstance(r, dict)) if isinstance(regions, list) else ()
    kept = tuple(sys.intern(caption.strip()) for caption in captions if isinstance(caption, str))
    return SeenRow(place, text("label"), text("generator"), text("source"), kept, image)
