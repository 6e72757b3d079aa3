"""How the model answers when answers are drawn at random, in place of taking the likeliest token each time.

A greedy answer settles on its flaws before its verdict, so its probability comes after the fact. Random answers settle
on others: the mean of their probabilities estimates the model's own over all that it could have said.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxray.counts import counted
from fxray.detect.detection import Picture, percent
from fxray.detect.detector import Detector
from fxray.engine.engine import Question
from fxray.evaluate.predictions import from_answer
from fxray.geometry import union_iou
from fxray.grpo.types import Rollout, SamplingSettings
from fxray.schema import Region, Verdict

TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """Answers to one image, drawn independently from the model at temperature 1.

    Attributes:
        verdicts: Of each answer; None where it holds none.
        probabilities: That the image is generated, where each answer chose its verdict; uncalibrated. None where there
            is none.
        ious: Of each answer's boxes and those of the greedy answer, both together; 1 where neither has any.
    """

    verdicts: tuple[Verdict | None, ...]
    probabilities: tuple[float | None, ...]
    ious: tuple[float, ...]

    @property
    def probability(self) -> float | None:
        """Mean over the answers that have one, in [0, 1]; uncalibrated."""
        known = self._known
        return float(np.mean(known)) if known else None

    @property
    def standard_error(self) -> float | None:
        """Of that mean; None with fewer than two."""
        known = self._known
        return float(np.std(known, ddof=1)) / math.sqrt(len(known)) if len(known) > 1 else None

    def count(self, verdict: Verdict | None) -> int:
        """How many answers say so."""
        return self.verdicts.count(verdict)

    def sentence(self) -> str:
        """What came out."""
        generated, real, none = (self.count(verdict) for verdict in (Verdict.GENERATED, Verdict.REAL, None))
        drawn = counted(len(self.verdicts), "answer")
        counts = f"{drawn} drawn at random: {generated} generated, {real} real, {none} no verdict."
        if self.probability is None:
            return counts
        spread = self.standard_error or 0.0
        error = f" ± {100 * spread:.0f}" if spread >= 0.005 else ""
        mean = f"{percent(self.probability)}{error} of the model's weight is on generated on average (uncalibrated)"
        return f"{counts} {mean}; overlap with the regions above {np.mean(self.ious):.2f}."

    def as_record(self) -> dict[str, Any]:
        """Everything as plain values, ready for `json.dumps`."""
        return {
            "sentence": self.sentence(),
            "num_samples": len(self.verdicts),
            "temperature": TEMPERATURE,
            "num_generated": self.count(Verdict.GENERATED),
            "num_real": self.count(Verdict.REAL),
            "num_no_verdict": self.count(None),
            "probability": self.probability,
            "probability_kind": "uncalibrated",
            "standard_error": self.standard_error,
            "mean_iou": float(np.mean(self.ious)),
        }

    @property
    def _known(self) -> list[float]:
        return [value for value in self.probabilities if value is not None]


def draw_answers(
    detector: Detector, asked: Sequence[tuple[Picture, tuple[Region, ...]]], num_samples: int
) -> list[Sampled]:
    """Asks about each image so many times, all in one batch; the same image gives the same draws.

    Args:
        detector: The model.
        asked: Images, each with the regions of its greedy answer, in its pixels.
        num_samples: Of each; at least 1.

    Raises:
        DataError: An image is more than 200 times longer than broad.
    """
    settings = SamplingSettings(num_samples, TEMPERATURE, detector.max_new_tokens, asks_probability=True)
    questions = [Question(detector.prompt, picture.image, seed=0, where=picture.name) for picture, _ in asked]
    answers = detector.source.generate(questions, settings)
    return [
        _compared(detector, picture, regions, each.rollouts)
        for (picture, regions), each in zip(asked, answers, strict=True)
    ]


def _compared(
    detector: Detector, picture: Picture, regions: tuple[Region, ...], rollouts: Sequence[Rollout]
) -> Sampled:
    """Draws of one image beside the regions of its greedy answer."""
    frame = detector.frame_of(picture)
    said = [
        from_answer(
            picture.name, frame, rollout.text, is_finished=rollout.is_finished, probability=rollout.probability,
            view=detector.view,
        )
        for rollout in rollouts
    ]  # fmt: skip
    greedy = [region.box for region in regions]
    return Sampled(
        tuple(one.verdict for one in said),
        tuple(one.probability for one in said),
        tuple(union_iou([region.box for region in one.regions], greedy) for one in said),
    )
