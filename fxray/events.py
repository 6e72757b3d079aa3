"""What a long command tells while it works: launch, loop and SFT emit events; command line and logs consume them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """A part of the way begins: "data", "sft", "alpha", "evaluate gamma", "evaluate gamma on validation".

    Attributes:
        phase: Its name, unique within the run.
        num_steps: Steps it will take in all; 0 where that is not known.
        first_step: Steps that an earlier, interrupted run has already done.
    """

    phase: str
    num_steps: int = 0
    first_step: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a phase is done.

    Attributes:
        phase: The phase.
        step: Steps done so far, this one included.
        num_steps: Steps in all; 0 where that is not known.
        metrics: Numbers by name, as they go into the metrics log ("reward", "reward/label", "reward/iou",
            "reward/format", "parse_rate", "tokens_per_s", "loss", ...).
    """

    phase: str
    step: int
    num_steps: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PhaseDone:
    """A phase is over.

    Attributes:
        phase: The phase.
        seconds: How long it took in this process.
        summary: One line of what came out.
    """

    phase: str
    seconds: float
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the user should know; `is_warning` when it may need an action."""

    text: str
    is_warning: bool = False


Event = PhaseStarted | Step | PhaseDone | Note
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Consumes an event in silence."""
