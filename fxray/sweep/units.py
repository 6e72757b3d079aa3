"""What Ray Tune is given: units, how they are stopped early, and whom it tells. Read in every process of its."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fxray.sweep.trials import Trial


@dataclass(frozen=True, slots=True)
class Unit:
    """What Tune calls a trial.

    Attributes:
        name: Its own.
        trials: Are advanced one after the other to each phase.
        phases: After each of them their mean is told.
    """

    name: str
    trials: tuple[Trial, ...]
    phases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Halving:
    """Asynchronous successive halving (Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning").

    Attributes:
        mode: Whether more of the value is better.
        num_phases: Of the unit that has most.
        min_phases: Before the first decision.
        reduction_factor: About one in so many goes on.
    """

    mode: Literal["max", "min"]
    num_phases: int
    min_phases: int
    reduction_factor: float


@dataclass(frozen=True, slots=True)
class Listener:
    """What the engine tells.

    Attributes:
        told: A unit has come to a phase, with a value.
        done: A unit has come to its last phase, or (True) was stopped after the phase that was told last.
        failed: A unit failed, and why.
    """

    told: Callable[[Unit, str, float], None]
    done: Callable[[Unit, bool], None]
    failed: Callable[[Unit, str], None]


@dataclass(frozen=True, slots=True)
class Round:
    """Units that are worked on together.

    Attributes:
        units: In the order in which they begin.
        listener: Told of them, in the process that runs the sweep.
        halving: How they are stopped early; None for never.
    """

    units: tuple[Unit, ...]
    listener: Listener
    halving: Halving | None = None
