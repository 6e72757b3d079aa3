"""Average precision of boxes, as COCO counts it, at the loose overlaps that flaws call for.

Legend: N images, D predicted boxes, T thresholds, U distinct scores, H of them with a hit, B resamples.

Each box, best score first, takes the free true box of its image that it overlaps most, if by the threshold at least; a
true box found by none is missed. Precision, raised to the best at any higher recall, is averaged at 101 recalls (Lin et
al. 2014). Boxes of equal score count together, and of those of one image the pair that overlaps most is taken first, so
the order of a file does not matter; where all scores differ the numbers are those of pycocotools.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxray.geometry import box_iou
from fxray.schema import Box

AP_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
_RECALLS = np.linspace(0, 1, 101)
_MAX_CELLS = 2**18
"""Counts of boxes held at once: 2 MiB an array, which stay in a processor's cache."""


@dataclass(frozen=True, slots=True)
class BoxHits:
    """Which predicted boxes find a true one.

    Attributes:
        image_D: Index of the image of each box.
        scores_D: What ranks the boxes; -inf where nothing does.
        is_hit_TD: Whether it finds a true box at each of `AP_THRESHOLDS`.
        num_true_N: True boxes of each image.
    """

    image_D: NDArray[np.int64]
    scores_D: NDArray[np.float64]
    is_hit_TD: NDArray[np.bool_]
    num_true_N: NDArray[np.int64]

    def part(self, is_in_N: NDArray[np.bool_]) -> "BoxHits":
        """Those of some of the images."""
        kept_D = is_in_N[self.image_D]
        renumbered_N = np.cumsum(is_in_N) - 1
        image_D = renumbered_N[self.image_D[kept_D]]
        return BoxHits(image_D, self.scores_D[kept_D], self.is_hit_TD[:, kept_D], self.num_true_N[is_in_N])


def find_hits(
    predicted: Sequence[Sequence[Box]], scores: Sequence[Sequence[float]], truth: Sequence[Sequence[Box]]
) -> BoxHits:
    """Matches the boxes of N images.

    Args:
        predicted: Boxes of each image.
        scores: One per box.
        truth: True boxes of each image.
    """
    hits = [hits_of_image(*image) for image in zip(predicted, scores, truth, strict=True)]
    return BoxHits(
        np.repeat(np.arange(len(predicted)), [len(boxes) for boxes in predicted]),
        np.array([score for each in scores for score in each], np.float64),
        np.concatenate(hits, axis=1) if hits else np.zeros((len(AP_THRESHOLDS), 0), bool),
        np.array([len(boxes) for boxes in truth], np.int64),
    )


def hits_of_image(predicted: Sequence[Box], scores: Sequence[float], truth: Sequence[Box]) -> NDArray[np.bool_]:
    """Which boxes of one image find a true one, bool [T, boxes]."""
    is_hit_TD = np.zeros((len(AP_THRESHOLDS), len(predicted)), bool)
    overlaps = ((box_iou(box, true), d, g) for d, box in enumerate(predicted) for g, true in enumerate(truth))
    pairs = sorted(overlaps, key=lambda pair: (-scores[pair[1]], -pair[0], predicted[pair[1]], -pair[2]))
    for t, threshold in enumerate(AP_THRESHOLDS):
        free = set(range(len(truth)))
        for iou, d, g in pairs:
            if iou >= threshold and g in free and not is_hit_TD[t, d]:
                free.remove(g)
                is_hit_TD[t, d] = True
    return is_hit_TD


def average_precisions(hits: BoxHits, counts_BN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average precision at each threshold; resamples are taken a few at a time, so that many boxes cost no memory.

    Args:
        hits: Of N images.
        counts_BN: How often each image counts; a row of ones is the sample itself.

    Returns:
        float64 [T, B]; NaN where a resample has no true box.
    """
    block = max(1, _MAX_CELLS // max(1, len(hits.scores_D)))
    starts = range(0, len(counts_BN), block)
    order_D = np.argsort(-hits.scores_D, kind="stable")
    ranked = BoxHits(hits.image_D[order_D], hits.scores_D[order_D], hits.is_hit_TD[:, order_D], hits.num_true_N)
    return np.concatenate([_of_block(ranked, counts_BN[start : start + block]) for start in starts], axis=1)


def _of_block(ranked: BoxHits, counts_BN: NDArray[np.float64]) -> NDArray[np.float64]:
    """As `average_precisions`, for boxes that are ordered by score, with some five arrays of [B, D] at once."""
    num_true_B = counts_BN @ ranked.num_true_N
    result_TB = np.where(num_true_B > 0, 0.0, np.nan) * np.ones((len(AP_THRESHOLDS), 1))
    if not len(ranked.scores_D) or not num_true_B.any():
        return result_TB
    scores_D = ranked.scores_D
    ends_U = np.flatnonzero(np.append(scores_D[1:] != scores_D[:-1], True))  # -inf, of boxes that nothing ranks, ties
    counts_BD = counts_BN.take(ranked.image_D, axis=1)
    found_BD = counts_BD.cumsum(axis=1)
    for t, is_hit_D in enumerate(ranked.is_hit_TD):
        # Where no box of a score is a hit recall stays and precision falls, so the others decide alone.
        num_hits_U = is_hit_D.cumsum()[ends_U]
        is_kept_U = np.diff(num_hits_U, prepend=0) > 0
        hits_BD = counts_BD.take(np.flatnonzero(is_hit_D), axis=1)
        true_BH = hits_BD.cumsum(axis=1).take(num_hits_U[is_kept_U] - 1, axis=1)
        found_BH = found_BD.take(ends_U[is_kept_U], axis=1)
        precision_BH = true_BH / np.maximum(found_BH, 1)  # 0 where none is drawn
        best_BH = np.maximum.accumulate(precision_BH[:, ::-1], axis=1)[:, ::-1]
        best_BH = np.concatenate([best_BH, np.zeros((len(best_BH), 1))], axis=1)  # a recall that is never reached
        with np.errstate(divide="ignore", invalid="ignore"):
            recall_BH = true_BH / num_true_B[:, None]
        places_BR = np.array([recall_H.searchsorted(_RECALLS) for recall_H in recall_BH])
        means_B = np.take_along_axis(best_BH, places_BR, axis=1).mean(axis=1)
        result_TB[t] = np.where(num_true_B > 0, means_B, np.nan)
    return result_TB
