"""Fits a calibration: log-odds to probabilities, the threshold, the unsure band.

Legend: N images of the validation split.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from fxray import __version__
from fxray.counts import counted
from fxray.errors import DataError
from fxray.evaluate.calibration import Calibration, FittedFor, logit, sigmoid
from fxray.schema import Sample, Verdict

MIN_IMAGES = 20
"""Of each class; fewer say nothing of shares of a few per cent."""
NEVER = float(np.nextafter(1.0, 2.0))
"""A threshold that no probability reaches."""


def fit_calibration(
    raw_N: NDArray[np.float64],
    is_generated_N: NDArray[np.bool_],
    *,
    num_without: int = 0,
    max_fpr: float,
    max_error: float,
    num_sources: int,
    data: str,
    data_sha256: str,
    is_synthetic: bool,
    fitted_for: FittedFor,
) -> Calibration:
    """Fits everything on one split.

    Args:
        raw_N: The model's own probabilities of "generated".
        is_generated_N: The truth.
        num_without: Further images of the split whose answers say no probability.
        max_fpr: Largest share of real images that may count as generated.
        max_error: Largest share of wrong ones among the images on either side of the unsure band.
        num_sources: Sources of the images.
        data: Name of the split.
        data_sha256: Of its file.
        is_synthetic: Whether its defects are planted.
        fitted_for: What the calibration will hold for.

    Raises:
        DataError: There are too few images of a class, or too few real ones for so small a `max_fpr`.
    """
    num_generated, num_real = int(is_generated_N.sum()), int((~is_generated_N).sum())
    refuse_too_few(num_real, num_generated, max_fpr, data, num_without)
    slope, intercept = fit_platt(raw_N, is_generated_N)
    probabilities_N = np.array([sigmoid(slope * logit(raw) + intercept) for raw in raw_N])
    threshold = choose_threshold(probabilities_N, is_generated_N, max_fpr)
    low, high = choose_band(probabilities_N, is_generated_N, threshold, max_error)
    return Calibration(
        slope=slope,
        intercept=intercept,
        max_fpr=max_fpr,
        threshold=threshold,
        max_error=max_error,
        unsure_low=low,
        unsure_high=high,
        num_real=num_real,
        num_generated=num_generated,
        num_sources=num_sources,
        data=data,
        data_sha256=data_sha256,
        is_synthetic=is_synthetic,
        fitted_for=fitted_for,
        fxray=__version__,
    )


def verdict_counts(samples: Sequence[Sample], rows: Sequence[int] | None = None) -> tuple[int, int]:
    """Real and generated images, of all rows or of some."""
    rows = range(len(samples)) if rows is None else rows
    num_generated = sum(samples[row].annotation.verdict is Verdict.GENERATED for row in rows)
    return len(rows) - num_generated, num_generated


def fewest_real(max_fpr: float) -> int:
    """Real images that it takes to choose a threshold for so small a share of false alarms."""
    return max(MIN_IMAGES, int(np.ceil(1 / max_fpr - 1e-9)) if max_fpr > 0 else MIN_IMAGES)


def note_of_few(num_real: int, num_generated: int, remedy: str, max_fpr: float = 1.0) -> str | None:
    """Says that a validation part is too small for the calibration with which training ends; None where it is not."""
    needed = fewest_real(max_fpr)
    if num_real >= needed and num_generated >= MIN_IMAGES:
        return None
    of_real = f"{needed} real and {MIN_IMAGES} generated ones at least for evaluate.max_fpr {max_fpr:g}"
    takes = f"{MIN_IMAGES} of each at least" if needed == MIN_IMAGES else of_real
    return (
        f"{num_real} real + {counted(num_generated, 'generated image')} for validation are too few to calibrate a "
        f"detector, which takes {takes}; {remedy}"
    )


def refuse_too_few(
    num_real: int, num_generated: int, max_fpr: float, data: str, num_without: int | None = None
) -> None:
    """Raises what `fit_calibration` says of too few images.

    Args:
        num_real: Real images.
        num_generated: Generated ones.
        max_fpr: Largest share of real images that may count as generated.
        data: Name of the split.
        num_without: Further images, whose answers say no probability; None before there are answers.

    Raises:
        DataError: They are too few.
    """
    needed = fewest_real(max_fpr)
    if num_generated >= MIN_IMAGES and num_real >= needed:
        return
    with_probability = "" if num_without is None else " with a probability"
    without = f"; {counted(num_without or 0, 'answer has', 'answers have')} none, as those without a verdict"
    is_of_share = needed > MIN_IMAGES <= min(num_real, num_generated)
    raise DataError(
        f"{num_real} real and {counted(num_generated, 'generated image')}{with_probability}, expected at "
        f"least {needed} and {MIN_IMAGES} for a false-positive rate of {max_fpr:g}{without if num_without else ''}",
        where=data,
        remedy=("train longer, until answers hold a verdict; or " if num_without else "")
        + "calibrate on more validation images"
        + (", or with a larger --max-fpr" if is_of_share else ""),
    )


def fit_platt(raw_N: NDArray[np.float64], is_generated_N: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept on the log-odds that make the truth most likely, with Platt's targets.

    The targets (n + 1) / (n + 2) and 1 / (n + 2) in place of 1 and 0 keep the slope finite where the classes part
    without an error. The slope is never negative: what ranks backwards is flat, not turned around.

    Args:
        raw_N: Probabilities of "generated".
        is_generated_N: The truth, both classes in it.
    """
    odds_N = np.array([logit(raw) for raw in raw_N])
    num_generated, num_real = is_generated_N.sum(), (~is_generated_N).sum()
    target_N = np.where(is_generated_N, (num_generated + 1) / (num_generated + 2), 1 / (num_real + 2))

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z_N = parameters[0] * odds_N + parameters[1]
        gap_N = np.where(z_N >= 0, 1 / (1 + np.exp(-np.abs(z_N))), np.exp(-np.abs(z_N)) / (1 + np.exp(-np.abs(z_N))))
        gap_N = gap_N - target_N
        value = np.mean(np.logaddexp(0, z_N) - target_N * z_N)
        return float(value), np.array([np.mean(gap_N * odds_N), np.mean(gap_N)])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return float(found.x[0]), float(found.x[1])


def choose_threshold(probabilities_N: NDArray[np.float64], is_generated_N: NDArray[np.bool_], max_fpr: float) -> float:
    """The lowest threshold from which at most `max_fpr` of the real images count as generated.

    Args:
        probabilities_N: Of "generated".
        is_generated_N: The truth, real images in it.
        max_fpr: A share.

    Returns:
        Halfway between two probabilities that were seen; 0 where all images may count, `NEVER` where none may.
    """
    cuts = _cuts(probabilities_N)
    num_flagged, num_real = _num_from(cuts, probabilities_N[~is_generated_N]), (~is_generated_N).sum()
    return float(cuts[num_flagged / num_real <= max_fpr][0])


def choose_balanced_threshold(probabilities_N: NDArray[np.float64], is_generated_N: NDArray[np.bool_]) -> float:
    """The threshold with the best mean of the accuracies on real and on generated images.

    Args:
        probabilities_N: Of "generated".
        is_generated_N: The truth, both classes in it.

    Returns:
        Halfway between two probabilities that were seen; of equally good ones that in the middle.
    """
    cuts = _cuts(probabilities_N)
    found = _num_from(cuts, probabilities_N[is_generated_N]) / is_generated_N.sum()
    spared = 1 - _num_from(cuts, probabilities_N[~is_generated_N]) / (~is_generated_N).sum()
    best = np.flatnonzero(np.isclose(found + spared, (found + spared).max(), rtol=0, atol=1e-12))
    return float(cuts[best[len(best) // 2]])


def choose_band(
    probabilities_N: NDArray[np.float64], is_generated_N: NDArray[np.bool_], threshold: float, max_error: float
) -> tuple[float, float]:
    """The narrowest band around threshold and 1/2 beyond which at most `max_error` of the images are judged wrongly.

    Of many images below a threshold of .9 nearly all may be real, and yet one of .89 is generated more likely than not:
    nothing is called what its own probability speaks against.

    Args:
        probabilities_N: Of "generated".
        is_generated_N: The truth.
        threshold: From `choose_threshold`.
        max_error: Share of generated images among those below the band, and of real ones among those above it.

    Returns:
        From where an image is unsure, and from where it is no longer. A side that never gets good enough is given up:
        then the band reaches to 0, or beyond 1.
    """
    cuts = np.union1d(_cuts(probabilities_N), threshold)
    generated_from, real_from = (_num_from(cuts, probabilities_N[is_in]) for is_in in (is_generated_N, ~is_generated_N))
    generated_below, real_below = is_generated_N.sum() - generated_from, (~is_generated_N).sum() - real_from
    wrong_below = generated_below / np.maximum(generated_below + real_below, 1)
    wrong_from = real_from / np.maximum(generated_from + real_from, 1)
    low = cuts[(cuts <= threshold) & (wrong_below <= max_error)][-1]
    high = cuts[(cuts >= threshold) & (wrong_from <= max_error)][0]
    return min(float(low), 0.5), max(float(high), 0.5)


def _cuts(probabilities_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a threshold can lie so that it makes a difference, in rising order."""
    seen = np.unique(probabilities_N)
    return np.concatenate([[0.0], (seen[1:] + seen[:-1]) / 2, [NEVER]])


def _num_from(cuts: NDArray[np.float64], probabilities_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many probabilities are as high as each cut or higher, for all cuts in one pass."""
    return np.asarray(len(probabilities_N) - np.searchsorted(np.sort(probabilities_N), cuts))
