"""Where a run stands, from the files in its directory; the directory may be a copy, and its driver long gone."""

import itertools
import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

from fxray.checkpoints import STATE_FILE, latest
from fxray.counts import counted
from fxray.errors import FxrayError
from fxray.files import is_there
from fxray.metrics import METRICS_FILE, StepMetrics, read_last_metrics
from fxray.status.record import STATUS_FILE, StatusRecord, is_fault, pid_namespace, read_record

SILENCE_S = 60.0
"""A driver that has written nothing for so long is taken for dead, unless something else shows that it lives."""
RECENT_STEPS = 10
TAIL_BYTES = 256 * 1024
SFT = "sft"
WAITS = ("wait", "idle")
"""Seconds of a step that are no part of it, but waits of one side for the other."""
_PRESENT = ("policy_version", "num_rollout_workers")
"""Metrics that say what is so now."""
SMALL_FILES = re.compile(
    r"(status\.json|metrics\.jsonl|config\.yaml|report\.html|.*/state\.json|sft/adapter/[^/]*\.json"
    r"|(trials|runs)/[^/]+/config\.yaml)"
)
"""What `read_status` needs of a run directory, and to know the folder of several."""
_MANY_RUNS = ("trials", "runs")
"""Where `fxray sweep` and `fxray reproduce` keep theirs."""


@dataclass(frozen=True, slots=True)
class PhaseState:
    """A phase and how far it is: "done", "now", "begun" (and nobody works on it) or "to do"."""

    name: str
    state: str


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """The newest checkpoint: its folder within the run, its step (None at the end of a phase), its age in seconds."""

    path: str
    step: int | None
    age_s: float


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        run_dir: The run directory, or its address.
        state: "running", "finished", "failed", "stopped", "dead": its driver ended without a word; or
            "unknown": there is no record.
        record: The driver's last word on itself; None where there is none.
        silent_s: Seconds since that word; NaN where there is none.
        phases: SFT and the stages.
        phase: What the newest metrics, or the driver, are of.
        step: Steps of it that are done.
        num_steps: In all; 0 where not known.
        recent: Means over the last steps of the phase, by name; of counts so far the last one.
        num_recent: How many these are.
        step_s: Median seconds of a step, everything counted; NaN where not known.
        left_s: Seconds until the phase is done; NaN where not known.
        checkpoint: The newest one.
        used_bytes: Of the run directory; 0 where not known.
        free_bytes: Of its disk.
        notes: What is damaged or missing, in words.
    """

    run_dir: Path | str
    state: str
    record: StatusRecord | None
    silent_s: float
    phases: tuple[PhaseState, ...]
    phase: str
    step: int
    num_steps: int
    recent: dict[str, float]
    num_recent: int
    step_s: float
    left_s: float
    checkpoint: CheckpointFacts | None
    used_bytes: int
    free_bytes: int
    notes: tuple[str, ...]

    @property
    def breakdown_s(self) -> dict[str, float]:
        """Mean seconds of the parts of a step; parts that overlap may add up to more than the step."""
        prefix = "seconds/"
        parts = {name.removeprefix(prefix): value for name, value in self.recent.items() if name.startswith(prefix)}
        return {name: value for name, value in parts.items() if "/" not in name and name not in WAITS}


def read_remote_status(address: str) -> RunStatus:
    """Reads a run in object storage, from a copy of its small files.

    Its record there is as old as the last copy that was whole, so a young lease too says that the driver is alive.

    Raises:
        ResourceError: The storage cannot be read.
        FxrayError: There is no run.
    """
    from fxray.remote import Mirror, cache_folder, local_copy

    folder, is_led = local_copy(address, SMALL_FILES), Mirror(address, cache_folder(address)).is_led()
    _refuse_what_is_no_run(folder, address)
    status = read_status(folder, is_led=is_led)
    return replace(status, run_dir=address, used_bytes=0, free_bytes=0)


def read_status(run_dir: Path, now: float | None = None, *, is_led: bool = False) -> RunStatus:
    """Reads a run directory.

    Args:
        run_dir: Of a run that works, has ended or was copied here.
        now: Unix seconds; by default those of the clock.
        is_led: Whether the driver is known not to be dead, however old its record is.

    Raises:
        FxrayError: It is no run directory.
    """
    _refuse_what_is_no_run(run_dir, str(run_dir))
    now = time.time() if now is None else now
    record = read_record(run_dir)
    notes = [] if record else [_why_no_record(run_dir)]
    steps, num_damaged = read_last_metrics(run_dir, TAIL_BYTES)
    if num_damaged:
        notes.append(f"{counted(num_damaged, 'line')} of {METRICS_FILE} left out: no record of a step")
    state = _state(run_dir, record, now, is_led=is_led)
    is_named = record is not None and bool(record.phase)
    phase = record.phase if record is not None and is_named else steps[-1].phase if steps else ""
    recent = [step for step in steps if step.phase == phase][-RECENT_STEPS - 1 :]
    step = record.step if record is not None and is_named else recent[-1].step if recent else 0
    num_steps = record.num_steps if record is not None and is_named else 0
    step_s = _step_seconds(recent, record)
    return RunStatus(
        run_dir=run_dir,
        state=state,
        record=record,
        silent_s=max(0.0, now - record.time) if record else float("nan"),
        phases=_phases(run_dir, record, phase if state == "running" else ""),
        phase=phase,
        step=step,
        num_steps=num_steps,
        recent=_means(recent[-RECENT_STEPS:]),
        num_recent=len(recent[-RECENT_STEPS:]),
        step_s=step_s,
        left_s=_left_s(step_s, num_steps - step, now - recent[-1].time if recent else 0.0, state, num_steps),
        checkpoint=_newest_checkpoint(run_dir, record, steps, now),
        used_bytes=_used_bytes(run_dir),
        free_bytes=shutil.disk_usage(run_dir).free,
        notes=tuple(notes),
    )


def _refuse_what_is_no_run(run_dir: Path, told: str) -> None:
    """Returns where a folder, which people know by the name `told`, holds a run."""
    remedy = "give the --run-dir of a `fxray train`"
    if not run_dir.is_dir():
        what = "is no folder" if is_there(run_dir) else "is not there"
        raise FxrayError(what, where=told, remedy=remedy)
    if not any((run_dir / name).exists() for name in (STATUS_FILE, "config.yaml", METRICS_FILE)):
        entries = sum(entry.name != ".lock" for entry in run_dir.iterdir())
        message = f"holds neither {STATUS_FILE} nor config.yaml" if entries else "is empty: no run was started in it"
        raise FxrayError(message, where=told, remedy=remedy)
    if not any((run_dir / name).exists() for name in (STATUS_FILE, METRICS_FILE)):
        runs = sorted(run for name in _MANY_RUNS for run in run_dir.glob(f"{name}/*") if run.is_dir())
        if runs:
            one = f"{told.rstrip('/')}/{runs[-1].relative_to(run_dir)}"
            message = f"is the folder of several runs ({len(runs)} so far), not of one"
            raise FxrayError(message, where=told, remedy=f"name one of them, as in: fxray status {one}")


def _why_no_record(run_dir: Path) -> str:
    if (run_dir / STATUS_FILE).exists():
        return f"{STATUS_FILE} is damaged, so nothing is known of the driver"
    return f"{STATUS_FILE} is missing, so nothing is known of the driver"


def _state(run_dir: Path, record: StatusRecord | None, now: float, *, is_led: bool) -> str:
    if record is None:
        return "finished" if (run_dir / "report.html").exists() else "unknown"
    if record.outcome != "running":
        return record.outcome
    is_here = record.host == platform.node() and record.pid_namespace in ("", pid_namespace())
    if (now - record.time > SILENCE_S and not is_led) or (is_here and not _is_alive(record.pid)):
        return "dead"
    return "running"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no process has so large a number
        return False
    except OSError:  # somebody else's
        return True
    return True


def _phases(run_dir: Path, record: StatusRecord | None, present: str) -> tuple[PhaseState, ...]:
    """SFT and the stages; without the driver's word, those that have begun."""
    begun = sorted(folder.name for folder in run_dir.glob("grpo/*") if not folder.name.startswith("."))
    done = {SFT: run_dir / "sft" / "adapter"}
    done |= {stage: run_dir / "grpo" / stage / "final" for stage in (record.phases if record else begun)}
    return tuple(
        PhaseState(
            name,
            "done" if path.is_dir() else "now" if name == present else "begun" if path.parent.is_dir() else "to do",
        )
        for name, path in done.items()
    )


def _step_seconds(recent: Sequence[StepMetrics], record: StatusRecord | None) -> float:
    started = record.started if record else 0.0  # what lies across a driver's start is a pause, no step
    gaps = [after.time - before.time for before, after in itertools.pairwise(recent) if before.time >= started]
    own = [step.metrics["seconds"] for step in recent if not math.isnan(step.metrics.get("seconds", float("nan")))]
    if gaps or own:  # steps that SFT tells again after a restart are recorded at once: their own seconds count
        return max(median(each) for each in (gaps, own) if each)
    if record and record.step > record.first_step:
        return (record.time - record.phase_started) / (record.step - record.first_step)
    return float("nan")


def _left_s(step_s: float, num_left: int, since_last_s: float, state: str, num_steps: int) -> float:
    if state != "running" or not num_steps or math.isnan(step_s):
        return float("nan")
    return max(0.0, step_s * num_left - min(since_last_s, step_s))


def _means(steps: Sequence[StepMetrics]) -> dict[str, float]:
    """Means over the steps that have a number; of counts so far, and of what is so now, the last one."""
    means = {}
    for name in dict.fromkeys(name for step in steps for name in step.metrics):
        values = [v for step in steps if (v := step.metrics.get(name, float("nan"))) == v]
        if values:
            means[name] = values[-1] if name in _PRESENT or is_fault(name) else fmean(values)
    return means


def _newest_checkpoint(
    run_dir: Path, record: StatusRecord | None, steps: Sequence[StepMetrics], now: float
) -> CheckpointFacts | None:
    """The one whose policy is the newest. Its age is the run's: times of files may be those of a copy."""
    found = [_checkpoint_state(path) for stage in run_dir.glob("grpo/*") if (path := latest(stage)) is not None]
    found += [(-1, None, path) for path in (run_dir / "sft" / "adapter",) if path.is_dir()]
    there = [(*each, written) for each in found if (written := _written(each[2])) is not None]
    if not there:
        return None
    _, step, newest, written = max(there, key=lambda each: (each[0], each[3]))
    times = [written, *([record.time] if record else [])]
    times += [each.time for each in steps if (each.phase, each.step) == (newest.parent.name, step)]
    return CheckpointFacts(str(newest.relative_to(run_dir)), step, max(0.0, now - min(times)))


def _checkpoint_state(checkpoint: Path) -> tuple[int, int | None, Path]:
    """Policy version and step of a stage's checkpoint; 0 and None where it does not say them."""
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text())
        return int(state.get("policy_version", 0)), int(state["step"]), checkpoint
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0, None, checkpoint


def _written(checkpoint: Path) -> float | None:
    """When the small files of a checkpoint were written; None where it is gone."""
    try:
        found = [file.stat().st_mtime for file in checkpoint.glob("*.json")]
        return max(found) if found else checkpoint.stat().st_mtime
    except FileNotFoundError:  # another one took its place meanwhile
        return None


def _used_bytes(run_dir: Path) -> int:
    total = 0
    for folder, _, names in os.walk(run_dir):
        for name in names:
            try:
                total += os.lstat(Path(folder) / name).st_size
            except OSError:  # renamed meanwhile
                continue
    return total
