"""One baseline from beginning to end: fit, choose a threshold, predict, and a record of what it took.

    OUT/<name>/predictions.parquet    what `fxray evaluate --predictions` reads
    OUT/<name>/record.json            seconds, memory, parameters, threshold, and what all of it rests on
    OUT/<name>/under/<change>.json    where it is asked for: numbers of changed test images, and of the original ones

They appear together or not at all.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import Answer, Baseline, Settings
from fxray.baselines.registry import Entry
from fxray.baselines.split import hold_out, is_generated
from fxray.data.changes import HARDSHIPS, Change, change_sample, refuse_too_long
from fxray.data.dataset import Dataset
from fxray.errors import DataError
from fxray.evaluate.comparison import measure_gain
from fxray.evaluate.evaluation import evaluate
from fxray.evaluate.fitting import choose_balanced_threshold
from fxray.evaluate.foreign import boxes_of_mask
from fxray.evaluate.groups import has_planted_defects
from fxray.evaluate.predictions import Prediction, write_predictions
from fxray.events import OnEvent, PhaseDone, PhaseStarted, Step
from fxray.files import atomic_dir, make_folder, write_atomically
from fxray.report.robustness import ORIGINAL
from fxray.schema import Box, Region, Verdict

PREDICTIONS, RECORD, UNDER = "predictions.parquet", "record.json", "under"


@dataclass(frozen=True, slots=True)
class Under:
    """Changed test images that a baseline is asked about, too.

    Attributes:
        changes: Names, of `HARDSHIPS`.
        rows: Of the test set.
        num_bootstrap: Resamples behind an interval.
    """

    changes: tuple[str, ...]
    rows: tuple[int, ...]
    num_bootstrap: int


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be measured.

    Attributes:
        entry: The baseline.
        settings: How it is set up.
        train: Parquet file to fit on.
        test: Parquet file to answer.
        out: Folder of the baseline, which is written.
        key: What decides the answers, as plain values: checksums, seed, ...
        versions: Of packages, for the record.
        under: Changed images; None for the test set alone.
    """

    entry: Entry
    settings: Settings
    train: Path
    test: Path
    out: Path
    key: Mapping[str, Any]
    versions: Mapping[str, Any]
    under: Under | None = None


def measure(job: Job, on_event: OnEvent) -> None:
    """Fits a baseline and lets it answer the test set.

    The threshold is the best on a fifth of the training set that shares no source with what is fitted on; the labels of
    the test set are never looked at.

    Args:
        job: What is to be measured.
        on_event: Is told of the progress.

    Raises:
        DataError: A class is missing, an image cannot be read, or answers are no numbers.
        ModelError: Weights cannot be read or are of another architecture.
        ResourceError: The disk is full or not writable.
    """
    train, test = Dataset.open(job.train), Dataset.open(job.test)
    if job.under is not None:
        refuse_too_long([test.samples[row] for row in job.under.rows], _changes(job.under))
    is_held_N = hold_out(train.samples, str(job.train), job.settings.seed)
    truth_N = is_generated(train.samples)
    held, fitted = np.flatnonzero(is_held_N), np.flatnonzero(~is_held_N)
    baseline = job.entry.build(job.settings)
    clock = _Clock()
    _fit(baseline, job.entry.name, train, fitted, truth_N[fitted], on_event)
    fit = clock.lap()
    pictures = Pictures(train, held.tolist())
    scores_H = np.array([a.score for a in _answers(baseline, job.entry.name, "threshold", pictures, on_event)])
    _refuse_what_is_no_score(scores_H, str(job.train))
    threshold = choose_balanced_threshold(scores_H, truth_N[held])
    clock.lap()
    said = _predictions(baseline, job.entry.name, "predict", Pictures(test, range(len(test))), threshold, on_event)
    predict = clock.lap()
    numbers = _numbers_under(baseline, job, job.under, test, said, threshold, on_event) if job.under else {}
    record = {
        "name": job.entry.name,
        "key": dict(job.key),
        "is_synthetic": has_planted_defects(s.generator for d in (train, test) for s in d.samples),
        "has_masks": job.entry.has_masks,
        "threshold": threshold,
        "num_fitted": len(fitted),
        "num_held_out": len(held),
        "held_out_sources": sorted({train.samples[row].source for row in held})[:20],
        "num_sources_in_both": len({s.source for s in train.samples} & {s.source for s in test.samples}),
        "num_parameters": baseline.num_parameters,
        "fit": fit,
        "predict": predict,
        "peak_memory_mib": peak_memory_mib(),
        "peak_device_memory_mib": _peak_device_mib(job.settings.device),
        "versions": dict(job.versions),
    }
    seconds = predict["seconds"] / len(test)
    with atomic_dir(job.out) as aside:
        timed = (replace(prediction, seconds=seconds) for prediction in said)
        write_predictions(timed, aside / PREDICTIONS, has_boxes=job.entry.has_masks)
        if numbers:
            make_folder(aside / UNDER)
        for name, found in numbers.items():
            write_atomically(aside / UNDER / f"{name}.json", json.dumps(found, indent=2) + "\n")
        write_atomically(aside / RECORD, json.dumps(record, indent=2) + "\n")


def peak_memory_mib() -> int:
    """The largest resident memory that this process ever had; `getrusage` would count what started it, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def _peak_device_mib(device: str) -> int | None:
    """None on a processor."""
    if device == "cpu" or "torch" not in sys.modules:
        return None
    import torch

    return torch.cuda.max_memory_allocated(device) // 2**20


class _Clock:
    """Seconds of wall time and of this process's processor time since the last lap."""

    def __init__(self) -> None:
        self._last = (time.perf_counter(), time.process_time())

    def lap(self) -> dict[str, float]:
        before, self._last = self._last, (time.perf_counter(), time.process_time())
        return {"seconds": self._last[0] - before[0], "processor_seconds": self._last[1] - before[1]}


def _fit(
    baseline: Baseline,
    name: str,
    train: Dataset,
    rows: NDArray[np.int64],
    is_generated_N: NDArray[np.bool_],
    on_event: OnEvent,
) -> None:
    phase, started_s = f"{name}: fit", time.perf_counter()
    on_event(PhaseStarted(phase))

    def on_step(step: int, num_steps: int, loss: float) -> None:
        on_event(Step(phase, step, num_steps, {} if np.isnan(loss) else {"loss": loss}))

    samples = [train.samples[row] for row in rows]
    baseline.fit(Pictures(train, rows.tolist()), is_generated_N, Masks(samples), on_step)
    on_event(PhaseDone(phase, time.perf_counter() - started_s))


def _answers(baseline: Baseline, name: str, what: str, pictures: Pictures, on_event: OnEvent) -> Iterator[Answer]:
    """One after the other: the masks of all images at once may be more than a machine's memory."""
    phase, started_s = f"{name}: {what}", time.perf_counter()
    on_event(PhaseStarted(phase, len(pictures)))
    for number, answer in enumerate(baseline.predict(pictures), start=1):
        yield answer
        on_event(Step(phase, number, len(pictures)))
    on_event(PhaseDone(phase, time.perf_counter() - started_s))


def _predictions(
    baseline: Baseline, name: str, what: str, pictures: Pictures, threshold: float, on_event: OnEvent
) -> list[Prediction]:
    """Raises a `DataError` where a score is no number."""
    said = [_said(a, threshold) for a in _answers(baseline, name, what, pictures, on_event)]
    _refuse_what_is_no_score(np.array([score for score, _ in said]), str(pictures.dataset.path))
    samples = [pictures.dataset.samples[row] for row in pictures.rows]
    return [
        _prediction(sample.sample_id, score, boxes, threshold)
        for sample, (score, boxes) in zip(samples, said, strict=True)
    ]


def _changes(under: Under) -> list[Change]:
    return [change for change in HARDSHIPS if change.name in under.changes]


def _numbers_under(
    baseline: Baseline,
    job: Job,
    under: Under,
    test: Dataset,
    said: Sequence[Prediction],
    threshold: float,
    on_event: OnEvent,
) -> dict[str, dict[str, Any]]:
    """Numbers by change, as `fxray robustness` has them: each change against what is said of the original images."""
    name, samples = job.entry.name, [test.samples[row] for row in under.rows]
    score = partial(evaluate, num_bootstrap=under.num_bootstrap, seed=job.settings.seed, has_boxes=job.entry.has_masks)
    original = score([said[row] for row in under.rows], samples, name=ORIGINAL)
    numbers = {ORIGINAL: original.to_json() | {"gain": None}}
    for change in _changes(under):
        pictures = Pictures(test, under.rows, change)
        answers = _predictions(baseline, name, f"predict under {change.name}", pictures, threshold, on_event)
        truth = [
            change_sample(sample, change.apply(test.decode(row, test.image_bytes(row))))
            for row, sample in zip(under.rows, samples, strict=True)
        ]
        scored = score(answers, truth, name=change.name)
        numbers[change.name] = scored.to_json() | {"gain": measure_gain(original, scored).to_json()}
    return numbers


def _refuse_what_is_no_score(scores_N: NDArray[np.float64], where: str) -> None:
    """Keeps what diverged out of thresholds and files.

    Raises:
        DataError: A score is no number in [0, 1].
    """
    wrong = np.flatnonzero(~((scores_N >= 0) & (scores_N <= 1)))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(scores_N)} scores are no number in [0, 1], the first {scores_N[wrong[0]]}",
            where=where,
            remedy="the fit has diverged: try another --seed or fewer --epochs",
        )


def _said(answer: Answer, threshold: float) -> tuple[float, list[Box]]:
    """Score and boxes. A picture that is called real has no flaws, whatever the mask says."""
    is_flawed_HW = answer.is_flawed_HW if answer.score >= threshold else None
    return answer.score, [] if is_flawed_HW is None else boxes_of_mask(is_flawed_HW)


def _prediction(sample_id: str, score: float, boxes: Sequence[Box], threshold: float) -> Prediction:
    verdict = Verdict.GENERATED if score >= threshold else Verdict.REAL
    return Prediction(sample_id, verdict, tuple(Region(box, "") for box in boxes), probability=score)
