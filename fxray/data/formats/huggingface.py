"""A folder that `datasets.load_dataset` opens: Parquet files with the images inside, and a card.

Boxes are `[x_min, y_min, x_max, y_max]` in pixels of the upright image, which `datasets` itself decodes to.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fxray.counts import counted
from fxray.data.exported import Exported, in_place_of_truth
from fxray.data.formats import fields, stream
from fxray.data.formats.embedded import IMAGES_AT_A_TIME
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Finding, Place, Raw, RawRegion, Record, Rows, read_each
from fxray.errors import DataError

MAX_FILE_BYTES = 500 * 2**20
"""Of images in one Parquet file, as the Hub likes it."""
ROWS_PER_GROUP = 100
MAX_GROUP_BYTES = 32 * 2**20
"""Of images in one row group, which is held in memory while it is written."""

_TEXTS = ("sample_id", "label", "generator", "category", "source", "annotator")
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("regions", pa.list_(pa.struct([("box", pa.list_(pa.float32(), 4)), ("caption", pa.string())]))),
        ("tags", pa.list_(pa.string())),
        *((name, pa.string()) for name in _TEXTS),
    ]
)
_TEXT_FEATURE = {"dtype": "string", "_type": "Value"}
_BOX_FEATURE = {"feature": {"dtype": "float32", "_type": "Value"}, "length": 4, "_type": "List"}
_FEATURES = {
    "image": {"_type": "Image"},
    "regions": {"feature": {"box": _BOX_FEATURE, "caption": _TEXT_FEATURE}, "_type": "List"},
    "tags": {"feature": _TEXT_FEATURE, "_type": "List"},
    **dict.fromkeys(_TEXTS, _TEXT_FEATURE),
}


def read(src: Path, images: Images) -> Rows:
    """One record per row of the Parquet files below a folder; an image without bytes is the file at its path.

    Raises:
        DataError: There is no Parquet file, or one is unlike what `write` makes.
    """
    return read_each(_rows(stream.documents(src, ".parquet")), lambda place, row: _read_row(place, row, images))


def _rows(files: Iterator[Path]) -> Iterator[Raw | Finding]:
    for path in files:
        number = 0
        try:
            file = pq.ParquetFile(path, buffer_size=2**20)  # else whole chunks of columns are held
            _check_image_column(file.schema_arrow, path)
            for is_inside, row in _each_row(file):
                yield Place(str(path), f"row {number}"), (number if is_inside else None, row)
                number += 1
        except (pa.ArrowException, OSError) as error:
            problem = FieldProblem("file", str(error)[:200], f"Parquet breaks at row {number}; the rest is unread")
            yield Finding.of(Place(str(path)), problem)


def _each_row(file: pq.ParquetFile) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Whether its image is inside the file, and the row; images are looked at where the metadata do not say that."""
    columns = [name for name in file.schema_arrow.names if name != "image"]
    for group in range(file.num_row_groups):
        metadata = file.metadata.row_group(group)
        chunks = [metadata.column(index) for index in range(metadata.num_columns)]
        known = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == "image.bytes"), None)
        are_inside = known is not None and known.has_null_count and known.null_count == 0
        num_rows = ROWS_PER_GROUP if are_inside else IMAGES_AT_A_TIME
        wanted = [*columns, "image.path" if are_inside else "image"]
        for batch in file.iter_batches(num_rows, [group], wanted, use_threads=False):
            for row in batch.to_pylist():
                yield are_inside or bool((row["image"] or {}).get("bytes")), row


def _check_image_column(schema: pa.Schema, path: Path) -> None:
    kind = schema.field("image").type if "image" in schema.names else None
    if kind is None or not pa.types.is_struct(kind) or "path" not in {child.name for child in kind}:
        raise DataError(
            f"column image is {kind}, expected a struct of bytes and path",
            where=str(path),
            remedy="give a folder that `fxray data export huggingface` or datasets' Image feature wrote",
        )


def _read_row(place: Place, numbered: tuple[int | None, Mapping[str, Any]], images: Images) -> Record:
    number, row = numbered
    name = (row.get("image") or {}).get("path")
    is_inside = number is not None
    regions = []
    for index, region in enumerate(fields.sequence(row.get("regions"), "regions")):
        corners = fields.four_numbers(fields.mapping(region, f"regions[{index}]").get("box"), f"regions[{index}].box")
        regions.append(RawRegion(corners, str(region.get("caption") or ""), f"regions[{index}].box"))
    return Record(
        place=place,
        image=place.file if is_inside else images.find(name, "image"),
        image_field="image",
        name=name or f"{Path(place.file).stem}-{number}",
        member=number,
        regions=tuple(regions),
        tags=fields.texts(row.get("tags"), "tags"),
        label=fields.optional_text(row.get("label"), "label"),
        **fields.origin(row),
    )


def write(rows: Iterator[Exported], dst: Path, *, has_predictions: bool) -> Path:
    """Writes `data/train-*.parquet` and a card; the images go into the Parquet files.

    Predictions stand in the place of the truth; one without a verdict has no label, one that says real has no boxes.
    """
    del has_predictions
    folder = dst / "data"
    folder.mkdir()
    counts: dict[str, int] = {}
    number, waiting = 0, iter(rows)
    first = next(waiting, None)
    while first is not None:
        first = _write_file(folder / f"part-{number:05d}.parquet", first, waiting, dst, counts)
        number += 1
    for index in range(number):
        (folder / f"part-{index:05d}.parquet").rename(folder / f"train-{index:05d}-of-{number:05d}.parquet")
    (dst / "README.md").write_text(_card(counts), encoding="utf-8")
    return folder


def _write_file(
    path: Path, row: Exported | None, waiting: Iterator[Exported], dst: Path, counts: dict[str, int]
) -> Exported | None:
    """Fills one file; returns the row that no longer went in, or None at the end."""
    schema = SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": _FEATURES}})})
    group: list[dict[str, Any]] = []
    num_bytes, num_group_bytes = 0, 0
    with pq.ParquetWriter(path, schema, compression="snappy") as writer:
        while row is not None and num_bytes < MAX_FILE_BYTES:
            record = _as_record(row, dst)
            label = record["label"] or "without a label"
            counts[label] = counts.get(label, 0) + 1
            num_bytes += len(record["image"]["bytes"])
            num_group_bytes += len(record["image"]["bytes"])
            group.append(record)
            row = next(waiting, None)
            if len(group) == ROWS_PER_GROUP or num_group_bytes >= MAX_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group.clear()
                num_group_bytes = 0
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return row


def _as_record(row: Exported, dst: Path) -> dict[str, Any]:
    sample, said, file = row.sample, in_place_of_truth(row), dst / row.image
    content = file.read_bytes()
    file.unlink()  # it is inside the Parquet file now
    return {
        "image": {"bytes": content, "path": file.name},
        "regions": [{"box": list(region.box), "caption": region.caption} for region in said.regions],
        "tags": [tag.value for tag in said.tags],
        "label": said.verdict,
        **{name: getattr(sample, name) for name in _TEXTS if name != "label"},
    }


def _card(counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count} {label}" for label, count in sorted(counts.items()))
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
task_categories:
- image-classification
- object-detection
tags:
- ai-generated-images
---

# Images with a verdict, boxes, captions and tags

{counted(sum(counts.values()), "image")}: {listed}. Written by fxray; `fxray data import huggingface` reads it back.

| column | meaning |
|---|---|
| image | the encoded image; `datasets` decodes it upright (EXIF orientation applied) |
| regions | flaws: `box` is x_min, y_min, x_max, y_max in pixels of the upright image; `caption` says what is wrong |
| tags | kinds of flaws of the whole image |
| label | `real` or `generated`; null where a prediction had no verdict that could be read |
| generator | who made the image |
| category | what it shows |
| source | the photograph or collection; keep one source in one split |
| annotator | who marked it, where that is known |
| sample_id | unique |
"""
