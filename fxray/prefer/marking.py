"""What one source says of one image in a study: verdict, boxes and captions, and no tags (paper, section 5.2)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fxray.geometry import clip
from fxray.schema import Box, Region, Verdict


@dataclass(frozen=True, slots=True)
class Marking:
    """An annotation as raters see it; boxes in pixels of the study's own image.

    Attributes:
        verdict: None where an answer could not be read.
        regions: Boxes with captions.
    """

    verdict: Verdict | None
    regions: tuple[Region, ...]


def marking_of(verdict: Verdict | None, regions: Iterable[Region], width_px: int, height_px: int) -> Marking:
    """A marking with boxes cut off at the image, and rounded: decimals could betray who drew them.

    Half a character, as answers that were cut at a number of tokens end in, becomes a question mark.
    """
    inside = ((clip(region.box, width_px, height_px), region.caption) for region in regions)
    rounded = ((Box(*(round(value, 1) for value in box)), caption) for box, caption in inside if box is not None)
    return Marking(verdict, tuple(Region(box, _line(caption)) for box, caption in rounded))


def _line(caption: str) -> str:
    return " ".join(caption.encode("utf-8", "replace").decode().split())


def to_wire(marking: Marking) -> dict[str, Any]:
    """The marking in JSON's types, for study files and the page."""
    regions = [{"box": list(region.box), "caption": region.caption} for region in marking.regions]
    return {"verdict": marking.verdict.value if marking.verdict else None, "regions": regions}


def read_marking(verdict: str | None, regions: str) -> Marking:
    """A marking from the columns of a study file."""
    found = (Region(Box(*region["box"]), region["caption"]) for region in json.loads(regions))
    return Marking(Verdict(verdict) if verdict else None, tuple(found))
