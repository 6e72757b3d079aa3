"""The rules of one row's fields. `Dataset.open` stops at the first breach of severity error, the check lists all."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from fxray.data.check.captions import starts_with_noun
from fxray.data.check.findings import shown
from fxray.errors import DataError
from fxray.geometry import area
from fxray.grammar.render import check_caption
from fxray.schema import Box, Tag, Verdict

COVERING_FRAC = 0.95
"""A box over more of the image than this marks no place in it."""
TINY_SIDE_PX = 4
MAX_COORDINATE_PX = 2**31

_TEXTS = ("label", "generator", "category", "source")
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_VERDICTS, _TAGS = frozenset(Verdict), frozenset(tag.value for tag in Tag)


@dataclass(frozen=True, slots=True)
class Fault:
    """A breach of a rule by a field: `message` gives the value and what was expected."""

    rule: str
    field: str
    message: str
    value: object = None


def row_faults(fields: Mapping[str, Any]) -> Iterator[Fault]:
    """Every breach in a row, whatever its values are.

    Args:
        fields: Values by column; a column that the file lacks is left out, and nothing is said of it.
    """
    yield from _id_and_texts(fields)
    for field in ("width_px", "height_px"):
        if field in fields and _pixels(fields[field]) is None:
            yield _value(fields, field, "a positive number of pixels")
    yield from _tags(fields)
    yield from _regions(fields)


def _id_and_texts(fields: Mapping[str, Any]) -> Iterator[Fault]:
    if "sample_id" in fields and not (isinstance(fields["sample_id"], str) and fields["sample_id"]):
        yield _value(fields, "sample_id", "some text")
    for field in _TEXTS:
        if field in fields and not isinstance(fields[field], str):
            yield _value(fields, field, "a value")
    if fields.get("annotator") == "":
        yield _value(fields, "annotator", "a name, or null where it is not known")
    label = fields.get("label")
    if isinstance(label, str) and label not in _VERDICTS:
        yield Fault("label", "label", f"{shown(label)}, expected {' or '.join(Verdict)}", label)


def _tags(fields: Mapping[str, Any]) -> Iterator[Fault]:
    tags = fields.get("tags", ())
    if not isinstance(tags, list | tuple):
        yield _value(fields, "tags", "a list")
        return
    if any(not isinstance(tag, str) or tag not in _TAGS for tag in tags) or len(set(tags)) < len(tags):
        yield Fault("tag", "tags", f"{shown(tags)}, expected some of {', '.join(Tag)}, each once", tags)


def _regions(fields: Mapping[str, Any]) -> Iterator[Fault]:
    regions, label = fields.get("regions", ()), fields.get("label")
    if not isinstance(regions, list | tuple):
        yield _value(fields, "regions", "a list")
        return
    if label == Verdict.REAL and regions:
        yield Fault("regions-on-real", "regions", f"{shown(regions)}, expected none, as the label is real", regions)
    if label == Verdict.GENERATED and "regions" in fields and not regions:
        yield Fault("generated-without-regions", "regions", "none, expected at least one", regions)
    seen, captions, repeated = set[tuple[Any, ...]](), set[str](), list[str]()
    width_px, height_px = _pixels(fields.get("width_px")), _pixels(fields.get("height_px"))
    for number, region in enumerate(regions):
        faults = list(_region(region, width_px, height_px))
        yield from faults
        if any(fault.rule == "value" for fault in faults):
            continue
        whole, caption = tuple(region[name] for name in (*_CORNERS, "caption")), region["caption"].strip()
        if whole in seen:
            yield Fault("region-repeated", "regions", f"region {number} repeats another: {shown(whole)}", whole)
        elif caption in captions:
            repeated.append(caption)
        seen.add(whole)
        captions.add(caption)
    if repeated:
        yield Fault("caption-repeated", "regions", f"{shown(repeated[0])} is said of several regions", repeated)


def _region(region: Any, width_px: int | None, height_px: int | None) -> Iterator[Fault]:
    expected = "four numbers and a caption"
    if not isinstance(region, dict | Mapping) or any(region.get(name) is None for name in (*_CORNERS, "caption")):
        yield Fault("value", "regions", f"{shown(region)}, expected {expected}", region)
        return
    corners = [region[name] for name in _CORNERS]
    if not all(isinstance(corner, float | Real) for corner in corners) or not isinstance(region["caption"], str):
        yield Fault("value", "regions", f"{shown(region)}, expected {expected}", region)
        return
    yield from _box(Box(*map(float, corners)), width_px, height_px)
    yield from _caption(region["caption"])


def _box(box: Box, width_px: int | None, height_px: int | None) -> Iterator[Fault]:
    def fault(rule: str, says: str) -> Fault:
        value = tuple(round(corner, 3) if math.isfinite(corner) else corner for corner in box)
        return Fault(rule, "regions", f"{value}{says}", value)

    size = f"the {width_px}x{height_px} px image"
    if not (box.x_min < box.x_max and box.y_min < box.y_max):
        yield fault("box-degenerate", f", expected boxes with an area inside {size}")
        return
    if width_px is None or height_px is None:
        return
    if not (box.x_min >= 0 and box.x_max <= width_px and box.y_min >= 0 and box.y_max <= height_px):
        yield fault("box-outside", f", expected boxes with an area inside {size}")
        return
    covered = area(box) / (width_px * height_px)
    if covered > COVERING_FRAC:
        yield fault("box-covers-image", f" covers {covered:.0%} of {size}")
    if max(box) <= 1 < min(width_px, height_px):
        yield fault("box-in-one-pixel", ", expected pixels, and not parts of the sides")
    elif min(box.x_max - box.x_min, box.y_max - box.y_min) < TINY_SIDE_PX:
        yield fault("box-tiny", f", expected sides of at least {TINY_SIDE_PX} px")


def _caption(caption: str) -> Iterator[Fault]:
    try:
        check_caption(caption)
    except DataError as error:
        yield Fault("caption-markup" if caption.strip() else "caption-empty", "regions", error.message, caption)
        return
    if not starts_with_noun(caption):
        yield Fault("caption-without-noun", "regions", f"caption {shown(caption)} starts with no noun", caption)


def _pixels(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 < value < MAX_COORDINATE_PX else None


def _value(fields: Mapping[str, Any], field: str, expected: str) -> Fault:
    return Fault("value", field, f"{shown(fields[field])}, expected {expected}", fields[field])
