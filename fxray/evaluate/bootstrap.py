"""Bootstrap intervals of means (percentile method, Efron 1979), single and paired.

Legend: B resamples, N samples, M metrics. Samples are drawn with replacement; a resample is the vector of how often
each sample was drawn, so B x M means are one matrix product. Equal N and seed give equal resamples: two detectors
scored on the same samples in the same order are thereby compared pair by pair.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fxray.counts import counted

LEVEL_FRAC = 0.95
_MAX_CELLS = 2**22
"""Counts held at once: 32 MiB."""


def note_of_sources(num_images: int, num_sources: int) -> str:
    """What is to be said beside intervals where images share sources, which are drawn image by image; else nothing."""
    if num_sources == num_images:
        return ""
    found = f"{counted(num_images, 'image')} of {counted(num_sources, 'source')}"
    return f"{found}; intervals are about images of these sources, and too narrow for others"


def bootstrap_means(values_NM: NDArray[np.float64], *, num_bootstrap: int, seed: int) -> NDArray[np.float64]:
    """Means of B resamples.

    Args:
        values_NM: One row per sample; NaN where a metric does not apply to a sample.
        num_bootstrap: B.
        seed: Seed of the resamples.

    Returns:
        float64 [B, M]; NaN where a resample holds no sample that the metric applies to.
    """
    return np.concatenate(
        [weighted_means(values_NM, counts_bN) for counts_bN in resamples(len(values_NM), num_bootstrap, seed)]
    )


def weighted_means(values_NM: NDArray[np.float64], counts_BN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of samples that count so often.

    Args:
        values_NM: One row per sample; NaN where a metric does not apply to a sample.
        counts_BN: How often each sample counts; a row of ones is the sample itself.

    Returns:
        float64 [B, M]; NaN where no sample that counts has the metric.
    """
    applies_NM = np.isfinite(values_NM)
    totals_BM = counts_BN @ np.where(applies_NM, values_NM, 0.0)
    sizes_BM = counts_BN @ applies_NM.astype(np.float64)
    return np.divide(totals_BM, sizes_BM, out=np.full_like(totals_BM, np.nan), where=sizes_BM > 0)


def interval(draws_BM: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The central 95 % of the draws: lower and upper bounds, float64 [M]; NaN where no draw is finite."""
    tail = 50 * (1 - LEVEL_FRAC)
    bounds = np.full((2, draws_BM.shape[1]), np.nan)
    has_draws = np.isfinite(draws_BM).any(axis=0)
    bounds[:, has_draws] = np.nanpercentile(draws_BM[:, has_draws], [tail, 100 - tail], axis=0)
    return bounds[0], bounds[1]


def resamples(num_samples: int, num_bootstrap: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Blocks of count vectors, float64 [b, N], each row summing to `num_samples`; b sums up to `num_bootstrap`."""
    rng = np.random.default_rng(seed)
    block = max(1, _MAX_CELLS // num_samples)
    for start in range(0, num_bootstrap, block):
        rows = min(block, num_bootstrap - start)
        drawn = rng.integers(num_samples, size=(rows, num_samples))
        drawn += num_samples * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * num_samples)
        yield counts.reshape(rows, num_samples).astype(np.float64)
