"""From answers to the validation split to the numbers of settings and trials. Nothing here trains or asks a model."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fxray.data.dataset import Dataset
from fxray.errors import DataError
from fxray.evaluate.estimates import Estimate, estimate_mean_gains, estimate_means
from fxray.evaluate.groups import has_planted_defects
from fxray.evaluate.predictions import read_predictions
from fxray.evaluate.scores import SampleScores, score_samples
from fxray.experiments.measure import Numbers
from fxray.grammar.views import VIEWS
from fxray.launch.phases import SFT
from fxray.metrics import read_metrics
from fxray.schema import Sample
from fxray.sweep.trials import Trial, state_of

SHOWN = ("accuracy", "iou", "matched_iou", "parse_rate")
GAINS = ("iou", "accuracy")


@dataclass(frozen=True, slots=True)
class _Answers:
    """A predictions file as it was written, and the truth. Tables are written often; what did not change is kept."""

    file: Path
    written_ns: int
    data: Path
    has_boxes: bool


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What came of a setting with one seed.

    Attributes:
        trial: Its name.
        seed: Of the run.
        state: Why there are no numbers; empty where they are there.
        metrics: Estimates by name, with intervals over images.
        gains: Differences from the same trial's SFT; empty where SFT itself is measured.
        seconds: Of all its recorded steps, those of SFT among them, also where SFT was another trial's.
    """

    trial: str
    seed: int
    state: str
    metrics: Mapping[str, Numbers] = field(default_factory=dict)
    gains: Mapping[str, Numbers] = field(default_factory=dict)
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SettingResult:
    """What came of a setting over its seeds.

    Attributes:
        setting: Its name.
        title: Its values as overrides.
        values: By field.
        trials: One per seed.
        metrics: Mean and sample standard deviation over the seeds that are done; no deviation of one.
        gains: Mean difference from SFT and its interval over images, and its deviation over the seeds.
        seconds: Mean over the seeds that are done.
    """

    setting: str
    title: str
    values: Mapping[str, Any]
    trials: tuple[TrialResult, ...]
    metrics: Mapping[str, Numbers] = field(default_factory=dict)
    gains: Mapping[str, Numbers] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def num_done(self) -> int:
        return sum(not trial.state for trial in self.trials)


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much the best setting is better than the next, seed by seed.

    Attributes:
        best: Name of the best.
        next: Name of the next.
        value: Mean difference over the seeds, positive where the best is better.
        low: Lower bound of its 95 % t interval; NaN of one seed.
        high: Upper bound.
    """

    best: str
    next: str
    value: float
    low: float
    high: float


def metric_after(trial: Trial, out: Path, phase: str, metric: str) -> float:
    """A metric of the answers to the validation split after a phase.

    Raises:
        DataError: It applies to no image.
    """
    value = _means(_answers(trial, out, phase), 1, 0)[metric].value
    if math.isnan(value):
        raise DataError(
            f"{metric} cannot be said of any image",
            where=trial.name,
            remedy="look at another metric: docs/evaluation.md",
        )
    return value


def measure_settings(
    trials: Sequence[Trial],
    out: Path,
    metric: str,
    stopped: Mapping[str, str],
    *,
    num_bootstrap: int,
    bootstrap_seed: int,
) -> list[SettingResult]:
    """Every setting in the order of the sweep, with what is there of it.

    Raises:
        DataError: Answers are damaged.
    """
    resampling = (num_bootstrap, bootstrap_seed)
    by_setting: dict[str, list[Trial]] = {}
    for trial in trials:
        by_setting.setdefault(trial.setting.name, []).append(trial)
    return [_measure_setting(own, out, metric, stopped, resampling) for own in by_setting.values()]


def shown(metric: str) -> tuple[str, ...]:
    """Metrics that a table has columns for."""
    return tuple(dict.fromkeys([*SHOWN, metric]))


def gained(metric: str) -> tuple[str, ...]:
    """Metrics whose gain from SFT a table has columns for."""
    return tuple(dict.fromkeys([*GAINS, metric]))


def ranked(results: Sequence[SettingResult], metric: str, mode: Literal["max", "min"]) -> list[SettingResult]:
    """Settings of which every seed is measured, the best first; one whose metric says nothing is none of them."""
    found = [(statistics.mean(values), r) for r in results if (values := _values(r, metric)) is not None]
    return [result for _, result in sorted(found, key=lambda pair: pair[0], reverse=mode == "max")]


def best_of(results: Sequence[SettingResult], metric: str, mode: Literal["max", "min"]) -> list[SettingResult]:
    """The best setting; several, in the order of the sweep, where their means are the same number."""
    order = ranked(results, metric, mode)
    return [result for result in order if result.metrics[metric]["value"] == order[0].metrics[metric]["value"]]


def lead_of(results: Sequence[SettingResult], metric: str, mode: Literal["max", "min"]) -> Lead | None:
    """How sure it is that the best setting is better than the next; None where there are not two, or none is alone."""
    from scipy.stats import t

    order = ranked(results, metric, mode)
    if len(order) < 2 or len(best_of(results, metric, mode)) > 1:
        return None
    sign = 1 if mode == "max" else -1
    best, following = order[:2]
    values = (_values(result, metric) or [] for result in (best, following))
    differences = [sign * (one - other) for one, other in zip(*values, strict=True)]
    mean, num = statistics.mean(differences), len(differences)
    reach = float(t.ppf(0.975, num - 1)) * statistics.stdev(differences) / num**0.5 if num > 1 else math.nan
    return Lead(best.setting, following.setting, mean, mean - reach, mean + reach)


def _values(result: SettingResult, metric: str) -> list[float] | None:
    """A metric seed by seed; None where a seed lacks it, for a mean over the others would flatter the setting."""
    known = [v for trial in result.trials if not trial.state and (v := trial.metrics[metric]["value"]) is not None]
    return known if len(known) == len(result.trials) else None


def is_synthetic(trial: Trial) -> bool:
    """Whether the images are photographs with planted defects."""
    return has_planted_defects(sample.generator for sample in _samples(_validation(trial)))


def _measure_setting(
    trials: Sequence[Trial], out: Path, metric: str, stopped: Mapping[str, str], resampling: tuple[int, int]
) -> SettingResult:
    lines = [_measure_trial(trial, out, metric, state_of(trial, out, stopped), resampling) for trial in trials]
    measured = [line for line in lines if not line.state]
    done = [trial for trial, line in zip(trials, lines, strict=True) if line.gains]
    gains: dict[str, Numbers] = {}
    if done:
        means = _gains(tuple((_answers(t, out, SFT), _answers(t, out, t.phase)) for t in done), *resampling)
        for name in gained(metric):
            gains[name] = means[name].to_json() | {"sd": _deviation(line.gains[name]["value"] for line in measured)}
    seconds = [line.seconds for line in measured if line.seconds is not None]
    setting = trials[0].setting
    return SettingResult(
        setting.name,
        setting.title,
        setting.values,
        tuple(lines),
        {name: _spread([line.metrics[name]["value"] for line in measured]) for name in shown(metric) if measured},
        gains,
        statistics.mean(seconds) if seconds else None,
    )


def _measure_trial(trial: Trial, out: Path, metric: str, state: str, resampling: tuple[int, int]) -> TrialResult:
    if state:
        return TrialResult(trial.name, trial.seed, state)
    after = _answers(trial, out, trial.phase)
    means = _means(after, *resampling)
    gains = _gains(((_answers(trial, out, SFT), after),), *resampling) if trial.phase != SFT else {}
    steps = [step for step in read_metrics(trial.run(out).root) if step.phase in trial.phases]
    return TrialResult(
        trial.name,
        trial.seed,
        "",
        {name: means[name].to_json() for name in shown(metric)},
        {name: gains[name].to_json() for name in gained(metric) if gains},
        math.fsum(step.metrics.get("seconds", 0.0) for step in steps) if steps else None,
    )


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {"value": statistics.mean(known) if known else None, "sd": _deviation(known)}


def _deviation(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) > 1 else None


def _answers(trial: Trial, out: Path, phase: str) -> _Answers:
    file = trial.run(out).predictions(phase, "validation")
    return _Answers(file, file.stat().st_mtime_ns, _validation(trial), VIEWS[trial.config.data.view].has_regions)


def _validation(trial: Trial) -> Path:
    """The split that all trials answer."""
    path = trial.config.data.validation
    assert path is not None, "trials share files, also of synthetic data"
    return path


@cache
def _scores(answers: _Answers) -> SampleScores:
    predictions = read_predictions(answers.file)
    answered = {prediction.sample_id for prediction in predictions}
    samples = [sample for sample in _samples(answers.data) if sample.sample_id in answered]
    return score_samples(predictions, samples, has_boxes=answers.has_boxes)


@cache
def _means(answers: _Answers, num_bootstrap: int, seed: int) -> dict[str, Estimate]:
    return estimate_means(_scores(answers), num_bootstrap=num_bootstrap, seed=seed)


@cache
def _gains(pairs: tuple[tuple[_Answers, _Answers], ...], num_bootstrap: int, seed: int) -> dict[str, Estimate]:
    scores = [(_scores(before), _scores(after)) for before, after in pairs]
    return estimate_mean_gains(scores, num_bootstrap=num_bootstrap, seed=seed)


@cache
def _samples(data: Path) -> tuple[Sample, ...]:
    return tuple(Dataset.open(data).samples)
