"""Areas, unions and matches of boxes, exact and without rasterising.

A set of boxes stands for the union of their areas. A box without area counts for nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fxray.schema import Box

Match = tuple[int, int, float]
"""Index of a predicted box, index of a truth box, IoU of the two."""


def clip(box: Box, width_px: float, height_px: float) -> Box | None:
    """The part of a box inside `[0, width_px] x [0, height_px]`, or None where nothing with an area is left."""
    x_min, y_min = max(box.x_min, 0), max(box.y_min, 0)
    x_max, y_max = min(box.x_max, width_px), min(box.y_max, height_px)
    return Box(x_min, y_min, x_max, y_max) if x_min < x_max and y_min < y_max else None


def area(box: Box) -> float:
    """Area in square pixels; 0 where the corners are swapped."""
    return max(0.0, box.x_max - box.x_min) * max(0.0, box.y_max - box.y_min)


def union_area(boxes: Sequence[Box]) -> float:
    """Area in square pixels that at least one of the boxes covers."""
    return _areas(boxes, ())[1]


def intersection_area(boxes_a: Sequence[Box], boxes_b: Sequence[Box]) -> float:
    """Area in square pixels that the union of `boxes_a` and the union of `boxes_b` share."""
    return _areas(boxes_a, boxes_b)[0]


def union_iou(predicted: Sequence[Box], truth: Sequence[Box]) -> float:
    """Intersection over union of two unions of boxes (paper section 4.3, whose fraction is printed upside down).

    Returns:
        A number in [0, 1]; 1 where both sides are empty, 0 where one is.
    """
    intersection, union = _areas(predicted, truth)
    return intersection / union if union > 0 else 1.0


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where neither has an area."""
    shared = area(Box(max(a.x_min, b.x_min), max(a.y_min, b.y_min), min(a.x_max, b.x_max), min(a.y_max, b.y_max)))
    return shared / (area(a) + area(b) - shared) if shared > 0 else 0.0


def match_optimal(predicted: Sequence[Box], truth: Sequence[Box]) -> list[Match]:
    """The one-to-one match of largest total IoU, ordered by predicted index; pairs that do not touch are left out."""
    if not predicted or not truth:
        return []
    from scipy.optimize import linear_sum_assignment  # slow to import, and only evaluation matches this way

    ious = np.array([[box_iou(p, t) for t in truth] for p in predicted])
    rows, columns = linear_sum_assignment(ious, maximize=True)
    return [(int(i), int(j), float(ious[i, j])) for i, j in zip(rows, columns, strict=True) if ious[i, j] > 0]


def match_nearest(predicted: Sequence[Box], truth: Sequence[Box]) -> list[Match]:
    """Each predicted box, in order, takes the unused truth box with the nearest centre; ties go to the earlier one.

    The variant of the authors' later code. A pair counts even where its boxes do not touch (IoU 0).
    """
    matches: list[Match] = []
    unused = list(range(len(truth)))
    for i, box in enumerate(predicted):
        if not unused:
            break
        nearest = min(unused, key=lambda j: _squared_centre_distance(box, truth[j]))
        unused.remove(nearest)
        matches.append((i, nearest, box_iou(box, truth[nearest])))
    return matches


def _squared_centre_distance(a: Box, b: Box) -> float:
    dx = (a.x_min + a.x_max) - (b.x_min + b.x_max)
    dy = (a.y_min + a.y_max) - (b.y_min + b.y_max)
    return dx * dx + dy * dy


def _areas(boxes_a: Sequence[Box], boxes_b: Sequence[Box]) -> tuple[float, float]:
    """Areas of the intersection and of the union of two unions of boxes.

    Both sides are laid on one grid whose lines are the boxes' own edges, so equal unions give equal sums to the bit.
    Time and memory grow with (distinct x edges) times (distinct y edges).
    """
    a, b = _as_array(boxes_a), _as_array(boxes_b)
    both = np.concatenate([a, b])
    xs, ys = np.unique(both[:, 0::2]), np.unique(both[:, 1::2])
    covered_a, covered_b = _covered_cells(a, xs, ys), _covered_cells(b, xs, ys)
    widths, heights = np.diff(xs), np.diff(ys)
    intersection = widths @ (covered_a & covered_b) @ heights
    union = widths @ (covered_a | covered_b) @ heights
    return float(intersection), float(union)


def _as_array(boxes: Sequence[Box]) -> NDArray[np.float64]:
    kept = [box for box in boxes if box.x_min < box.x_max and box.y_min < box.y_max]
    return np.array(kept, dtype=np.float64).reshape(-1, 4)


def _covered_cells(boxes: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which cells of the grid are covered; shape `[max(len(xs) - 1, 0), max(len(ys) - 1, 0)]`.

    Each box adds +1 and -1 at its four corners, and two running sums turn the corners into counts.
    """
    corners = np.zeros((len(xs), len(ys)), dtype=np.int32)
    x_min, x_max = np.searchsorted(xs, boxes[:, 0]), np.searchsorted(xs, boxes[:, 2])
    y_min, y_max = np.searchsorted(ys, boxes[:, 1]), np.searchsorted(ys, boxes[:, 3])
    np.add.at(corners, (x_min, y_min), 1)
    np.add.at(corners, (x_max, y_max), 1)
    np.add.at(corners, (x_min, y_max), -1)
    np.add.at(corners, (x_max, y_min), -1)
    np.cumsum(corners, axis=0, out=corners)
    np.cumsum(corners, axis=1, out=corners)
    return corners[:-1, :-1] > 0
