"""CVAT XML 1.1 "for images", boxes in pixels of the displayed image.

A caption is a shape's attribute `caption` or `description`, else its label. Image-level tags that are named like a
verdict or a tag count as such.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse

from fxray.data.formats import fields, stream
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Finding, Place, Raw, RawRegion, Record, Rows, read_each
from fxray.grammar.lenient import TAG_NAMES, VERDICT_WORDS

_SHAPES = ("box", "polygon", "polyline", "ellipse", "mask", "points", "cuboid", "skeleton")


def read(src: Path, images: Images) -> Rows:
    """One record per `<image>`.

    Raises:
        DataError: There is no file.
    """
    for path in stream.documents(src, ".xml"):
        yield from read_each(_images(path), lambda place, element: _read_image(place, element, images))


def _images(path: Path) -> Iterator[Raw | Finding]:
    last = "the start"
    try:
        root = None
        for event, element in iterparse(path, events=("start", "end"), forbid_dtd=True):
            root = element if root is None else root
            if event == "end" and element.tag == "image":
                last = f"image {element.get('id')}"
                yield Place(str(path), last), element
                root.clear()
            elif event == "end" and element.tag == "track":
                problem = FieldProblem("track", element.get("label"), "a track of a video, expected images")
                yield Finding.of(Place(str(path), f"track {element.get('id')}"), problem)
                root.clear()
    except (ParseError, DefusedXmlException, UnicodeDecodeError, LookupError, OSError, ValueError) as error:
        reason = f"XML breaks after {last}; the rest is unread"
        yield Finding.of(Place(str(path)), FieldProblem("file", f"{type(error).__name__} {error}", reason))


def _read_image(place: Place, element: Element, images: Images) -> Record:
    name = fields.text(element.get("name"), "name")
    shapes = [child for child in element if child.tag in _SHAPES]
    tags = [str(tag.get("label")) for tag in element.iter("tag")]
    verdicts = [tag for tag in tags if tag.strip().lower() in VERDICT_WORDS]
    return Record(
        place=place,
        image=images.find(name, "name"),
        image_field="name",
        name=name,
        regions=tuple(_region(shape, f"{shape.tag}[{index}]") for index, shape in enumerate(shapes)),
        tags=tuple(tag for tag in tags if tag.strip().lower() in TAG_NAMES)
        or fields.tags_among(shape.get("label", "") for shape in shapes),
        label=fields.one_verdict(verdicts, "tag"),
        size_px=fields.size(element.get("width"), element.get("height")),
        notes=fields.passed_over(tags, "tag"),
    )


def _region(shape: Element, field: str) -> RawRegion:
    attributes = {str(child.get("name")).lower(): child.text for child in shape.iter("attribute")}
    caption = fields.caption_in(attributes) or str(shape.get("label", ""))
    if fields.number(shape.get("rotation") or 0, f"{field}.rotation"):
        raise FieldProblem(f"{field}.rotation", shape.get("rotation"), "a turned shape, expected an upright one")

    def got(name: str) -> float:
        return fields.number(shape.get(name), f"{field}.{name}")

    corners: Any
    if shape.tag == "box":
        corners = got("xtl"), got("ytl"), got("xbr"), got("ybr")
    elif shape.tag in ("polygon", "polyline"):
        points = [point.split(",") for point in (shape.get("points") or "").split(";") if point]
        corners = fields.around_pairs(points, f"{field}.points")
    elif shape.tag == "ellipse":
        corners = got("cx") - got("rx"), got("cy") - got("ry"), got("cx") + got("rx"), got("cy") + got("ry")
    elif shape.tag == "mask":
        corners = fields.from_xywh((got("left"), got("top"), got("width"), got("height")))
    else:
        raise FieldProblem(field, shape.tag, "expected box, polygon, polyline, ellipse or mask")
    return RawRegion(corners, caption, field)
