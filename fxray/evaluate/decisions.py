"""What a calibration comes to on images that it was not fitted on.

Legend: N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxray.evaluate.bootstrap import bootstrap_means, interval
from fxray.evaluate.calibration import Calibration
from fxray.evaluate.estimates import Estimate
from fxray.evaluate.probabilities import ProbabilityScores, score_probabilities

DECISIONS = {
    "fpr": "share of real images from the threshold up: false alarms",
    "tpr": "share of generated images from the threshold up",
    "unsure": "share of images in the unsure band",
    "error_unsure": "share of wrong ones in the band, were they decided by the threshold",
    "error_decided": "share of wrong ones beyond the band",
}


@dataclass(frozen=True, slots=True)
class CalibratedScores:
    """Calibrated probabilities against the truth.

    Attributes:
        calibration: What was applied.
        probabilities: Their scores.
        decisions: By the names of `DECISIONS`.
        num_images: That each decision is a share of.
    """

    calibration: Calibration
    probabilities: ProbabilityScores
    decisions: dict[str, Estimate]
    num_images: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Numbers by name."""
        return {
            "calibration": self.calibration.model_dump(),
            "probabilities": self.probabilities.to_json(),
            "decisions": {
                name: estimate.to_json() | {"num_images": self.num_images[name]}
                for name, estimate in self.decisions.items()
            },
        }


def score_calibrated(
    calibration: Calibration,
    raw: Sequence[float | None],
    is_generated_N: NDArray[np.bool_],
    *,
    num_bootstrap: int,
    seed: int,
) -> CalibratedScores | None:
    """Scores a calibration on a split.

    Args:
        calibration: Fitted on another split.
        raw: N probabilities of the model's own; None where an image has none.
        is_generated_N: The truth.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.

    Returns:
        None where no image has a probability.
    """
    calibrated = [None if p is None else calibration.probability(p) for p in raw]
    scores = score_probabilities(calibrated, is_generated_N, num_bootstrap=num_bootstrap, seed=seed)
    if scores is None:
        return None
    values = _decision_values(
        calibration, np.array([np.nan if p is None else p for p in calibrated]), np.asarray(is_generated_N)
    )
    values_NM = np.column_stack(list(values.values()))
    lows, highs = interval(bootstrap_means(values_NM, num_bootstrap=num_bootstrap, seed=seed))
    decisions = {
        name: Estimate(float(value[np.isfinite(value)].mean()) if np.isfinite(value).any() else np.nan, low, high)
        for (name, value), low, high in zip(values.items(), lows.tolist(), highs.tolist(), strict=True)
    }
    num_images = {name: int(np.isfinite(value).sum()) for name, value in values.items()}
    return CalibratedScores(calibration, scores, decisions, num_images)


def _decision_values(
    calibration: Calibration, probabilities_N: NDArray[np.float64], is_generated_N: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """One number per image and decision; NaN where it does not apply."""
    has_N = np.isfinite(probabilities_N)
    flagged_N = probabilities_N >= calibration.threshold
    wrong_N = (flagged_N != is_generated_N).astype(np.float64)
    unsure_N = (probabilities_N >= calibration.unsure_low) & (probabilities_N < calibration.unsure_high)
    return {
        "fpr": np.where(has_N & ~is_generated_N, flagged_N, np.nan),
        "tpr": np.where(has_N & is_generated_N, flagged_N, np.nan),
        "unsure": np.where(has_N, unsure_N, np.nan),
        "error_unsure": np.where(has_N & unsure_N, wrong_N, np.nan),
        "error_decided": np.where(has_N & ~unsure_N, wrong_N, np.nan),
    }
