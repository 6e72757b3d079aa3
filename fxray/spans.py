"""Who did what from when to when: spans on tracks, all on the driver's clock.

    begin("rollout-2", "draw") ─► open: what goes on now ─► end() ─► whoever listens: timeline, metrics, stall watch

A span begins when the driver asks and ends when the driver has the answer, so that the clocks of other machines do not
matter. A track is one worker, one rank, or one part of the driver; its role is its name without the number.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Fact = float | str


@dataclass(eq=False, slots=True)
class Span:
    """Something that is going on, or was.

    Attributes:
        track: Who does it: "rollout-2", "learner-0", "generate".
        name: What is done, one of few words: "draw", "load adapter", "update".
        what: The same in words for a warning: "12 groups from rollout-2"; empty where it was over when it was told.
        start_s: On `time.monotonic`.
        end_s: On the same clock; None while it goes on.
        facts: Numbers and words by name, of the kind that a viewer shows beside the span.
        where: Finds out on which machine, when it is asked; may be slow.
        is_part: It lies within another span of its track, and is no work beside that.
    """

    track: str
    name: str
    what: str
    start_s: float
    end_s: float | None = None
    facts: dict[str, Fact] = field(default_factory=dict)
    where: Callable[[], str] | None = None
    is_part: bool = False

    @property
    def role(self) -> str:
        """The track without its number: "rollout"."""
        return role_of(self.track)

    @property
    def kind(self) -> str:
        """Role and name, of which there are few: "rollout draw"."""
        return self.role if self.role == self.name else f"{self.role} {self.name}"

    def end(self, **facts: Fact) -> None:
        """It is over, and everybody who listens is told; a second time changes nothing."""
        if self.end_s is not None:
            return
        self.end_s = time.monotonic()
        self.facts |= facts
        _open.pop(self, None)
        if self.track in _idle_since_s:
            _idle_since_s[self.track] = self.end_s
        _tell(self)


@dataclass(frozen=True, slots=True)
class Doing:
    """What a track does now: the name of its span, or "idle", and since when on `time.monotonic`."""

    track: str
    name: str
    since_s: float

    @property
    def is_worker(self) -> bool:
        """Whether it is a worker or a rank, and no part of the driver."""
        return role_of(self.track) != self.track


OnSpan = Callable[[Span], None]

_open: dict[Span, None] = {}
_idle_since_s: dict[str, float] = {}
_listeners: list[OnSpan] = []


def begin(
    track: str,
    name: str,
    what: str = "",
    *,
    where: Callable[[], str] | None = None,
    facts: dict[str, Fact] | None = None,
) -> Span:
    """Something begins on a track. The track counts as present until `retire`."""
    span = Span(track, name, what or f"{name} of {track}", time.monotonic(), facts=facts or {}, where=where)
    _open[span] = None
    _idle_since_s.setdefault(track, span.start_s)
    return span


def begin_on_lane(role: str, name: str, what: str = "") -> Span:
    """Something begins on the first track of a role that is free: for workers that nobody tells apart."""
    busy = {span.track for span in list(_open)}
    number = next(n for n in range(1, len(busy) + 2) if f"{role}-{n}" not in busy)
    return begin(f"{role}-{number}", name, what)


@contextmanager
def span(track: str, name: str, what: str = "") -> Iterator[Span]:
    """A span for as long as the block takes."""
    begun = begin(track, name, what)
    try:
        yield begun
    finally:
        begun.end()


def record(track: str, name: str, start_s: float, end_s: float, *, is_part: bool = False) -> None:
    """Something that is over already."""
    _tell(Span(track, name, "", start_s, end_s, is_part=is_part))


def mark(track: str, name: str, **facts: Fact) -> None:
    """A moment worth a flag on the timeline: a death, a restart, a warning."""
    now_s = time.monotonic()
    _tell(Span(track, name, "", now_s, now_s, facts=facts))


def retire(track: str, reason: str = "") -> None:
    """A worker is no more; with a reason, the timeline says so."""
    _idle_since_s.pop(track, None)
    if reason:
        mark(track, "died", reason=reason.partition("\n")[0][:200])


def open_spans() -> list[Span]:
    """What is going on now, the oldest first."""
    return sorted(_open, key=lambda each: each.start_s)


def present() -> list[Doing]:
    """Every track that is there, and what it does."""
    busy = {each.track: Doing(each.track, each.name, each.start_s) for each in open_spans()}
    idle = {track: Doing(track, "idle", since_s) for track, since_s in list(_idle_since_s.items())}
    return sorted((idle | busy).values(), key=lambda doing: _in_order(doing.track))


def role_of(track: str) -> str:
    """A track's name without its number."""
    return re.sub(r"-\d+$", "", track)


@contextmanager
def listening(*listeners: OnSpan) -> Iterator[None]:
    """Tells listeners of every span that ends inside the block, in the thread that ends it.

    The first to listen and the last to leave begin and end a recording: none knows what went on outside.
    """
    _forget_unheard()
    _listeners.extend(listeners)
    try:
        yield
    finally:
        for listener in listeners:
            _listeners.remove(listener)
        _forget_unheard()


def _forget_unheard() -> None:
    if not _listeners:
        _open.clear()
        _idle_since_s.clear()


def _tell(span: Span) -> None:
    for listener in _listeners:
        listener(span)


def _in_order(track: str) -> tuple[str, int]:
    number = track.rpartition("-")[2]
    return role_of(track), int(number) if number.isdigit() else 0
