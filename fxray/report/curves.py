"""Which curves a report shows, and their points: the paper's Figure 3 and what helps to trust it.

Every phase (SFT, then each stage) is one unit wide on the x axis, whatever its number of steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fxray.evaluate.comparison import Comparison, title_of
from fxray.metrics import StepMetrics

SFT_PHASE = "sft"
_MAX_POINTS = 240
"""Points of one curve in one phase; more are averaged in equal bins."""
_MAX_VALUE = 1e300
"""Of a point's y, so that sums and differences of points are finite."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the x axis.

    Attributes:
        name: "sft" or a stage.
        first_step: Number of its first recorded step.
        last_step: Number of its last recorded step.
    """

    name: str
    first_step: int
    last_step: int

    @property
    def title(self) -> str:
        return title_of(self.name)


@dataclass(frozen=True, slots=True)
class Mark:
    """A measurement on held-out images, with its 95 % interval; a bound that no resample gave is the value."""

    x: float
    value: float
    low: float
    high: float
    label: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel.

    Attributes:
        label: For the legend.
        pieces: Per phase the points (x, y); a line never joins two phases.
        marks: Measurements on held-out images.
    """

    label: str
    pieces: tuple[tuple[tuple[float, float], ...], ...]
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: some curves over some phases.

    Attributes:
        title: What is shown.
        note: How to read it.
        phases: Stretches of the x axis, from left to right.
        curves: Lines, in the order of their colours.
    """

    title: str
    note: str
    phases: tuple[Phase, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    title: str
    note: str
    metrics: tuple[tuple[str, str], ...]
    """Name, label in the legend."""
    is_sft: bool | None
    """Only SFT, only the stages, or (None) both."""


_HELD_OUT = {"accuracy": "accuracy", "iou": "IoU"}
_PLANS = (
    _Plan(
        "Accuracy and IoU",
        "Dots: held-out images after each stage, with 95 % intervals. Lines: sampled training answers.",
        (("accuracy", "accuracy"), ("iou", "IoU")),
        None,
    ),
    _Plan(
        "On the validation split",
        "Greedy answers to the same images of the validation split, every evaluate.validate_every_steps steps.",
        (
            ("validation/accuracy", "accuracy"),
            ("validation/iou", "IoU"),
            ("validation/parse_rate", "parse rate"),
        ),
        False,
    ),
    _Plan("Reward", "Mean over the sampled answers; each stage weighs its parts anew.", (("reward", "reward"),), False),
    _Plan(
        "Parts of the reward",
        "Unweighted means.",
        (("reward/label", "label"), ("reward/iou", "relaxed IoU"), ("reward/format", "format")),
        False,
    ),
    _Plan("SFT loss", "Nats per answer token.", (("loss", "loss"), ("validation/loss", "validation split")), True),
    _Plan("GRPO loss", "Clipped objective and KL term.", (("loss", "loss"),), False),
    _Plan("KL to the reference", "k3 estimate, nats per token.", (("kl", "KL"),), False),
    _Plan("Parse rate", "Share of sampled answers that keep to the grammar.", (("parse_rate", "parse rate"),), False),
    _Plan(
        "Seconds of a step",
        "Where answering and learning overlap, they add up to more than the step.",
        (("seconds", "step"), ("seconds/generate", "answering"), ("seconds/update", "learning")),
        False,
    ),
    _Plan("Speed", "Tokens per second, the whole step counted.", (("tokens_per_s", "tokens/s"),), None),
)


def phases_of(steps: Sequence[StepMetrics]) -> tuple[Phase, ...]:
    """The phases in the order in which they were first recorded."""
    recorded: dict[str, list[int]] = {}
    for step in steps:
        recorded.setdefault(step.phase, []).append(step.step)
    return tuple(Phase(name, min(numbers), max(numbers)) for name, numbers in recorded.items())


def panels_of(steps: Sequence[StepMetrics], comparison: Comparison) -> list[Panel]:
    """Every panel for which something was recorded."""
    panels = []
    for plan in (*_PLANS, *_of_own_rewards(steps)):
        phases = tuple(p for p in phases_of(steps) if plan.is_sft is None or plan.is_sft == (p.name == SFT_PHASE))
        curves = []
        for name, label in plan.metrics:
            marks = _held_out_marks(name, phases, comparison) if name in _HELD_OUT else ()
            pieces = tuple(_points(name, i, phase, steps) for i, phase in enumerate(phases))
            if marks or any(pieces):
                curves.append(Curve(label, pieces, marks))
        if curves and phases:
            panels.append(Panel(plan.title, plan.note, phases, tuple(curves)))
    return panels


def _of_own_rewards(steps: Sequence[StepMetrics]) -> list[_Plan]:
    """A panel for each of the user's rewards."""
    built_in = {name for plan in _PLANS for name, _ in plan.metrics}
    logged = {name for step in steps for name in step.metrics if name.startswith("reward/")}
    paths = [name.removeprefix("reward/") for name in sorted(logged - built_in)]
    return [_Plan(f"Reward {path}", "Unweighted mean.", ((f"reward/{path}", path),), False) for path in paths]


def _points(name: str, i: int, phase: Phase, steps: Sequence[StepMetrics]) -> tuple[tuple[float, float], ...]:
    """Points of one metric in the i-th phase, thinned to bins of equal width; huge values are cut to `_MAX_VALUE`."""
    found = [(s.step, s.metrics.get(name, math.nan)) for s in steps if s.phase == phase.name]
    points = [
        (i + _place(step, phase), min(max(value, -_MAX_VALUE), _MAX_VALUE))
        for step, value in found
        if math.isfinite(value)
    ]
    if len(points) <= _MAX_POINTS:
        return tuple(points)
    bins = np.array_split(np.array(points), _MAX_POINTS)
    return tuple((float(x), float(y)) for x, y in (part.mean(axis=0) for part in bins))


def _place(step: int, phase: Phase) -> float:
    return (step - phase.first_step + 1) / (phase.last_step - phase.first_step + 1)


def _held_out_marks(name: str, phases: Sequence[Phase], comparison: Comparison) -> tuple[Mark, ...]:
    """Held-out measurements at the end of their phase; No-FT at the start of all."""
    ends = {phase.name: i + 1.0 for i, phase in enumerate(phases)} | {"no-ft": 0.0}
    marks = []
    for evaluation in comparison.evaluations:
        estimate = evaluation.overall.metrics[name]
        if evaluation.name in ends and math.isfinite(estimate.value):
            label = f"{title_of(evaluation.name)}: {_HELD_OUT[name]} {estimate.value:.3f}"
            low, high = (b if math.isfinite(b) else estimate.value for b in (estimate.low, estimate.high))
            marks.append(Mark(ends[evaluation.name], estimate.value, low, high, label))
    return tuple(marks)
