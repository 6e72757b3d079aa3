"""LabelMe: one JSON file per image, boxes in pixels of the displayed image.

A caption is a shape's description, else its label. Flags that are set and named like a verdict or a tag count as such,
others are told. Where the image file is missing, the copy inside the JSON file is taken.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxray.data.formats import fields, stream
from fxray.data.formats.embedded import LABELME_FIELD
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Place, RawRegion, Record, Rows, read_each
from fxray.grammar.lenient import TAG_NAMES, VERDICT_WORDS


def read(src: Path, images: Images) -> Rows:
    """One record per JSON file.

    Raises:
        DataError: There is none.
    """
    files = stream.documents(src, ".json")
    return read_each(((Place(str(path)), path) for path in files), lambda place, path: _read_file(place, path, images))


def _read_file(place: Place, path: Path, images: Images) -> Record:
    row = fields.mapping(stream.document(path), "file")
    name = fields.text(row.get("imagePath"), "imagePath")
    try:
        image, field = images.find(name, "imagePath", path.parent), "imagePath"
    except FieldProblem:
        if not row.get(LABELME_FIELD):
            raise
        image, field = str(path), LABELME_FIELD
    flags = row.get("flags")
    names = [str(flag) for flag, is_set in flags.items() if is_set] if isinstance(flags, dict) else []
    shapes = [
        (f"shapes[{index}]", fields.mapping(shape, f"shapes[{index}]"))
        for index, shape in enumerate(fields.sequence(row.get("shapes"), "shapes"))
    ]
    kinds = [str(shape.get("label") or "") for _, shape in shapes]
    verdicts = [flag for flag in names if flag.strip().lower() in VERDICT_WORDS]
    return Record(
        place=place,
        image=image,
        image_field=field,
        name=images.name_below(image if field == "imagePath" else path.parent / name, name),
        regions=tuple(_region(where, shape) for where, shape in shapes),
        tags=tuple(flag for flag in names if flag.strip().lower() in TAG_NAMES) or fields.tags_among(kinds),
        label=fields.one_verdict(verdicts, "flags"),
        size_px=fields.size(row.get("imageWidth"), row.get("imageHeight")),
        notes=fields.passed_over(names, "flags"),
    )


def _region(where: str, shape: Mapping[str, Any]) -> RawRegion:
    kind, field = shape.get("shape_type") or "polygon", f"{where}.points"
    caption = fields.caption_in(shape) or str(shape.get("label") or "")
    if kind in ("rectangle", "polygon", "mask", "linestrip"):
        return RawRegion(fields.around_pairs(shape.get("points"), field), caption, field)
    if kind == "circle":
        return RawRegion(_around_circle(shape.get("points"), field), caption, field)
    raise FieldProblem(f"{where}.shape_type", kind, "expected rectangle, polygon, mask, linestrip or circle")


def _around_circle(points: Any, field: str) -> fields.Corners:
    """Around a circle that is given by its centre and a point on its rim."""
    found = fields.pairs(points, field)
    if len(found) != 2:
        raise FieldProblem(field, points, "expected a centre and a point on the rim")
    (x, y), (rim_x, rim_y) = found
    radius = math.hypot(x - rim_x, y - rim_y)
    return x - radius, y - radius, x + radius, y + radius
