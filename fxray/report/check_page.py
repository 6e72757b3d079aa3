"""The findings of a check as one HTML file that needs nothing beside it, with the images that they are about."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ImageOps

from fxray.data.check.check import Check
from fxray.data.check.findings import Finding, Place, by_rule
from fxray.data.check.lookup import rows_at
from fxray.data.check.rules import Rule
from fxray.data.images import decoding, eight_bits, open_image, pending_orientation
from fxray.data.orientation import ORIENTATION_TAG
from fxray.errors import DataError
from fxray.files import write_atomically
from fxray.report.templates import load_style, load_template

CARDS_PER_RULE = 12
PICTURES_PER_CARD = 4
_THUMBNAIL_PX = 240
_MAX_BOXES = 40

_Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Picture:
    """A thumbnail of a row's image with its boxes.

    Attributes:
        place: The row.
        label: As it stands in the row.
        uri: JPEG as a data URI; empty where the image cannot be decoded.
        width: Of the view.
        height: Of the view.
        boxes: x, y, width and height in the view, whether or not they lie inside it.
    """

    place: Place
    label: str
    uri: str
    width: int
    height: int
    boxes: tuple[_Rectangle, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """A finding and what it is about."""

    finding: Finding
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Shelf:
    """The findings of one rule: how many there are, and the first of them as cards."""

    rule: Rule
    num_findings: int
    cards: tuple[Card, ...]


def write_check_page(path: Path, check: Check) -> None:
    """Writes the page.

    Args:
        path: The HTML file.
        check: What was found; the images shown are read again from its files.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    shown = {rule: found[:CARDS_PER_RULE] for rule, found in by_rule(check.findings).items()}
    pictures = _pictures(place for found in shown.values() for finding in found for place in _places(finding))
    shelves = [
        Shelf(
            found[0].kind,
            sum(finding.rule == rule for finding in check.findings),
            tuple(Card(finding, tuple(pictures[p] for p in _places(finding) if p in pictures)) for finding in found),
        )
        for rule, found in shown.items()
    ]
    page = load_template("fxray.report", "check.html.j2").render(
        style=load_style(),
        check=check,
        shelves=shelves,
        severities=check.severities(),
    )
    write_atomically(path, page)


def _places(finding: Finding) -> Sequence[Place]:
    """The rows of a finding that are shown."""
    return [place for place in (finding.place, *finding.others) if place.row is not None][:PICTURES_PER_CARD]


def _pictures(places: Iterable[Place]) -> dict[Place, Picture]:
    by_file: dict[str, dict[int, Place]] = {}
    for place in places:
        if place.row is not None:
            by_file.setdefault(place.file, {})[place.row] = place
    return {
        by_row[row]: _picture(by_row[row], fields)
        for file, by_row in by_file.items()
        for row, fields in rows_at(Path(file), by_row).items()
    }


def _picture(place: Place, fields: Mapping[str, Any]) -> Picture:
    size, uri = _thumbnail(fields.get("image"))
    stated = (fields.get("width_px"), fields.get("height_px"))
    if not all(isinstance(side, int) and side > 0 for side in stated):
        stated = size
    return Picture(place, str(fields.get("label") or ""), uri, *size, _boxes(fields.get("regions"), stated, size))


def _thumbnail(encoded: bytes | None) -> tuple[tuple[int, int], str]:
    """Size of the view and the image as a data URI; an empty one where it cannot be decoded."""
    blank = ((_THUMBNAIL_PX, _THUMBNAIL_PX), "")
    if not encoded:
        return blank
    try:
        image = open_image(encoded, "")
        with decoding(encoded, ""):
            orientation = pending_orientation(image)
            image.draft("RGB", (2 * _THUMBNAIL_PX, 2 * _THUMBNAIL_PX))
            image = eight_bits(image).convert("RGB")
    except DataError:
        return blank
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    image.getexif()[ORIENTATION_TAG] = orientation
    image = ImageOps.exif_transpose(image)
    image.info = {}  # Pillow would write a comment of the original into the JPEG
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    scale = _THUMBNAIL_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return size, "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _boxes(regions: Any, stated: tuple[Any, Any], size: tuple[int, int]) -> tuple[_Rectangle, ...]:
    x, y = size[0] / stated[0], size[1] / stated[1]
    boxes = []
    for region in regions[:_MAX_BOXES] if isinstance(regions, list) else ():
        if not isinstance(region, dict):
            continue
        corners = [region.get(name) for name in ("x_min", "y_min", "x_max", "y_max")]
        if all(isinstance(corner, int | float) and math.isfinite(corner) for corner in corners):
            left, top, right, bottom = (c * scale for c, scale in zip(corners, (x, y, x, y), strict=True))
            boxes.append((left, top, max(right - left, 2.0), max(bottom - top, 2.0)))
    return tuple(boxes)
