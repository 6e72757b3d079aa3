"""Means with intervals: of one detector's scores, and of the gain from one detector to another on the same samples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxray.evaluate.bootstrap import bootstrap_means, interval
from fxray.evaluate.scores import METRICS

Values = Mapping[str, NDArray[np.float64]]
"""Per metric, except the balanced accuracy, one number per sample; NaN where it does not apply."""


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


def estimate_means(values: Values, *, num_bootstrap: int, seed: int) -> dict[str, Estimate]:
    """Mean and interval of every metric of `METRICS`."""
    return _estimates(_means(values), _draws(values, num_bootstrap, seed))


def estimate_gains(before: Values, after: Values, *, num_bootstrap: int, seed: int) -> dict[str, Estimate]:
    """Mean of `after` minus mean of `before`, resampled in pairs.

    Args:
        before: Scores of one detector.
        after: Scores of the other on the same samples in the same order.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.
    """
    gains = _means(after) - _means(before)
    return _estimates(gains, _draws(after, num_bootstrap, seed) - _draws(before, num_bootstrap, seed))


def _means(values: Values) -> NDArray[np.float64]:
    """Plain means in the order of `METRICS`."""
    means = [x[np.isfinite(x)].mean() if np.isfinite(x).any() else np.nan for x in values.values()]
    return _in_order(values, np.array([means]))[0]


def _draws(values: Values, num_bootstrap: int, seed: int) -> NDArray[np.float64]:
    """Means of the resamples, one row each, columns in the order of `METRICS`."""
    values_NM = np.column_stack(list(values.values()))
    return _in_order(values, bootstrap_means(values_NM, num_bootstrap=num_bootstrap, seed=seed))


def _in_order(values: Values, means_BM: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns as `METRICS` orders them, the balanced accuracy added."""
    columns = dict(zip(values, means_BM.T, strict=True))
    columns["balanced_accuracy"] = (columns["accuracy_real"] + columns["accuracy_generated"]) / 2
    return np.column_stack([columns[name] for name in METRICS])


def _estimates(means_M: NDArray[np.float64], draws_BM: NDArray[np.float64]) -> dict[str, Estimate]:
    lows_M, highs_M = interval(draws_BM)
    return {
        name: Estimate(float(mean), float(low), float(high))
        for name, mean, low, high in zip(METRICS, means_M, lows_M, highs_M, strict=True)
    }
