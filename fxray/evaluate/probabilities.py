"""How good probabilities of "generated" are: whether they rank images, and whether they mean what they say.

Legend: N images, U distinct probabilities, B resamples, K bins. A resample is the vector of how often each image was
drawn, so that all B of them are scored at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxray.evaluate.bootstrap import interval, resamples
from fxray.evaluate.estimates import Estimate

NUM_BINS = 15
"""Bins of equal width over [0, 1], as in Guo et al. (2017)."""

PROBABILITY_METRICS = {
    "auroc": "chance that a generated image has a higher probability than a real one, ties count half",
    "average_precision": "precision, averaged over the steps of recall",
    "tpr_at_1_fpr": "share of generated images found where at most 1 % of real ones are flagged",
    "tpr_at_5_fpr": "share of generated images found where at most 5 % of real ones are flagged",
    "ece": f"gap between mean probability and share of generated images, weighted over {NUM_BINS} bins of equal width",
    "brier": "mean squared difference of probability and truth",
}
_FPR_LIMITS = {"tpr_at_1_fpr": 0.01, "tpr_at_5_fpr": 0.05}


@dataclass(frozen=True, slots=True)
class Bin:
    """Images whose probabilities lie in one bin: their mean, the share that was generated, and how many they are."""

    probability: float
    generated: float
    num_images: int


@dataclass(frozen=True, slots=True)
class ProbabilityScores:
    """What the probabilities of a detector are worth.

    Attributes:
        num_images: With a probability.
        num_without: Left out, since their answers hold no verdict.
        metrics: By the names of `PROBABILITY_METRICS`. The interval of the ECE lies above the value where that is
            small, since a resample adds noise, and noise is a gap.
        bins: Those with images in them, in order.
    """

    num_images: int
    num_without: int
    metrics: dict[str, Estimate]
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """Numbers by name."""
        return {
            "num_images": self.num_images,
            "num_without": self.num_without,
            **{name: estimate.to_json() for name, estimate in self.metrics.items()},
            "bins": [
                {"probability": b.probability, "generated": b.generated, "num_images": b.num_images} for b in self.bins
            ],
        }


def score_probabilities(
    probabilities: Sequence[float | None], is_generated_N: NDArray[np.bool_], *, num_bootstrap: int, seed: int
) -> ProbabilityScores | None:
    """Scores probabilities against the truth.

    Args:
        probabilities: N of them; None where an image has none.
        is_generated_N: The truth.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.

    Returns:
        None where no image has a probability.
    """
    has_N = np.array([probability is not None for probability in probabilities])
    if not has_N.any():
        return None
    given_N = np.array([probability for probability in probabilities if probability is not None], np.float64)
    truth_N = np.asarray(is_generated_N)[has_N]
    values = probability_metrics(given_N, truth_N, np.ones((1, len(given_N))))
    draws = [
        np.column_stack(list(probability_metrics(given_N, truth_N, counts_bN).values()))
        for counts_bN in resamples(len(given_N), num_bootstrap, seed)
    ]
    lows, highs = interval(np.concatenate(draws))
    metrics = {
        name: Estimate(float(value[0]), float(low), float(high))
        for (name, value), low, high in zip(values.items(), lows, highs, strict=True)
    }
    return ProbabilityScores(len(given_N), int((~has_N).sum()), metrics, reliability_bins(given_N, truth_N))


def probability_gains(
    before_N: NDArray[np.float64],
    after_N: NDArray[np.float64],
    is_generated_N: NDArray[np.bool_],
    *,
    num_bootstrap: int,
    seed: int,
) -> dict[str, Estimate]:
    """What `after` has over `before` in every metric of `PROBABILITY_METRICS`, resampled in pairs.

    Args:
        before_N: Probabilities of one detector, in [0, 1].
        after_N: Of the other, for the same images in the same order.
        is_generated_N: The truth.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.
    """

    def gains(counts_BN: NDArray[np.float64]) -> NDArray[np.float64]:
        both = [probability_metrics(each_N, is_generated_N, counts_BN) for each_N in (before_N, after_N)]
        return np.column_stack([both[1][name] - both[0][name] for name in PROBABILITY_METRICS])

    values_M = gains(np.ones((1, len(after_N))))[0]
    draws_BM = np.concatenate([gains(counts_bN) for counts_bN in resamples(len(after_N), num_bootstrap, seed)])
    lows_M, highs_M = interval(draws_BM)
    return {
        name: Estimate(float(value), float(low), float(high))
        for name, value, low, high in zip(PROBABILITY_METRICS, values_M, lows_M, highs_M, strict=True)
    }


def probability_metrics(
    probabilities_N: NDArray[np.float64], is_generated_N: NDArray[np.bool_], counts_BN: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Every metric of `PROBABILITY_METRICS` for B resamples.

    Args:
        probabilities_N: In [0, 1].
        is_generated_N: The truth.
        counts_BN: How often each image counts; a row of ones is the sample itself.

    Returns:
        float64 [B] each; what needs both classes is NaN where a resample lacks one.
    """
    totals_B = counts_BN.sum(axis=1)
    gaps_N = probabilities_N - is_generated_N
    in_bin_NK = _bin_of(probabilities_N)[:, None] == np.arange(NUM_BINS)
    return _ranking(probabilities_N, is_generated_N, counts_BN) | {
        "ece": np.abs(counts_BN @ (in_bin_NK * gaps_N[:, None])).sum(axis=1) / totals_B,
        "brier": counts_BN @ gaps_N**2 / totals_B,
    }


def reliability_bins(probabilities_N: NDArray[np.float64], is_generated_N: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """The bins of a reliability diagram that hold images.

    Args:
        probabilities_N: In [0, 1].
        is_generated_N: The truth.
    """
    bin_N = _bin_of(probabilities_N)
    return tuple(
        Bin(float(probabilities_N[is_in].mean()), float(is_generated_N[is_in].mean()), int(is_in.sum()))
        for is_in in (bin_N == k for k in range(NUM_BINS))
        if is_in.any()
    )


def _bin_of(probabilities_N: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((probabilities_N * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def _ranking(
    probabilities_N: NDArray[np.float64], is_generated_N: NDArray[np.bool_], counts_BN: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """The metrics that only the order decides. Equal probabilities are flagged together."""
    order_N = np.argsort(-probabilities_N, kind="stable")
    ends_U = np.flatnonzero(np.diff(probabilities_N[order_N], append=-np.inf))
    counts_BN, truth_N = counts_BN.take(order_N, axis=1), is_generated_N[order_N]
    flagged_BU = counts_BN.cumsum(axis=1).take(ends_U, axis=1)
    all_hits_BU = (counts_BN * truth_N).cumsum(axis=1).take(ends_U, axis=1)
    all_alarms_BU = flagged_BU - all_hits_BU
    hits_BU, alarms_BU = (np.diff(sums_BU, axis=1, prepend=0) for sums_BU in (all_hits_BU, all_alarms_BU))
    num_generated_B, num_real_B = all_hits_BU[:, -1], all_alarms_BU[:, -1]
    precision_BU = all_hits_BU / np.maximum(flagged_BU, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall_BU, fpr_BU = all_hits_BU / num_generated_B[:, None], all_alarms_BU / num_real_B[:, None]
        metrics = {
            "auroc": (alarms_BU * (all_hits_BU - hits_BU / 2)).sum(axis=1) / (num_generated_B * num_real_B),
            "average_precision": (hits_BU * precision_BU).sum(axis=1) / num_generated_B,
        }
    for name, limit in _FPR_LIMITS.items():
        metrics[name] = np.where(fpr_BU <= limit + 1e-12, recall_BU, 0.0).max(axis=1)
    has_both_B = (num_generated_B > 0) & (num_real_B > 0)
    return {name: np.where(has_both_B, value_B, np.nan) for name, value_B in metrics.items()}
