"""Attention checks: a pair whose one side is the truth and whose other side is plainly wrong."""

from collections.abc import Iterator, Sequence
from itertools import cycle, product

from fxray.geometry import intersection_area, union_iou
from fxray.schema import Box, Region, Sample

MAX_IOU = 0.1
"""Of the moved boxes with the true ones; where they cannot be moved so far apart, an image gives no check."""
_GRID = 8


def spoil(sample: Sample, captions: Sequence[str]) -> tuple[Region, ...]:
    """The true regions of an image with their boxes moved elsewhere and the captions of another image.

    Args:
        sample: The image and its truth.
        captions: Of another image.

    Returns:
        As many regions of the same sizes; none where the image has no room for them off the true ones, or the captions
        could be of this image.
    """
    regions, size = sample.annotation.regions, (sample.width_px, sample.height_px)
    own = {region.caption.casefold() for region in regions}
    if not regions or not captions or own & {caption.casefold() for caption in captions}:
        return ()
    boxes = [region.box for region in regions]
    moved = [_moved(box, boxes, *size) for box in boxes]
    if union_iou(moved, boxes) > MAX_IOU:
        return ()
    return tuple(Region(box, caption) for box, caption in zip(moved, cycle(captions), strict=False))


def _moved(box: Box, boxes: Sequence[Box], width_px: int, height_px: int) -> Box:
    """The box at the place where it covers least of the true ones, far from its own."""

    def badness(place: Box) -> tuple[float, float]:
        distance = abs(place.x_min - box.x_min) + abs(place.y_min - box.y_min)
        return round(intersection_area([place], boxes), 3), -distance

    return min(_places(box, width_px, height_px), key=badness)


def _places(box: Box, width_px: int, height_px: int) -> Iterator[Box]:
    width, height = box.x_max - box.x_min, box.y_max - box.y_min
    for i, j in product(range(_GRID + 1), repeat=2):
        x, y = (width_px - width) * i / _GRID, (height_px - height) * j / _GRID
        yield Box(x, y, x + width, y + height)
