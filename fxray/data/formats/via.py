"""VGG Image Annotator 2: a JSON export or a saved project, boxes in pixels of the displayed image.

A caption is a region's attribute `caption` or `description`, else its first attribute with text. File attributes give
label and tags.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxray.data.formats import fields, stream
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Place, RawRegion, Record, Rows, read_each

_PROJECT = "_via_img_metadata"


def read(src: Path, images: Images) -> Rows:
    """One record per image.

    Raises:
        DataError: The file is no JSON.
    """
    prefix = _PROJECT if (stream.first_key(src) or "").startswith("_via_") else ""
    rows = stream.entries(src, prefix)
    return read_each(rows, lambda place, row: _read_image(place, fields.mapping(row, "image"), images))


def _read_image(place: Place, row: Mapping[str, Any], images: Images) -> Record:
    name = fields.text(row.get("filename"), "filename")
    attributes = fields.mapping(row.get("file_attributes") or {}, "file_attributes")
    listed = row.get("regions") or []
    listed = list(listed.values()) if isinstance(listed, dict) else fields.sequence(listed, "regions")
    regions = [_region(fields.mapping(region, f"regions[{i}]"), f"regions[{i}]") for i, region in enumerate(listed)]
    tags = attributes.get("tags")
    if isinstance(tags, dict):  # a checkbox
        tags = [name for name, is_set in tags.items() if is_set]
    return Record(
        place=place,
        image=images.find(name, "filename"),
        image_field="filename",
        name=name,
        regions=tuple(regions),
        tags=fields.texts(tags, "file_attributes.tags"),
        label=fields.optional_text(attributes.get("label"), "file_attributes.label"),
        **fields.origin(attributes, "file_attributes."),
    )


def _region(region: Mapping[str, Any], field: str) -> RawRegion:
    shape = fields.mapping(region.get("shape_attributes"), f"{field}.shape_attributes")
    attributes = fields.mapping(region.get("region_attributes") or {}, f"{field}.region_attributes")
    written = [value for value in attributes.values() if isinstance(value, str) and value.strip()]
    caption = fields.caption_in(attributes) or (written[0] if written else "")
    return RawRegion(_corners(shape, f"{field}.shape_attributes"), caption, f"{field}.shape_attributes")


def _corners(shape: Mapping[str, Any], field: str) -> fields.Corners:
    def got(name: str) -> float:
        return fields.number(shape.get(name), f"{field}.{name}")

    def row(name: str) -> list[float]:
        return [
            fields.number(value, f"{field}.{name}") for value in fields.sequence(shape.get(name), f"{field}.{name}")
        ]

    match shape.get("name"):
        case "rect":
            return fields.from_xywh((got("x"), got("y"), got("width"), got("height")))
        case "circle":
            return got("cx") - got("r"), got("cy") - got("r"), got("cx") + got("r"), got("cy") + got("r")
        case "ellipse" if not fields.number(shape.get("theta") or 0, f"{field}.theta"):
            return got("cx") - got("rx"), got("cy") - got("ry"), got("cx") + got("rx"), got("cy") + got("ry")
        case "polygon" | "polyline":
            return fields.enclosing(row("all_points_x"), row("all_points_y"), field)
    raise FieldProblem(
        f"{field}.name", shape.get("name"), "expected rect, circle, polygon, polyline or upright ellipse"
    )
