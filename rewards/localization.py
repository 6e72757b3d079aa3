"""R_G, the localisation reward: how well do the predicted boxes cover the true ones?"""

from collections.abc import Sequence
from typing import Literal

from fxray.geometry import match_nearest, union_iou
from fxray.schema import Box

Matching = Literal["union", "nearest"]


def relaxed_iou(predicted: Sequence[Box], truth: Sequence[Box], *, eta: float, matching: Matching) -> float:
    """min(1, eta * IoU), paper section 4.3 (which prints the fraction upside down).

    Args:
        predicted: Boxes of the answer, clipped to the image, each with an area.
        truth: Boxes of the annotation, in the same frame.
        eta: Relaxing constant; 1.1 in the authors' code.
        matching: `union` compares the union of each side. `nearest` is the authors' later variant: every predicted box
            takes the nearest unused truth box, and the IoUs are summed and divided by the number of truth boxes.

    Returns:
        A number in [0, 1]; 1 where both sides are empty, 0 where one is.
    """
    if not predicted or not truth:
        return 0.0 if predicted or truth else 1.0
    if matching == "union":
        iou = union_iou(predicted, truth)
    else:
        iou = sum(pair_iou for _, _, pair_iou in match_nearest(predicted, truth)) / len(truth)
    return min(1.0, eta * iou)
