"""The stages of a run side by side, and what reinforcement learning added to SFT."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxray.errors import DataError
from fxray.evaluate.estimates import Estimate, estimate_gains
from fxray.evaluate.evaluation import Evaluation
from fxray.evaluate.probabilities import probability_gains

STAGE_TITLES = {"no-ft": "No-FT", "sft": "SFT", "alpha": "GRPO α", "beta": "GRPO β", "gamma": "GRPO γ"}
"""The stages of the paper, in its order; a stage of another name stands for itself."""


@dataclass(frozen=True, slots=True)
class Gain:
    """From one detector to another on the same samples, resampled in pairs.

    Attributes:
        before: Name of the one.
        after: Name of the other.
        metrics: Differences by the names of `METRICS`, and of `PROBABILITY_METRICS` where both give every image a
            probability.
    """

    before: str
    after: str
    metrics: dict[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Numbers by name."""
        gains = {name: e.to_json() | {"excludes_zero": e.excludes_zero} for name, e in self.metrics.items()}
        return {"before": self.before, "after": self.after, "metrics": gains}

    def sentence(self) -> str:
        """What came out, in words that claim no more than the intervals allow."""
        parts = [f"{label} {_change(self.metrics[name])}" for name, label in (("iou", "IoU"), ("accuracy", "accuracy"))]
        return f"From {title_of(self.before)} to {title_of(self.after)}: {', '.join(parts)}."


@dataclass(frozen=True, slots=True)
class Comparison:
    """Evaluations in the order of training.

    Attributes:
        evaluations: One per stage.
        gain: From SFT to the last GRPO stage; None where one of the two is missing.
    """

    evaluations: tuple[Evaluation, ...]
    gain: Gain | None

    @property
    def is_synthetic(self) -> bool:
        """True where any of the numbers is from synthetic samples."""
        return any(evaluation.is_synthetic for evaluation in self.evaluations)

    def to_json(self) -> dict[str, Any]:
        """Everything but the scores per sample, ready for `json.dumps`."""
        return {
            "is_synthetic": self.is_synthetic,
            "evaluations": {evaluation.name: evaluation.to_json() for evaluation in self.evaluations},
            "gain": self.gain.to_json() if self.gain else None,
        }


def compare(evaluations: Sequence[Evaluation]) -> Comparison:
    """Puts the stages side by side and measures the paired gain from SFT to the last stage after it.

    Args:
        evaluations: Any of No-FT, SFT and the GRPO stages; the stages in the order of training.

    Raises:
        DataError: SFT and the last stage were not scored on the same samples.
    """
    ranked = sorted(evaluations, key=lambda e: ("no-ft", "sft").index(e.name) if e.name in ("no-ft", "sft") else 2)
    names = [evaluation.name for evaluation in ranked]
    has_gain = "sft" in names[:-1]
    return Comparison(tuple(ranked), measure_gain(ranked[names.index("sft")], ranked[-1]) if has_gain else None)


def measure_gain(before: Evaluation, after: Evaluation) -> Gain:
    """The paired gain from one detector to another.

    Raises:
        DataError: They were not scored on the same samples, in the same order.
    """
    if before.scores.sample_ids != after.scores.sample_ids:
        raise DataError(
            f"{before.name!r} and {after.name!r} were not scored on the same samples in the same order",
            remedy="evaluate both on the same dataset and rows",
        )
    metrics = estimate_gains(before.scores, after.scores, num_bootstrap=after.num_bootstrap, seed=after.seed)
    both = before.scores.probabilities_N, after.scores.probabilities_N
    if all(np.isfinite(probabilities_N).all() for probabilities_N in both):
        truth_N = after.scores.is_generated_N
        metrics |= probability_gains(*both, truth_N, num_bootstrap=after.num_bootstrap, seed=after.seed)
    return Gain(before.name, after.name, metrics)


def title_of(name: str) -> str:
    """How tables and charts call a stage."""
    return STAGE_TITLES.get(name, name)


def _change(gain: Estimate) -> str:
    spread = f"{gain.value:+.3f} (95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
    if math.isnan(gain.value):
        return "not measured"
    if not gain.excludes_zero:
        return f"{spread}, which includes 0: no change is shown)"
    return f"{spread}, which excludes 0)"
