"""COCO JSON: images and annotations in two lists, joined by image id.

A caption is an annotation's `caption` (or `description`), also among its `attributes`, as CVAT writes it; where it has
none of them the name of its category, and where its own are blank the row is refused. Label, tags, generator, category,
source and sample_id may stand beside an image's file name. An annotation without `bbox` takes the box around its
polygons. The join goes through a file, so that size costs no memory. Where the JSON breaks before the lists of
categories and annotations have ended, no image is read: any could lack boxes. Images that share an id are refused, as
nobody can tell whose the annotations are.
"""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from fxray.counts import counted
from fxray.data.exported import Exported, Guess
from fxray.data.formats import fields, stream
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Finding, Place, RawRegion, Record, Rows, read_each
from fxray.errors import ResourceError
from fxray.schema import Box, Region

ANNOTATIONS = "annotations.json"
"""Of an export: the images and their boxes. Beside results of others it says what their image ids stand for."""


def read(src: Path, images: Images) -> Rows:
    """One record per image, those without annotations too; none where the file breaks off before annotations end.

    Raises:
        DataError: The file is no JSON object.
        ResourceError: There is no room for the join.
    """
    stream.first_key(src)  # says at once that a file is no JSON
    with tempfile.TemporaryDirectory(prefix="fxray-") as folder:
        try:
            with closing(sqlite3.connect(f"{folder}/join")) as joined:
                yield from _joined_rows(src, images, joined)
        except sqlite3.Error as error:
            raise ResourceError(
                f"images and annotations cannot be joined in a temporary file: {error}",
                where=folder,
                remedy=f"set TMPDIR to a folder with as much room as {src.name} takes",
            ) from error


def _joined_rows(src: Path, images: Images, joined: sqlite3.Connection) -> Rows:
    names = {}
    for raw in stream.items(src, "categories", "category"):
        if not isinstance(raw, Finding) and isinstance(raw[1], dict):
            names[_id(raw[1].get("id"))] = str(raw[1].get("name") or "")
    is_whole = yield from _lay_down(src, joined)
    if not is_whole:
        return
    _count_ids(src, joined)
    rows = stream.items(src, "images", "image")
    named = (raw if isinstance(raw, Finding) else (_with_id(*raw), raw[1]) for raw in rows)
    yield from read_each(
        named, lambda place, row: _read_image(place, fields.mapping(row, "image"), images, names, joined)
    )
    yield from _left_over(src, joined)


def _with_id(place: Place, row: Any) -> Place:
    """The place with the id that the file itself gives its row: indices count from 0, and people look for the id."""
    number = row.get("id") if isinstance(row, dict) else None
    return place if number is None else Place(place.file, f"{place.row} (id {_id(number)})")


def _lay_down(src: Path, joined: sqlite3.Connection) -> Generator[Finding, None, bool]:
    """Keeps the annotations for the join; whether all of them, and all categories, could be read."""
    is_whole, is_empty = True, True
    joined.execute("PRAGMA synchronous = OFF")
    joined.execute("CREATE TABLE annotation (image TEXT, number INTEGER, content TEXT)")
    for number, raw in enumerate(stream.items(src, "annotations", "annotation")):
        is_empty = False
        if isinstance(raw, Finding):
            is_whole = all(stream.is_closed(src, name) for name in ("categories", "annotations"))
            lost = "" if is_whole else ", and no image is imported: any could lack boxes"
            yield replace(raw, reason=raw.reason + lost)
            continue
        place, row = raw
        if not isinstance(row, dict) or row.get("image_id") is None:
            yield Finding.of(_with_id(place, row), FieldProblem("image_id", row, "an annotation of no image"))
            continue
        joined.execute("INSERT INTO annotation VALUES (?, ?, ?)", (_id(row["image_id"]), number, json.dumps(row)))
    joined.execute("CREATE INDEX by_image ON annotation (image)")
    if is_empty and not stream.is_closed(src, "annotations"):
        problem = FieldProblem("annotations", None, "no such list, so all images are imported without boxes")
        yield Finding.of(Place(str(src)), problem, is_warning=True)
    return is_whole


def _count_ids(src: Path, joined: sqlite3.Connection) -> None:
    joined.execute("CREATE TABLE listed (image TEXT PRIMARY KEY, times INTEGER)")
    for raw in stream.items(src, "images", "image"):
        if not isinstance(raw, Finding) and isinstance(raw[1], dict) and raw[1].get("id") is not None:
            joined.execute(
                "INSERT INTO listed VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1", (_id(raw[1]["id"]),)
            )


def _read_image(place: Place, row: Any, images: Images, names: dict[str, str], joined: sqlite3.Connection) -> Record:
    key = _id(row.get("id"))
    (times,) = joined.execute("SELECT max(times) FROM listed WHERE image = ?", (key,)).fetchone()
    if times is not None and times > 1:
        raise FieldProblem(
            "id", key, f"the id of {counted(times, 'image')}, expected one; whose the annotations are is unknown"
        )
    found = joined.execute("SELECT number, content FROM annotation WHERE image = ? ORDER BY number", (key,)).fetchall()
    joined.execute("DELETE FROM annotation WHERE image = ?", (key,))
    name = fields.text(row.get("file_name"), "file_name")
    pairs = [_region(number, json.loads(content), names) for number, content in found]
    tags = fields.texts(row.get("tags"), "tags")
    return Record(
        place=place,
        image=images.find(name, "file_name"),
        image_field="file_name",
        name=name,
        regions=tuple(region for region, _ in pairs),
        tags=tags or fields.tags_among(kind for _, kind in pairs),
        size_px=fields.size(row.get("width"), row.get("height")),
        label=fields.optional_text(row.get("label"), "label"),
        **fields.origin(row),
    )


def _id(value: object) -> str:
    """An id as it is compared: 1, 1.0, as pandas writes it where another row has none, and "1" are one."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _region(number: int, row: dict[str, Any], names: dict[str, str]) -> tuple[RawRegion, str]:
    where = f"annotations[{number}]"
    attributes = row.get("attributes")
    kind = names.get(_id(row.get("category_id")), "")
    caption = _caption(where, row, attributes if isinstance(attributes, dict) else {}) or kind
    if not caption and (category := row.get("category_id")) is not None and _id(category) not in names:
        raise FieldProblem(f"{where}.category_id", category, "no category of this id is listed, and no caption given")
    if isinstance(attributes, dict) and fields.number(attributes.get("rotation") or 0, f"{where}.attributes.rotation"):
        raise FieldProblem(
            f"{where}.attributes.rotation", attributes["rotation"], "a turned box, expected an upright one"
        )
    if row.get("bbox"):
        corners = fields.from_xywh(fields.four_numbers(row["bbox"], f"{where}.bbox"))
    elif isinstance(row.get("segmentation"), list):
        corners = fields.around_flat(row["segmentation"], f"{where}.segmentation")
    else:
        raise FieldProblem(f"{where}.bbox", row.get("bbox"), "expected [x, y, width, height], or polygons")
    return RawRegion(corners, caption, f"{where}.bbox"), kind


def _caption(where: str, row: dict[str, Any], attributes: dict[str, Any]) -> str | None:
    """The caption of an annotation, or None where it has none; its own one that is there and blank refuses the row.

    Among `attributes` a blank is what CVAT writes where nobody wrote anything.
    """
    if caption := fields.caption_in(row) or fields.caption_in(attributes):
        return caption
    for key in fields.CAPTION_KEYS:
        if isinstance(row.get(key), str):
            reason = "a blank caption; write it, or leave the field out if the category says it all"
            raise FieldProblem(f"{where}.{key}", row[key], reason)
    return None


def _left_over(src: Path, joined: sqlite3.Connection) -> Iterator[Finding]:
    first = "SELECT image, min(number), content FROM annotation GROUP BY image ORDER BY 2"  # content is of that number
    for image, number, content in joined.execute(first):
        problem = FieldProblem("image_id", image, "no image of this id is listed, or it is listed twice")
        yield Finding.of(_with_id(Place(str(src), f"annotation {number}"), json.loads(content)), problem)


def write(rows: Iterator[Exported], dst: Path, *, has_predictions: bool) -> Path:
    """Writes `annotations.json` with boxes of the upright image, and `results.json` where there are predictions."""
    path = dst / ANNOTATIONS
    with ExitStack() as stack:
        out = stack.enter_context(path.open("w"))
        boxes = stack.enter_context(tempfile.TemporaryFile("w+"))
        guesses = stack.enter_context((dst / "results.json" if has_predictions else Path(os.devnull)).open("w"))
        out.write(
            '{"info": {"description": "written by fxray"},\n"categories": [{"id": 1, "name": "flaw"}],\n"images": '
        )
        lists = images, truths, results = _JsonList(out), _JsonList(boxes), _JsonList(guesses)
        for row in rows:
            images.add(_as_image(row))
            for region in row.sample.annotation.regions:
                truths.add(_as_annotation(truths.length + 1, row, region))
            for region, score in _scored(row.guess) if row.guess else ():
                results.add(_as_result(row, region, score))
        for written in lists:
            written.close()
        out.write(',\n"annotations": ')
        boxes.seek(0)
        shutil.copyfileobj(boxes, out)
        out.write("}\n")
    return path


class _JsonList:
    """A list that is written item by item."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self.length = 0

    def add(self, item: dict[str, Any]) -> None:
        self._out.write(("," if self.length else "[") + "\n" + json.dumps(item))
        self.length += 1

    def close(self) -> None:
        self._out.write("]" if self.length else "[]")


def _as_image(row: Exported) -> dict[str, Any]:
    sample, verdict = row.sample, row.sample.annotation.verdict
    return {
        "id": row.number + 1,
        "file_name": row.image,
        "width": sample.width_px,
        "height": sample.height_px,
        "label": verdict if row.assessment in ("", verdict) else None,
        **({"assessment": row.assessment} if row.assessment else {}),
        "tags": list(sample.annotation.tags),
        "sample_id": sample.sample_id,
        "generator": sample.generator,
        "category": sample.category,
        "source": sample.source,
        "annotator": sample.annotator,
    }


def _as_annotation(number: int, row: Exported, region: Region) -> dict[str, Any]:
    x, y, width, height = _xywh(region.box)
    return {
        "id": number,
        "image_id": row.number + 1,
        "category_id": 1,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
        "caption": region.caption,
    }


def _scored(guess: Guess) -> Iterator[tuple[Region, float]]:
    return zip(guess.regions, guess.box_scores or [guess.score] * len(guess.regions), strict=True)


def _as_result(row: Exported, region: Region, score: float) -> dict[str, Any]:
    return {"image_id": row.number + 1, "category_id": 1, "bbox": list(_xywh(region.box)), "score": score}


def _xywh(box: Box) -> tuple[float, float, float, float]:
    return box.x_min, box.y_min, box.x_max - box.x_min, box.y_max - box.y_min
