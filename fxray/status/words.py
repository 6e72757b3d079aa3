"""A run's status as a few lines of text, and as JSON."""

import dataclasses
import math
import time
from typing import Any

from fxray.counts import counted
from fxray.metrics import wait_fracs
from fxray.status.record import StatusRecord
from fxray.status.summary import RunStatus

FACTS: tuple[tuple[str, str, str], ...] = (
    ("reward", "reward", "{:+.3f}"),
    ("reward/label", "label", "{:+.3f}"),
    ("reward/iou", "iou", "{:.3f}"),
    ("reward/format", "format", "{:+.3f}"),
    ("parse_rate", "parsed", "{:.1%}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("validation/accuracy", "val accuracy", "{:.1%}"),
    ("validation/iou", "val iou", "{:.3f}"),
    ("kl", "KL", "{:.4f}"),
    ("loss", "loss", "{:.4f}"),
    ("tokens_per_s", "tokens/s", "{:,.0f}"),
)
"""Metric, what it is called, and how it is written."""
MAX_SHOWN_WARNINGS = 5


def as_lines(status: RunStatus) -> list[str]:
    """The whole status, one topic a line."""
    record = status.record
    rows = [
        ("run", f"{status.run_dir}: {status.state}{_driver(status)}"),
        ("phase", _phase(status)),
        ("phases", ", ".join(f"{phase.name} {phase.state}" for phase in status.phases)),
        ("step", _breakdown(status)),
        ("waits", _waits(status)),
        (f"last {status.num_recent}" if status.num_recent > 1 else "last", _facts(status)),
    ]
    if record is not None:
        rows += _of_driver(record)
    if status.checkpoint is not None:
        at = f" (step {status.checkpoint.step})" if status.checkpoint.step is not None else ""
        rows.append(("checkpoint", f"{status.checkpoint.path}{at}, {duration(status.checkpoint.age_s)} old"))
    if status.used_bytes:
        rows.append(("disk", f"{size(status.used_bytes)} used, {size(status.free_bytes)} free"))
    rows += [("note", note) for note in status.notes]
    if record is not None and record.error is not None:
        error = record.error
        where = f"{error.where}: " if error.where else ""
        at = f" (in {error.phase})" if error.phase else ""
        rows.append(("error", f"{error.kind}: {where}{error.message}{at}"))
        rows.append(("remedy", error.remedy))
    return [f"{name:<10} {text}" for name, text in rows if text]


def as_json(status: RunStatus) -> dict[str, Any]:
    """The same for programs; a number that is not known is null."""
    found = dataclasses.asdict(status) | {"run_dir": str(status.run_dir), "breakdown_s": status.breakdown_s}
    return {name: _finite(value) for name, value in found.items()}


def duration(seconds: float) -> str:
    """Two units at most: "2 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size(num_bytes: float) -> str:
    """In the largest unit that leaves at least 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if num_bytes >= 10 or unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def _driver(status: RunStatus) -> str:
    record = status.record
    if record is None:
        return ""
    who = f"driver pid {record.pid} on {record.host}"
    if status.state == "running":
        return f", {who} for {duration(record.time - record.started)}, last sign {duration(status.silent_s)} ago"
    if status.state == "dead":
        return f", {who} ended without a word; last sign {duration(status.silent_s)} ago"
    return f" {duration(status.silent_s)} ago after {duration(record.time - record.started)}, {who}"


def _phase(status: RunStatus) -> str:
    if not status.phase:
        return ""
    position = f"{status.step}/{counted(status.num_steps, 'step')}" if status.num_steps else f"step {status.step}"
    words = [f"{status.phase} {position}"]
    if "policy_version" in status.recent:
        words.append(f"policy version {status.recent['policy_version']:.0f}")
    if not math.isnan(status.step_s):
        words.append(f"{status.step_s:.1f} s a step")
    if not math.isnan(status.left_s):
        words.append(f"left {duration(status.left_s)}")
    return ", ".join(words)


def _breakdown(status: RunStatus) -> str:
    parts = status.breakdown_s
    whole = status.recent.get("seconds", sum(parts.values()))
    return "  ".join(f"{name} {value:.2f} s ({value / whole:.0%})" for name, value in parts.items() if whole)


def _waits(status: RunStatus) -> str:
    for_what = {"learning": "for answers", "sampling": "for a policy"}
    shares = wait_fracs(status.recent)
    words = [f"{who} {frac:.0%} of its time {for_what[who]}" for who, frac in shares.items()]
    return ", ".join(words)


def _facts(status: RunStatus) -> str:
    found = ((name, text.format(status.recent[key])) for key, name, text in FACTS if key in status.recent)
    return "  ".join(f"{name} {value}" for name, value in found)


def _of_driver(record: StatusRecord) -> list[tuple[str, str]]:
    workers = ", ".join(f"{w.track} {w.name} {duration(record.time - w.since)}" for w in record.workers)
    faults = ", ".join(f"{n.removeprefix('num_').replace('_', ' ')} {v:.0f}" for n, v in record.counters.items() if v)
    rows = [
        ("workers", workers),
        ("faults", faults),
        ("metrics", record.metrics_url),
    ]
    rows += [("waiting", f"since {duration(record.time - w.since)} for {w.name}") for w in record.waiting]
    shown = record.warnings[-MAX_SHOWN_WARNINGS:]
    rows += [("warning", f"{time.strftime('%H:%M:%S', time.localtime(w.time))}  {w.text}") for w in shown]
    return rows


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
