"""The timeline of a run as a trace that Perfetto and chrome://tracing open: `timeline.json`.

The file is a JSON array in the trace-event format. It is valid JSON after every write: a write begins at the closing
bracket and ends with a new one. What a killed process leaves torn is cut when the run goes on, and read as far as it
goes until then. A file that is full becomes `timeline.old.json`, so that the end of a run is always there, in at most
twice `MAX_BYTES`. Spans shorter than `SHORTEST_S` are left out.

Times are microseconds since 1970. Steps that are done again after a restart are there twice, with a flag between them.
"""

import errno
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fxray.files import write_atomically
from fxray.spans import Span, role_of

TIMELINE_FILE, OLD_TIMELINE_FILE = "timeline.json", "timeline.old.json"
MAX_BYTES = 8 * 2**20
SHORTEST_S = 0.005
MAX_WAITING = 20_000
"""Events that are kept for a file that cannot be written, the newest; some ten megabytes."""
ROLES = ("driver", "rollout", "reward", "learner", "images")
"""Groups of tracks, from top to bottom. What is none of the others' is the driver's own."""
PARTS = ("steps", "generate", "score", "learn", "publish")
"""The driver's own tracks, from top to bottom."""
_OPENING, _CLOSING, _COMMA = b"[\n", b"\n]\n", b",\n"


class TimelineFile:
    """Appends spans to a run's timeline.

    Args:
        path: The file; one that is there goes on.
        max_bytes: Size at which a new file is begun.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._epoch_s = time.time() - time.monotonic()
        self._waiting: list[dict[str, Any]] = []
        self._tracks: dict[str, dict[str, Any]] = {}
        self._parts = list(PARTS)
        self._end = _mend(path)

    def add(self, span: Span) -> None:
        """Keeps a span that is over, or a moment, for the next `write`."""
        end_s = time.monotonic() if span.end_s is None else span.end_s
        if end_s == span.start_s:
            self._keep(span, {"ph": "i", "s": "t"})
        elif end_s - span.start_s >= SHORTEST_S:
            self._keep(span, {"ph": "X", "dur": self._us(end_s) - self._us(span.start_s)})

    def write(self) -> None:
        """Appends what was kept.

        Raises:
            OSError: The disk is full or not writable; the file holds what it held, and what was kept waits on, as far
                as `MAX_WAITING` lets it.
        """
        if not self._waiting:
            return
        if len(self._waiting) > MAX_WAITING:
            self._waiting = [*self._tracks.values(), *self._waiting[-MAX_WAITING // 2 :]]
        if self._path.is_file() and self._end > self._max_bytes:
            self._path.replace(self._path.with_name(OLD_TIMELINE_FILE))
        if not self._path.is_file():  # or moved or deleted meanwhile
            self._end = _mend(self._path)
            self._waiting = [*self._tracks.values(), *self._waiting]
        lead = b"" if self._end == len(_OPENING) else _COMMA
        content = lead + _COMMA.join(json.dumps(event, separators=(",", ":")).encode() for event in self._waiting)
        descriptor = os.open(self._path, os.O_WRONLY)
        try:
            if os.pwrite(descriptor, content + _CLOSING, self._end) < len(content + _CLOSING):  # the rest had no room
                os.ftruncate(descriptor, self._end)
                os.pwrite(descriptor, _CLOSING, self._end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
        self._end += len(content)
        self._waiting = []

    def _keep(self, span: Span, rest: dict[str, Any]) -> None:
        pid, tid = self._place(span.track)
        if span.track not in self._tracks:
            self._name(span.track, pid, tid)
        event = {"name": span.name, "cat": role_of(span.track), "pid": pid, "tid": tid, "ts": self._us(span.start_s)}
        event |= rest
        self._waiting.append(event | ({"args": span.facts} if span.facts else {}))

    def _us(self, time_s: float) -> int:
        """A time of `time.monotonic` as the trace has it, rounded alike for ends and beginnings."""
        return round((time_s + self._epoch_s) * 1e6)

    def _name(self, track: str, pid: int, tid: int) -> None:
        for what, key, args in (
            ("process_name", f"{pid}", {"name": ROLES[pid - 1]}),
            ("process_sort_index", f"{pid} order", {"sort_index": pid}),
            ("thread_name", track, {"name": track}),
            ("thread_sort_index", f"{track} order", {"sort_index": tid}),
        ):
            if key not in self._tracks:
                self._tracks[key] = {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": args}
                self._waiting.append(self._tracks[key])

    def _place(self, track: str) -> tuple[int, int]:
        """Process and thread number of a track, which decide where a viewer draws it; no number is there twice."""
        role, number = role_of(track), track.rpartition("-")[2]
        if role in ROLES[1:]:
            pid, place = ROLES.index(role) + 1, int(number) if number.isdigit() else 0
        else:
            if track not in self._parts:
                self._parts.append(track)
            pid, place = 1, self._parts.index(track)
        return pid, 100_000 * pid + place


def read_timeline(path: Path) -> list[dict[str, Any]]:
    """The events of a timeline, as far as they go; none where there is no file."""
    if not path.is_file():
        return []
    return _whole_events(path.read_bytes())[0]


def busy_s(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Seconds that each track was busy, by name; phases inside a span are part of it.

    Events that lack what they need are left out.
    """
    names: dict[tuple[int, int], str] = {}
    spans: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        match event:
            case {"ph": "M", "name": "thread_name", "pid": int(pid), "tid": int(tid), "args": {"name": str(name)}}:
                names[pid, tid] = name
            case {"ph": "X", "pid": int(pid), "tid": int(tid), "ts": int(start_us), "dur": int(length_us)}:
                spans.setdefault((pid, tid), []).append((start_us, start_us + length_us))
    return {names[key]: _covered(found) / 1e6 for key, found in spans.items() if key in names}


def length_s(events: Iterable[dict[str, Any]]) -> float:
    """Seconds from the beginning of the first span to the end of the last; 0 where there is none."""
    times_us: list[int] = []
    for event in events:
        match event:
            case {"ph": "X", "ts": int(start_us), "dur": int(length_us)}:
                times_us += (start_us, start_us + length_us)
    return (max(times_us) - min(times_us)) / 1e6 if times_us else 0.0


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _mend(path: Path) -> int:
    """Makes a file that can go on; returns where the next event begins."""
    if not path.is_file() or path.stat().st_size < len(_OPENING):
        write_atomically(path, _OPENING + _CLOSING)
        return len(_OPENING)
    content = path.read_bytes()
    whole = content[: _whole_events(content)[1]]
    if content != whole + _CLOSING:
        write_atomically(path, whole + _CLOSING)
    return len(whole)


def _whole_events(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """Events that are whole, and where the last of them ends."""
    events, end = [], len(_OPENING)
    position = end
    for line in content[len(_OPENING) :].split(b"\n"):
        try:
            event = json.loads(line.removesuffix(b","))
        except ValueError:
            break
        if not isinstance(event, dict) or "ph" not in event:
            break
        events.append(event)
        end = position + len(line.removesuffix(b","))
        position += len(line) + 1
    return events, end
