"""One pass over dataset files: every row's faults, and what its image looks like. Nothing but facts stays in memory."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fxray.data.check.facts import Seen, folder_of, forget_others, unpack
from fxray.data.check.findings import Finding, Place, shown
from fxray.data.check.images import ImageFacts, Unseen, image_faults
from fxray.data.check.parts import UNREADABLE, Part, first_line, largest_group, look_at, parts_of, why_unreadable
from fxray.data.check.rows import Fault, row_faults
from fxray.data.dataset import ROWS_PER_GROUP, SCHEMA, check_schema
from fxray.data.parts import ALONE_S, AllCores, each_part
from fxray.errors import DataError
from fxray.events import Note, OnEvent, PhaseDone, PhaseStarted, Step, ignore
from fxray.processors import num_processors

MAX_GROUP_ROWS, MAX_GROUP_MIB = 64, 16
"""Row groups that are larger in both are told of; those of `write_dataset` hold 16 images."""
_BATCH_ROWS = 1024
_PIXELS = "image"


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


def scan(
    paths: Sequence[Path], on_event: OnEvent = ignore, *, all_cores: AllCores | None = None, alone_s: float = ALONE_S
) -> Scan:
    """Reads dataset files, however faulty; what cannot be read is a finding.

    Images first, which is nearly all of the work: in parts, by threads of this process, or by many processes where that
    would take long. Then the other columns, row by row.

    Args:
        paths: Parquet files, which may be the splits of one set.
        on_event: Is told of rows done.
        all_cores: What takes over where this process alone would be slow.
        alone_s: Seconds beyond which it does.
    """
    by_file = [(path, parts_of(path.absolute())) for path in paths]
    seen = iter(_look_at_all([part for _, parts in by_file for part in parts], on_event, all_cores, alone_s))
    result, ids, elsewhere = Scan(), dict[str, Place](), set[str]()
    for path, parts in by_file:
        looked_at = [(part, next(seen)) for part in parts]
        for place, fields, image in _rows_of(path, looked_at, result.findings):
            if place.sample_id and place.sample_id in ids:
                first = ids[place.sample_id]
                message = f"{place.sample_id!r} also names {first}"
                result.findings.append(
                    Finding("repeated-id", message, place, "sample_id", shown(place.sample_id), (first,))
                )
            ids.setdefault(place.sample_id, place)
            result.findings += _findings_of(place, fields, image, elsewhere)
            result.rows.append(_seen(place, fields, image if isinstance(image, ImageFacts) else None))
    return result


def _look_at_all(
    parts: Sequence[Part], on_event: OnEvent, all_cores: AllCores | None, alone_s: float
) -> list[list[Seen]]:
    """What was seen of each part's images, in the order of the parts."""
    seen: dict[int, list[Seen]] = {}
    num_rows, num_done, start_s = sum(part.num_rows for part in parts), 0, time.monotonic()
    num_threads = num_processors()
    for folder in dict.fromkeys(part.path.parent for part in parts):
        if not os.access(folder, os.W_OK):
            on_event(Note(f"{folder} is not writable: what is seen of the images is not kept for the next check", True))
    on_event(PhaseStarted("images", num_rows))
    for number, packed in each_part(
        partial(_look_at_number, parts, num_threads),
        range(len(parts)),
        all_cores=all_cores,
        work_on_one_core=partial(_look_at_number, parts, 1),
        alone_s=alone_s,
    ):
        seen[number] = unpack(packed)
        num_done += parts[number].num_rows
        on_event(Step("images", num_done, num_rows))
    for path in dict.fromkeys(part.path for part in parts):
        forget_others(folder_of(path), [part.facts_path.name for part in parts if part.path == path])
    on_event(PhaseDone("images", time.monotonic() - start_s))
    return [seen[number] for number in range(len(parts))]


def _look_at_number(parts: Sequence[Part], num_threads: int, number: int) -> bytes:
    return look_at(parts[number], num_threads)


def _rows_of(
    path: Path, looked_at: Sequence[tuple[Part, Sequence[Seen]]], findings: list[Finding]
) -> Iterator[tuple[Place, dict[str, Any], Seen]]:
    """Rows of a file up to where it can be read; why it cannot is added to the findings."""
    number = 0
    images = ((part, image) for part, seen in looked_at for image in (*seen, *[None] * (part.num_rows - len(seen))))
    try:
        with pq.ParquetFile(path.absolute(), pre_buffer=False) as file:
            try:
                check_schema(file.schema_arrow, path)
            except DataError as error:
                findings.append(Finding("schema", error.message, Place(str(path))))
            if file.metadata.num_rows == 0:
                findings.append(Finding("file-unreadable", "no rows, expected at least one", Place(str(path))))
            findings += _row_groups(path)
            columns = [name for name in SCHEMA.names if name in file.schema_arrow.names and name != _PIXELS]
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                for fields, (part, image) in zip(batch.to_pylist(), images, strict=False):
                    if image is None:
                        findings.append(_breaks_off(path, number, why_unreadable(part)))
                        return
                    sample_id = fields.get("sample_id")
                    yield Place(str(path), number, sample_id if isinstance(sample_id, str) else ""), fields, image
                    number += 1
    except UNREADABLE as error:
        findings.append(_breaks_off(path, number, first_line(error)))


def _row_groups(path: Path) -> Iterator[Finding]:
    """What another tool made one row group of: an image is read from the group's beginning on."""
    num_rows, num_bytes = largest_group(path.absolute())
    if num_rows > MAX_GROUP_ROWS and num_bytes > MAX_GROUP_MIB * 2**20:
        size = f"{num_rows} rows with {num_bytes // 2**20} MiB of images"
        message = f"{size}, of which half is read for one of them; expected {ROWS_PER_GROUP} rows"
        yield Finding("row-group", message, Place(str(path)), "image")


def _breaks_off(path: Path, num_rows: int, reason: str) -> Finding:
    told = f"cannot be read after row {num_rows - 1}" if num_rows else "not a readable Parquet file"
    return Finding("file-unreadable", f"{told}: {reason}", Place(str(path)))


def _findings_of(place: Place, fields: dict[str, Any], image: Seen, elsewhere: set[str]) -> Iterator[Finding]:
    """The faults of a row: of its fields, and of its image; of images elsewhere that are there, once for a file."""
    faults, relative = list(row_faults(fields)), fields.get("image_path")
    if isinstance(relative, str) and (Path(relative).is_absolute() or ".." in Path(relative).parts):
        message = f"{shown(relative)}, expected a path below {Path(place.file).parent}"
        if Path(relative).is_absolute() or not isinstance(image, ImageFacts):
            faults.append(Fault("image-path", "image_path", message, relative))
        elif place.file not in elsewhere:
            elsewhere.add(place.file)
            message = f"{shown(relative)}, for one, lies outside {Path(place.file).parent}"
            yield Finding("image-elsewhere", message, Place(place.file), "image_path", shown(relative))
    if isinstance(image, ImageFacts):
        sides = (fields.get("width_px"), fields.get("height_px"))
        is_declared = all(isinstance(side, int) and side > 0 for side in sides)
        faults += image_faults(image, sides if is_declared else None)  # type: ignore[arg-type]
    for fault in faults:
        yield Finding(fault.rule, fault.message, place, fault.field, shown(fault.value))
    if isinstance(image, Unseen):
        yield Finding(image.rule, image.message, place, image.field, image.value)


def _seen(place: Place, fields: dict[str, Any], image: ImageFacts | None) -> SeenRow:
    def text(name: str) -> str:
        value = fields.get(name)
        return sys.intern(value) if isinstance(value, str) else ""

    regions = fields.get("regions")
    captions = (r.get("caption") for r in regions if isinstance(r, dict)) if isinstance(regions, list) else ()
    kept = tuple(sys.intern(caption.strip()) for caption in captions if isinstance(caption, str))
    return SeenRow(place, text("label"), text("generator"), text("source"), kept, image)
