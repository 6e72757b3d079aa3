"""A list of images in CSV, JSON or JSON lines, the simplest thing that a script writes.

image      required: path of the file
label, sample_id, generator, category, source, annotator
tags       texts, or one text with semicolons
regions    [{"box": [x_min, y_min, x_max, y_max], "caption": "..."}, ...]; in CSV as JSON in the cell
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fxray.data.formats import fields, stream
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Finding, Place, Raw, RawRegion, Record, Rows, read_each
from fxray.data.separators import remedy_for_columns
from fxray.errors import DataError

_COLUMNS = ("image", "label", "sample_id", "generator", "category", "source", "annotator", "tags", "regions")
_MAX_CELL = 2**24


def read(src: Path, images: Images) -> Rows:
    """The rows of a manifest.

    Raises:
        DataError: The file is missing, has no column `image`, or a column twice.
    """
    rows = stream.rows(src) if src.suffix.lower() in (".jsonl", ".ndjson", ".json") else _csv_rows(src)
    return read_each(rows, lambda place, row: read_row(place, fields.mapping(row, "row"), images))


def read_row(place: Place, row: Any, images: Images) -> Record:
    """One row of a manifest.

    Raises:
        FieldProblem: A field is missing, unknown or malformed.
    """
    for name in row:
        if name not in _COLUMNS:
            raise FieldProblem(str(name), row[name], f"no field of a manifest: {', '.join(_COLUMNS)}")
    name = fields.text(row.get("image"), "image")
    regions = tuple(
        _region(fields.mapping(region, f"regions[{index}]"), f"regions[{index}]")
        for index, region in enumerate(fields.sequence(row.get("regions"), "regions"))
    )
    return Record(
        place=place,
        image=images.find(name, "image"),
        image_field="image",
        name=name,
        regions=regions,
        tags=fields.texts(row.get("tags"), "tags"),
        label=fields.optional_text(row.get("label"), "label"),
        **fields.origin(row),
    )


def _region(region: Any, field: str) -> RawRegion:
    corners = fields.four_numbers(region.get("box"), f"{field}.box")
    return RawRegion(corners, fields.text(region.get("caption"), f"{field}.caption"), f"{field}.box")


def _csv_rows(path: Path) -> Iterator[Raw | Finding]:
    csv.field_size_limit(_MAX_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or ())
            if "image" not in columns:
                remedy = f"the first line names the columns, some of {', '.join(_COLUMNS)}"
                raise DataError(
                    f"columns {', '.join(columns) or 'none'}, expected one named image",
                    where=str(path),
                    remedy=remedy_for_columns(columns, remedy),
                )
            if twice := [name for name in _COLUMNS if columns.count(name) > 1]:
                raise DataError(f"several columns {', '.join(twice)}", where=str(path), remedy="keep one of each")
            for row in reader:
                place = Place(str(path), f"line {reader.line_num}")
                yield _cells(place, row)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from error
    except UnicodeDecodeError as error:
        problem = FieldProblem("file", error.reason, "no UTF-8, as which it has to be saved; the rest is unread")
        yield Finding.of(Place(str(path)), problem)
    except csv.Error as error:
        yield Finding.of(Place(str(path)), FieldProblem("file", str(error), "CSV breaks here; the rest is unread"))


def _cells(place: Place, row: dict[str | Any, Any]) -> Raw | Finding:
    if None in row:
        return Finding.of(place, FieldProblem("row", row[None], "more cells than columns"))
    if None in row.values():
        return Finding.of(place, FieldProblem("row", list(row.values()), "fewer cells than columns"))
    filled = {name: value for name, value in row.items() if value}
    if "regions" in filled:
        try:
            filled["regions"] = json.loads(filled["regions"])
        except (ValueError, RecursionError) as error:
            return Finding.of(place, FieldProblem("regions", filled["regions"], f"no JSON: {error}"))
    return place, filled
