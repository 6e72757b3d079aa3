"""The one format of datasets: a Parquet file whose schema carries a version, with images inside or beside it.

Opening reads everything but the pixels. Row groups with images inside are small, so reading one image touches a few
hundred kilobytes.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fxray.data.check.rows import row_faults
from fxray.data.check.rules import RULES, Severity
from fxray.data.images import decode_image, image_beside, read_image_file
from fxray.errors import DataError
from fxray.files import atomic_path, is_there
from fxray.large_imports import without_collection
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

SCHEMA_VERSION = "2"
"""Version 1 had no column `annotator`; such files are read, never written."""

VERSION_KEY = b"fxray.schema_version"
ROWS_PER_GROUP = 16
ROWS_PER_GROUP_WITHOUT_PIXELS = 4096
"""Of rows whose image is a file: a group costs as much as some dozens of them."""

_REGION = pa.struct(
    [
        ("x_min", pa.float32()),
        ("y_min", pa.float32()),
        ("x_max", pa.float32()),
        ("y_max", pa.float32()),
        ("caption", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("image", pa.binary()),
        ("image_path", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("label", pa.string()),
        ("regions", pa.list_(_REGION)),
        ("tags", pa.list_(pa.string())),
        ("generator", pa.string()),
        ("category", pa.string()),
        ("source", pa.string()),
        ("annotator", pa.string()),
    ],
    metadata={VERSION_KEY: SCHEMA_VERSION.encode()},
)
_WITH_DICTIONARY = [
    *("sample_id", "image_path", "label", "regions.list.element.caption", "tags.list.element"),
    *("generator", "category", "source", "annotator"),
]
"""Columns written as a dictionary and numbers into it; of images it would be a page of all 16, read for one of them."""
_LACKING: dict[str, frozenset[str]] = {SCHEMA_VERSION: frozenset(), "1": frozenset({"annotator"})}
"""Versions that are read, and the columns that each of them lacks."""

_MAKE = "fxray data import makes a dataset of a tool's annotations, fxray data synth one of planted flaws"
_OF_ANNOTATIONS = (".json", ".jsonl", ".csv", ".xml")
_REWRITE = "write the file with fxray.data.dataset.write_dataset, or mend the row"


@dataclass(frozen=True, slots=True)
class Row:
    """A sample with its image: encoded bytes, or a path relative to the dataset file."""

    sample: Sample
    image: bytes | None = None
    image_path: str | None = None


class Dataset:
    """An opened dataset; `samples` is whole, images are read one by one.

    Attributes:
        path: The Parquet file.
        samples: All rows without their pixels, in the order of the file.
    """

    def __init__(self, path: Path, samples: list[Sample], image_paths: list[str | None]) -> None:
        self.path = path
        self.samples = samples
        self._image_paths = image_paths
        self._file: pq.ParquetFile | None = None
        self._reading = threading.Lock()  # a Parquet file has one place where it reads

    @classmethod
    def open(cls, path: Path) -> "Dataset":
        """Reads all columns but the pixels and checks each row.

        Raises:
            DataError: The file is missing, no Parquet, of another schema version, or empty, or a row is malformed.
        """
        refuse_no_file(path)
        try:
            with pq.ParquetFile(path) as file, without_collection():  # which looks in vain through millions of objects
                columns = check_schema(file.schema_arrow, path)
                batches = file.iter_batches(ROWS_PER_GROUP_WITHOUT_PIXELS, columns=[c for c in columns if c != "image"])
                samples, image_paths = _read_samples(batches, path)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
            raise DataError(
                f"not a readable Parquet file: {str(error)[:200]}", where=str(path), remedy="write the file again"
            ) from error
        if not samples:
            raise DataError("dataset without rows, expected at least one", where=str(path), remedy=_REWRITE)
        return cls(path, samples, image_paths)

    def __len__(self) -> int:
        return len(self.samples)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_file", "_reading")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _file=None, _reading=threading.Lock())

    def image_file(self, row: int) -> Path | None:
        """The image file of a row, or None where its image is inside the dataset file."""
        relative = self._image_paths[row]
        return None if relative is None else image_beside(self.path, relative)

    def image_bytes(self, row: int) -> bytes:
        """The encoded image of a row, read from its row group or from the file beside the dataset; threads may ask.

        Raises:
            DataError: The row has no image, its part of the dataset file is damaged, or the image's own file is
                missing, no plain file or larger than 256 MiB.
        """
        where = f"{self.path} row {row}"
        file = self.image_file(row)
        if file is not None:
            return read_image_file(file, f"{where} field image_path")
        with self._reading:
            content = self._image_inside(row, where)
        if not content:
            raise DataError("fields image and image_path are both empty, expected one", where=where, remedy=_REWRITE)
        return content

    def _image_inside(self, row: int, where: str) -> bytes | None:
        try:
            if self._file is None:
                self._file = pq.ParquetFile(self.path, memory_map=True)
                counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
                self._places = [(group, offset) for group, count in enumerate(counts) for offset in range(count)]
            group, offset = self._places[row]
            batch_rows = max(1, self._file.metadata.row_group(group).num_rows // ROWS_PER_GROUP)
            # Ends at the row's own batch.
            for batch in self._file.iter_batches(batch_rows, [group], ["image"], use_threads=False):
                if offset < batch.num_rows:
                    break
                offset -= batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"its part of the file cannot be read: {str(error)[:200]}", where=where, remedy="write the file again"
            ) from error
        content: bytes | None = batch.column(0)[offset].as_py()
        return content

    def decode(self, row: int, encoded: bytes) -> Image.Image:
        """The image of a row as upright RGB, from its bytes: of the size that the row says, or its boxes would not fit.

        Raises:
            DataError: It cannot be read, or is of another size.
        """
        sample = self.samples[row]
        where = f"{self.path} row {row} (sample {sample.sample_id!r})"
        image = decode_image(encoded, where)
        if image.size != (sample.width_px, sample.height_px):
            raise DataError(
                f"image is {image.width}x{image.height} px upright, expected {sample.width_px}x{sample.height_px}",
                where=where,
                remedy="mend or remove the row",
            )
        return image


def write_dataset(path: Path, rows: Iterable[Row]) -> None:
    """Writes a dataset file, whole or not at all; the same rows give the same bytes.

    Raises:
        DataError: A row that `Dataset.open` would refuse, or no rows.
    """
    num_rows = 0
    with atomic_path(path) as aside, dataset_writer(aside) as writer:
        for group in _groups(rows):
            records = []
            for row in group:
                record = _write_record(row)
                _read_sample(record, f"{path} row {num_rows}")
                records.append(record)
                num_rows += 1
            writer.write_table(_as_table(records, f"{path} rows {num_rows - len(records)} to {num_rows - 1}"))
        if num_rows == 0:
            raise DataError("dataset without rows, expected at least one", where=str(path), remedy="give some rows")


def _as_table(records: list[dict[str, Any]], where: str) -> pa.Table:
    try:
        return pa.Table.from_pylist(records, schema=SCHEMA)
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise DataError(f"text with broken characters: {error.object!a:.120}", where=where, remedy=_REWRITE) from error


def dataset_writer(path: Path) -> pq.ParquetWriter:
    """Opens a file for tables of `SCHEMA`; images, which other programs have compressed, are laid down as they are."""
    return pq.ParquetWriter(path, SCHEMA, compression="none", use_dictionary=_WITH_DICTIONARY)


def join_datasets(path: Path, parts: Iterable[Path]) -> None:
    """Lays files that `write_dataset` wrote end to end, whole or not at all, without reading a row.

    Raises:
        DataError: There are no parts.
    """
    waiting, num_rows = list[pa.Table](), 0
    with atomic_path(path) as aside, dataset_writer(aside) as writer:
        for part in parts:
            waiting.append(pq.read_table(part))
            num_rows += waiting[-1].num_rows
            if sum(table.num_rows for table in waiting) >= ROWS_PER_GROUP_WITHOUT_PIXELS:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
        if num_rows == 0:
            raise DataError("dataset without rows, expected at least one", where=str(path), remedy="give some rows")


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group, num_images = list[Row](), 0
    for row in rows:
        group.append(row)
        num_images += row.image is not None
        if num_images == ROWS_PER_GROUP or len(group) == ROWS_PER_GROUP_WITHOUT_PIXELS:
            yield group
            group, num_images = [], 0
    if group:
        yield group


def _read_samples(batches: Iterable[pa.RecordBatch], path: Path) -> tuple[list[Sample], list[str | None]]:
    """All rows, and where each has its image; as dictionaries, a few at a time, for these take several times the room.

    Raises:
        DataError: One is malformed, or two have the same id.
    """
    samples, image_paths, seen = list[Sample](), list[str | None](), dict[str, int]()
    for number, fields in enumerate(fields for batch in batches for fields in batch.to_pylist()):
        sample = _read_sample(fields, f"{path} row {number}")
        if sample.sample_id in seen:
            raise DataError(
                f"field sample_id: {sample.sample_id!r} also names row {seen[sample.sample_id]}",
                where=f"{path} row {number}",
                remedy="give each row an id of its own",
            )
        seen[sample.sample_id] = number
        samples.append(sample)
        image_paths.append(fields["image_path"])
    return samples, image_paths


def refuse_no_file(path: Path) -> None:
    """Sees to it that there is a file.

    Raises:
        DataError: There is nothing, or a folder, whose dataset files are named, or annotations that are to be imported
            first; or the path is no UTF-8.
    """
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.parquet"))[:5]
        remedy = f"name a file in it: {', '.join(inside)}" if inside else "name a Parquet file"
        raise DataError("is a folder, expected a dataset file", where=str(path), remedy=remedy)
    if not (is_there(path) and path.is_file()):
        raise DataError("no such dataset file", where=str(path), remedy=f"check the path, or make one: {_MAKE}")
    if path.suffix.lower() in _OF_ANNOTATIONS:
        name = path.suffix[1:].upper()
        raise DataError(f"a {name} file, expected a dataset in a Parquet file", where=str(path), remedy=_MAKE)
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            "its path is no UTF-8, and Parquet files are opened by no other", where=str(path), remedy="rename it"
        ) from error


def check_schema(schema: pa.Schema, path: Path) -> list[str]:
    """Refuses a file of another schema; returns the columns that a file of its version has."""
    version = (schema.metadata or {}).get(VERSION_KEY, b"none").decode("utf-8", "replace")
    if version not in _LACKING:
        raise DataError(
            f"schema version {version!r} in the Arrow metadata, expected {SCHEMA_VERSION!r} (or an earlier one)",
            where=str(path),
            remedy="a file of another origin goes through an importer, one of another fxray through that version",
        )
    fields = [field for field in SCHEMA if field.name not in _LACKING[version]]
    for field in fields:
        found = schema.field(field.name).type if field.name in schema.names else None
        if found != field.type:
            raise DataError(
                f"column {field.name!r} is {found}, expected {field.type}", where=str(path), remedy=_REWRITE
            )
    return [field.name for field in fields]


def _write_record(row: Row) -> dict[str, Any]:
    sample, annotation = row.sample, row.sample.annotation
    return {
        "sample_id": sample.sample_id,
        "image": row.image,
        "image_path": row.image_path,
        "width_px": sample.width_px,
        "height_px": sample.height_px,
        "label": annotation.verdict.value,
        "regions": [_stored_box(region.box) | {"caption": region.caption} for region in annotation.regions],
        "tags": [tag.value for tag in annotation.tags],
        "generator": sample.generator,
        "category": sample.category,
        "source": sample.source,
        "annotator": sample.annotator,
    }


def _stored_box(box: Box) -> dict[str, float]:
    """A box as the file keeps it, in 32 bits, in which a narrow one may have no area."""
    with np.errstate(over="ignore"):  # what is infinite in them lies outside, and is refused
        return {name: float(np.float32(corner)) for name, corner in box._asdict().items()}


def _read_sample(fields: dict[str, Any], where: str) -> Sample:
    """A row's fields as a sample.

    Raises:
        DataError: A field is null or holds what it must not; the message names field and value.
    """
    for fault in row_faults(fields):
        rule = RULES[fault.rule]
        if rule.severity is Severity.ERROR:
            raise DataError(f"field {fault.field}: {fault.message}", where=where, remedy=rule.remedy)
    regions = tuple(
        Region(Box(region["x_min"], region["y_min"], region["x_max"], region["y_max"]), region["caption"])
        for region in fields["regions"]
    )
    return Sample(
        sample_id=fields["sample_id"],
        width_px=fields["width_px"],
        height_px=fields["height_px"],
        annotation=Annotation(Verdict(fields["label"]), regions, tuple(Tag(tag) for tag in fields["tags"])),
        generator=fields["generator"],
        category=fields["category"],
        source=fields["source"],
        annotator=fields.get("annotator"),
    )
