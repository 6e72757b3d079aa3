"""Means with intervals: of one detector's scores, and of the gain from one detector to another on the same samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fxray.evaluate.bootstrap import interval, resamples, weighted_means
from fxray.evaluate.boxes import AP_THRESHOLDS, average_precisions
from fxray.evaluate.captions import bleu
from fxray.evaluate.scores import METRICS, SampleScores


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, or a difference of means, and its bootstrap 95 % interval; NaN where the metric applies to no sample."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True where the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, float | None]:
        """Numbers by name, null where not finite."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def estimate_means(scores: SampleScores, *, num_bootstrap: int, seed: int) -> dict[str, Estimate]:
    """Value and interval of every metric of `METRICS`."""
    return _estimates(_values(scores), _draws(scores, num_bootstrap, seed))


def estimate_gains(before: SampleScores, after: SampleScores, *, num_bootstrap: int, seed: int) -> dict[str, Estimate]:
    """Value of `after` minus value of `before` on the same images, resampled in pairs; see `estimate_mean_gains`.

    Args:
        before: Scores of one detector.
        after: Scores of the other on the same samples in the same order.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.
    """
    return estimate_mean_gains([(before, after)], num_bootstrap=num_bootstrap, seed=seed)


def estimate_mean_gains(
    pairs: Sequence[tuple[SampleScores, SampleScores]], *, num_bootstrap: int, seed: int
) -> dict[str, Estimate]:
    """The gain of several detectors on average, as of one setting under several seeds.

    Every resample holds the same images for all of them, so the interval says what the images leave open for the mean
    of just these detectors. A mean over images is compared on those that it applies to both before and after: a crop
    may have cut all regions off, and only one of two may have a caption to score. Precision, F1, BLEU and the average
    precisions are of each side's own answers as a whole.

    Args:
        pairs: Scores before and after, all on the same samples in the same order; at least one pair.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.
    """
    pairs = [_on_common_images(*pair) for pair in pairs]
    gains = np.mean([_values(after) - _values(before) for before, after in pairs], axis=0)
    draws = [_draws(after, num_bootstrap, seed) - _draws(before, num_bootstrap, seed) for before, after in pairs]
    return _estimates(gains, np.mean(draws, axis=0))


def _on_common_images(before: SampleScores, after: SampleScores) -> tuple[SampleScores, SampleScores]:
    """Both without what one side alone has of an image; precision, which counts each side's own flags, stays whole."""
    is_common = {
        name: np.isfinite(before.values[name]) & np.isfinite(after.values[name]) if name != "precision" else True
        for name in before.values
    }

    def kept(scores: SampleScores) -> SampleScores:
        values = {name: np.where(is_common[name], numbers, np.nan) for name, numbers in scores.values.items()}
        return replace(scores, values=values)

    return kept(before), kept(after)


def _values(scores: SampleScores) -> NDArray[np.float64]:
    """Of the samples themselves, in the order of `METRICS`."""
    return _metrics(scores, np.ones((1, len(scores.sample_ids))))[0]


def _draws(scores: SampleScores, num_bootstrap: int, seed: int) -> NDArray[np.float64]:
    """Of the resamples, one row each, columns in the order of `METRICS`."""
    drawn = resamples(len(scores.sample_ids), num_bootstrap, seed)
    return np.concatenate([_metrics(scores, counts_bN) for counts_bN in drawn])


def _metrics(scores: SampleScores, counts_BN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every metric where each sample counts so often, float64 [B, M], columns in the order of `METRICS`."""
    means_BM = weighted_means(np.column_stack(list(scores.values.values())), counts_BN)
    columns = dict(zip(scores.values, means_BM.T, strict=True))
    columns["balanced_accuracy"] = (columns["accuracy_real"] + columns["accuracy_generated"]) / 2
    is_one_class_B = np.isnan(columns["balanced_accuracy"])  # all that is flagged would be right, or all wrong
    columns["f1"] = np.where(is_one_class_B, np.nan, _f1(columns["precision"], columns["accuracy_generated"]))
    columns["precision"] = np.where(is_one_class_B, np.nan, columns["precision"])
    nothing_B = np.full(len(counts_BN), np.nan)
    aps_TB = average_precisions(scores.hits, counts_BN) if scores.hits else [nothing_B] * len(AP_THRESHOLDS)
    columns |= {f"box_ap_{round(100 * t)}": ap_B for t, ap_B in zip(AP_THRESHOLDS, aps_TB, strict=True)}
    columns["box_ap"] = np.mean(aps_TB, axis=0)
    columns["bleu"] = nothing_B if scores.bleu_counts_N10 is None else bleu(counts_BN @ scores.bleu_counts_N10)
    return np.column_stack([columns[name] for name in METRICS])


def _f1(precision_B: NDArray[np.float64], recall_B: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 where nothing is found, also where nothing is flagged."""
    precision_B = np.where(np.isnan(precision_B), 0.0, precision_B)
    total_B = precision_B + recall_B
    return np.divide(2 * precision_B * recall_B, total_B, out=total_B.copy(), where=total_B > 0)


def _estimates(means_M: NDArray[np.float64], draws_BM: NDArray[np.float64]) -> dict[str, Estimate]:
    lows_M, highs_M = interval(draws_BM)
    return {
        name: Estimate(float(mean), float(low), float(high))
        for name, mean, low, high in zip(METRICS, means_M, lows_M, highs_M, strict=True)
    }
