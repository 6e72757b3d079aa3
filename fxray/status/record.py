"""`status.json`: what the driver says of itself every few seconds, and its last words when it fails.

The driver writes it aside and renames it, so that a reader never meets half of one.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from fxray.files import write_atomically

STATUS_FILE = "status.json"
HEARTBEAT_S = 5.0
"""Time between two records of a driver that is alive."""
MAX_WARNINGS = 20
OUTCOMES = ("running", "finished", "stopped", "failed")
_KINDS: dict[Any, Any] = {str: str, int: int, float: int | float}
"""What JSON holds of a field of some type."""
_LARGEST = 1e12
"""No time, and nothing that is counted, is beyond it."""

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Saying:
    """A line and when it was said, in unix seconds."""

    time: float
    text: str


@dataclass(frozen=True, slots=True)
class Activity:
    """What a worker, a rank or a part of the driver does, and since when, in unix seconds."""

    track: str
    name: str
    since: float


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a driver gave up.

    Attributes:
        kind: Class of the error.
        message: What is wrong.
        where: The place, if the error knows it.
        remedy: What to do about it, if the error knows that.
        phase: What the run was at.
    """

    kind: str
    message: str
    where: str = ""
    remedy: str = ""
    phase: str = ""


@dataclass(frozen=True, slots=True)
class StatusRecord:
    """A driver's word on itself.

    Attributes:
        outcome: "running", "finished", "stopped" (from outside) or "failed".
        host: Machine of the driver.
        pid: Its process there.
        pid_namespace: Where that number means something: containers may share a host's name; empty where not known.
        command: As it was typed.
        started: When it took the run over, in unix seconds.
        time: When it wrote this, in unix seconds.
        phase: What it is at: "sft", "alpha", "evaluate beta"; empty between phases.
        step: Steps of the phase that are done.
        num_steps: Steps of the phase in all; 0 where not known.
        first_step: Steps of it that were done before this driver began with it.
        phase_started: When this driver began with it, in unix seconds.
        phases: The stages of the run, in their order.
        waiting: What it waits for at this moment.
        workers: Who is there and what each does.
        counters: What went wrong and was lived with, by name.
        warnings: The last ones, also of the drivers before.
        metrics_url: Where Prometheus finds the metrics of the driver's node.
        error: Why it gave up.
    """

    outcome: str
    host: str
    pid: int
    command: str
    started: float
    time: float
    phase: str = ""
    step: int = 0
    num_steps: int = 0
    first_step: int = 0
    phase_started: float = 0.0
    phases: tuple[str, ...] = ()
    waiting: tuple[Activity, ...] = ()
    workers: tuple[Activity, ...] = ()
    counters: dict[str, float] = dataclasses.field(default_factory=dict)
    warnings: tuple[Saying, ...] = ()
    metrics_url: str = ""
    pid_namespace: str = ""
    error: RunError | None = None


def pid_namespace() -> str:
    """This process's, as Linux names it; empty elsewhere."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it names no path
    except OSError:
        return ""


def write_record(run_dir: Path, record: StatusRecord) -> None:
    """Puts a record in the place of the last one."""
    write_atomically(run_dir / STATUS_FILE, json.dumps(dataclasses.asdict(record), indent=1) + "\n")


def read_record(run_dir: Path) -> StatusRecord | None:
    """The last record; None where there is none that can be read."""
    try:
        fields = json.loads((run_dir / STATUS_FILE).read_text("utf-8"))
        record = _made(
            StatusRecord,
            fields
            | {
                "phases": tuple(_checked(each, str) for each in fields["phases"]),
                "waiting": tuple(_made(Activity, each) for each in fields["waiting"]),
                "workers": tuple(_made(Activity, each) for each in fields["workers"]),
                "counters": {name: _checked(each, float) for name, each in fields["counters"].items()},
                "warnings": tuple(_made(Saying, each) for each in fields["warnings"]),
                "error": _made(RunError, fields["error"]) if fields["error"] else None,
            },
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return record if record.outcome in OUTCOMES else None


def _made(kind: type[Made], fields: Mapping[str, Any]) -> Made:
    """A dataclass whose texts and numbers are some.

    Raises:
        TypeError: A field is missing, unknown or of another type.
    """
    made = kind(**fields)
    for name, type_ in get_type_hints(kind).items():
        if type_ in _KINDS:
            _checked(getattr(made, name), type_)
    return made


def _checked(value: Any, type_: type) -> Any:
    if not isinstance(value, _KINDS[type_]) or (type_ is not str and not abs(value) < _LARGEST):
        raise TypeError(f"{value!r} is no {type_.__name__}")
    return value


def is_fault(name: str) -> bool:
    """Whether a metric counts, over the whole run so far, something that went wrong and was lived with."""
    return name.startswith("num_") and name.endswith(
        ("_deaths", "_departures", "_restarts", "_timeouts", "_failures", "_images")
    )
