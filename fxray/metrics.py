"""What a run measured, step by step: one JSON line per step, and TensorBoard events beside it.

A line is `{"phase": "sft" | stage, "step": int, "time": unix seconds, "metrics": {name: number}}`. Lines are appended
whole; after a resume `rewind` takes back what lies beyond the checkpoint, so that no step is recorded twice.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fxray.errors import DataError
from fxray.files import append_line, disk_errors, write_atomically

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One recorded step.

    Attributes:
        phase: "sft", or the name of a GRPO stage.
        step: Number of the step within its phase.
        time: Unix seconds at which it was recorded.
        metrics: Numbers by name; a value that was not finite reads as NaN.
    """

    phase: str
    step: int
    time: float
    metrics: dict[str, float]


class MetricsLog:
    """Appends steps to `run_dir/metrics.jsonl` and to `run_dir/tensorboard/<phase>`.

    Args:
        run_dir: The run directory; an existing log in it goes on.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / METRICS_FILE
        self._tensorboard_dir = run_dir / TENSORBOARD_DIR
        self._writers: dict[str, EventFileWriter] = {}
        self._purge_steps: dict[str, int] = {}
        run_dir.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(self._path)

    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Records one step.

        Raises:
            ResourceError: The disk is full; the log is as it was.
        """
        now = time.time()
        finite = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
        line = json.dumps({"phase": phase, "step": step, "time": now, "metrics": finite}, allow_nan=False)
        append_line(self._path, line)
        self._write_event(phase, step, now, {name: value for name, value in finite.items() if value is not None})

    def rewind(self, phase: str, step: int) -> None:
        """Forgets every step of `phase` after `step`. What other phases recorded stays.

        Args:
            phase: The phase that goes on.
            step: Last step that the checkpoint holds; smaller than the first step when it holds none of the phase.
        """
        steps = read_metrics(self._path.parent)
        kept = [s for s in steps if s.phase != phase or s.step <= step]
        if len(kept) < len(steps):
            write_atomically(self._path, "".join(_as_line(s) for s in kept))
        self._purge_steps[phase] = step + 1
        if (writer := self._writers.pop(phase, None)) is not None:
            writer.close()

    def close(self) -> None:
        """Closes the TensorBoard files; the JSON lines are on disk already, so a disk that refuses is no matter."""
        for writer in self._writers.values():
            with suppress(OSError):
                writer.close()
        self._writers.clear()

    def _write_event(self, phase: str, step: int, now: float, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        with disk_errors(self._tensorboard_dir):
            writer = self._writer(phase)
            writer.add_event(Event(wall_time=now, step=step, summary=Summary(value=values)))
            writer.flush()

    def _writer(self, phase: str) -> "EventFileWriter":
        if phase not in self._writers:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            suffix = f".{time.time_ns()}"  # two files begun in one second would share a name
            writer = EventFileWriter(str(self._tensorboard_dir / phase), filename_suffix=suffix)
            if (first := self._purge_steps.pop(phase, None)) is not None:  # what older files hold from here on is void
                restart = SessionLog(status=SessionLog.START)
                writer.add_event(Event(wall_time=time.time(), step=first, session_log=restart))
            self._writers[phase] = writer
        return self._writers[phase]


def read_metrics(run_dir: Path) -> list[StepMetrics]:
    """The recorded steps in the order in which they were written; none where there is no log.

    A torn last line, as a killed process leaves it, is left out.

    Raises:
        DataError: Another line is not a record of a step.
    """
    path = run_dir / METRICS_FILE
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    return [_from_line(line, where=f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def read_last_metrics(run_dir: Path, num_bytes: int) -> tuple[list[StepMetrics], int]:
    """The steps at the end of a log, without reading the rest, and how many lines among them are no records.

    Args:
        run_dir: The run directory.
        num_bytes: About so much of the file is read.
    """
    path = run_dir / METRICS_FILE
    if not path.is_file():
        return [], 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, size - num_bytes))
        lines = file.read().split(b"\n")[1 if start else 0 : -1]
    steps, num_damaged = [], 0
    for line in lines:
        try:
            steps.append(_from_line(line, where=str(path)))
        except DataError:
            num_damaged += 1
    return steps, num_damaged


def wait_fracs(metrics: Mapping[str, float]) -> dict[str, float]:
    """Shares of its time in which "learning" waited for answers and "sampling" for a policy, as far as they are known.

    A step's sampling waited while the step before it was learnt, so that its share is one of the wait and the sampling.
    """
    sampled = sum(metrics.get(f"seconds/{part}", 0.0) for part in ("idle", "draw", "publish", "generate", "score"))
    wholes = {"learning": metrics.get("seconds", 0.0), "sampling": sampled}
    sources = {"learning": "seconds/wait", "sampling": "seconds/idle"}
    return {who: metrics[name] / wholes[who] for who, name in sources.items() if name in metrics and wholes[who] > 0}


def _from_line(line: bytes, where: str) -> StepMetrics:
    try:
        record = json.loads(line)
        metrics = {str(name): math.nan if value is None else float(value) for name, value in record["metrics"].items()}
        return StepMetrics(str(record["phase"]), int(record["step"]), float(record["time"]), metrics)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{line[:80]!r} is not a record of a step: {error}",
            where=where,
            remedy="delete the line; the rest of the log stays usable",
        ) from error


def _as_line(step: StepMetrics) -> str:
    finite = {name: None if math.isnan(value) else value for name, value in step.metrics.items()}
    return json.dumps({"phase": step.phase, "step": step.step, "time": step.time, "metrics": finite}) + "\n"


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        write_atomically(path, content[:whole])
