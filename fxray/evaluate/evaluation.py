"""Scores of one detector on one set of samples, with intervals, overall and by generator."""

import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxray.evaluate.bootstrap import note_of_sources
from fxray.evaluate.calibration import Calibration
from fxray.evaluate.decisions import CalibratedScores, score_calibrated
from fxray.evaluate.estimates import Estimate, estimate_means
from fxray.evaluate.groups import GROUPS, SIZES, group_of, has_planted_defects, size_of
from fxray.evaluate.predictions import Prediction
from fxray.evaluate.probabilities import ProbabilityScores, score_probabilities
from fxray.evaluate.scores import SampleScores, score_samples
from fxray.events import OnEvent, Step, ignore
from fxray.schema import Sample, Tag

PHASE = "scoring"
SILENT_S = 3.0
"""Nothing is told of what takes less."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Scores of a part of the samples.

    Attributes:
        num_samples: Samples in it.
        metrics: By the names of `METRICS`.
    """

    num_samples: int
    metrics: dict[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Numbers by name."""
        return {"num_samples": self.num_samples} | {name: e.to_json() for name, e in self.metrics.items()}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of a detector.

    Attributes:
        name: Of the detector: "no-ft", "sft", a stage.
        is_synthetic: True where the samples are photographs with planted defects: never comparable with the paper.
        num_real: Real samples.
        num_generated: Generated samples.
        num_sources: Sources of the samples.
        overall: All samples.
        by_generator: Per generator, "real" included.
        by_group: Per group of the paper's Table 2, in its order.
        by_category: Per category of what the images show.
        by_tag: Per true tag; an image with several counts in each.
        by_size: Per share of the image that the true regions cover, smallest first.
        num_unread: Answers without a readable verdict, each counted as wrong.
        fault_counts: How many answers show each fault of form, most frequent first.
        seconds_per_image: Mean of what was measured; NaN where nothing was.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.
        probabilities: Scores of the detector's own probabilities; None where it gives none.
        calibrated: Of the calibrated ones; None without a calibration.
        scores: Per sample, for paired comparison.
    """

    name: str
    is_synthetic: bool
    num_real: int
    num_generated: int
    num_sources: int
    overall: Slice
    by_generator: dict[str, Slice]
    by_group: dict[str, Slice]
    by_category: dict[str, Slice]
    by_tag: dict[str, Slice]
    by_size: dict[str, Slice]
    num_unread: int
    fault_counts: dict[str, int]
    seconds_per_image: float
    num_bootstrap: int
    seed: int
    probabilities: ProbabilityScores | None
    calibrated: CalibratedScores | None
    scores: SampleScores = field(repr=False)

    @property
    def note_of_sources(self) -> str:
        """What is to be said beside its intervals; empty where each image is of a source of its own."""
        return note_of_sources(self.num_real + self.num_generated, self.num_sources)

    def to_json(self) -> dict[str, Any]:
        """Everything but the scores per sample, ready for `json.dumps`."""
        return {
            "name": self.name,
            "is_synthetic": self.is_synthetic,
            "num_real": self.num_real,
            "num_generated": self.num_generated,
            "num_sources": self.num_sources,
            "overall": self.overall.to_json(),
            "by_group": {name: part.to_json() for name, part in self.by_group.items()},
            "by_generator": {name: part.to_json() for name, part in self.by_generator.items()},
            "by_category": {name: part.to_json() for name, part in self.by_category.items()},
            "by_tag": {name: part.to_json() for name, part in self.by_tag.items()},
            "by_size": {name: part.to_json() for name, part in self.by_size.items()},
            "num_unread": self.num_unread,
            "fault_counts": self.fault_counts,
            "seconds_per_image": self.seconds_per_image if math.isfinite(self.seconds_per_image) else None,
            "num_bootstrap": self.num_bootstrap,
            "seed": self.seed,
            "probabilities": self.probabilities.to_json() if self.probabilities else None,
            "calibrated": self.calibrated.to_json() if self.calibrated else None,
        }


def evaluate(
    predictions: Sequence[Prediction],
    samples: Sequence[Sample],
    *,
    num_bootstrap: int,
    seed: int,
    name: str = "",
    is_synthetic: bool = False,
    has_boxes: bool = True,
    calibration: Calibration | None = None,
    on_event: OnEvent = ignore,
) -> Evaluation:
    """Scores a detector.

    Args:
        predictions: Exactly one per sample, in any order.
        samples: The truth.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.
        name: What to call the detector.
        is_synthetic: Whether defects are planted; those of `fxray data synth` are known without being told.
        has_boxes: False for a detector that was taught none: IoU and boxes are not reported.
        calibration: Of the detector, fitted on other samples.
        on_event: Told of the progress where it takes long: of ten thousand samples, some ten seconds.

    Raises:
        DataError: There is no sample, or the predictions are not those of just these samples.
    """
    scores = score_samples(predictions, samples, has_boxes=has_boxes)
    is_synthetic = is_synthetic or has_planted_defects(scores.generators)
    pairs = zip(scores.generators, scores.is_generated_N.tolist(), strict=True)
    groups = [group_of(generator, is_generated=fake, is_synthetic=is_synthetic) for generator, fake in pairs]
    seconds = [p.seconds for p in predictions if p.seconds is not None]
    resampling = {"num_bootstrap": num_bootstrap, "seed": seed}
    slices = _score_cuts(scores, _cuts(samples, scores.generators, groups), on_event, **resampling)
    by_id = {prediction.sample_id: prediction.probability for prediction in predictions}
    own = [by_id[sample_id] for sample_id in scores.sample_ids]
    calibrated = score_calibrated(calibration, own, scores.is_generated_N, **resampling) if calibration else None
    return Evaluation(
        name=name,
        is_synthetic=is_synthetic,
        num_real=int((~scores.is_generated_N).sum()),
        num_generated=int(scores.is_generated_N.sum()),
        num_sources=len({sample.source for sample in samples}),
        overall=slices["overall"][""],
        by_generator=slices["by_generator"],
        by_group=slices["by_group"],
        by_category=slices["by_category"],
        by_tag=slices["by_tag"],
        by_size=slices["by_size"],
        num_unread=sum(p.verdict is None for p in predictions),
        fault_counts=dict(Counter(fault for p in predictions for fault in p.faults).most_common()),
        seconds_per_image=float(np.mean(seconds)) if seconds else math.nan,
        num_bootstrap=num_bootstrap,
        seed=seed,
        probabilities=score_probabilities(own, scores.is_generated_N, **resampling),
        calibrated=calibrated,
        scores=scores,
    )


def _cuts(
    samples: Sequence[Sample], generators: Sequence[str], groups: Sequence[str]
) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Every way to cut the samples into slices, by its name."""
    return {
        "overall": {"": np.ones(len(samples), bool)},
        "by_generator": _cut([[g] for g in generators], sorted(set(generators))),
        "by_group": _cut([[g] for g in groups], GROUPS),
        "by_category": _cut([[s.category] for s in samples], sorted({s.category for s in samples})),
        "by_tag": _cut([s.annotation.tags for s in samples], list(Tag)),
        "by_size": _cut([[size_of(sample)] for sample in samples], SIZES),
    }


def _cut(keys: Sequence[Collection[str]], order: Iterable[str]) -> dict[str, NDArray[np.bool_]]:
    """Which samples have each key, bool [N]; only keys that one has."""
    return {key: np.array(is_in) for key in order if any(is_in := [key in each for each in keys])}


def _score_cuts(
    scores: SampleScores, cuts: Mapping[str, Mapping[str, NDArray[np.bool_]]], on_event: OnEvent, **resampling: int
) -> dict[str, dict[str, Slice]]:
    """The slices of each way to cut, by its name and key."""
    slices: dict[str, dict[str, Slice]] = {name: {} for name in cuts}
    parts = [(name, key, is_in_N) for name, cut in cuts.items() for key, is_in_N in cut.items()]
    start_s = time.monotonic()
    for done, (name, key, is_in_N) in enumerate(parts, start=1):
        slices[name][key] = Slice(int(is_in_N.sum()), estimate_means(scores.part(is_in_N), **resampling))
        if time.monotonic() - start_s > SILENT_S:
            on_event(Step(PHASE, done, len(parts)))
    return slices
