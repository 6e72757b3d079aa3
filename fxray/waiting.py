"""What the driver is waiting for, so that another thread can say it while the driver is blocked.

with waiting_for(spans): ray.wait(...)     ─►  waits()     ─►  StallWatch: "waiting since 75 s for 12 groups from ..."
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from statistics import median

from fxray.spans import Span

HISTORY = 20
USUAL_FACTOR = 3.0
"""A wait is no stall before it takes so many times what such waits took of late."""

_lock = threading.Lock()
_waits: dict[int, tuple[Span, ...]] = {}
_waited_s: defaultdict[str, float] = defaultdict(float)


@contextmanager
def waiting_for(spans: Iterable[Span]) -> Iterator[None]:
    """Notes that this thread waits for one of `spans` to end. The time counts for the oldest of them."""
    key, awaited = threading.get_ident(), tuple(sorted(spans, key=lambda span: span.start_s))
    start_s = time.monotonic()
    with _lock:
        _waits[key] = awaited
    try:
        yield
    finally:
        with _lock:
            _waits.pop(key, None)
            if awaited:
                _waited_s[awaited[0].kind] += time.monotonic() - start_s


def waits() -> list[Span]:
    """What is waited for now, by any thread of this process, the oldest first."""
    with _lock:
        found = [span for awaited in _waits.values() for span in awaited if span.end_s is None]
    return sorted(found, key=lambda span: span.start_s)


def waited_s() -> dict[str, float]:
    """Seconds that this process has waited so far, by kind of what it waited for."""
    with _lock:
        return dict(_waited_s)


class StallWatch:
    """Decides which waits are worth a warning: at a bound, and again whenever the wait has doubled.

    What usually takes long is no stall: the bound is at least three times the median of the last ones of its kind.

    Args:
        warning_s: The bound of a wait whose kind has no history, in seconds.
    """

    def __init__(self, warning_s: float) -> None:
        self._warning_s = warning_s
        self._past_s: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=HISTORY))
        self._next_s: dict[Span, float] = {}

    def on_span(self, span: Span) -> None:
        """Learns how long a kind takes. What was only recorded nobody can wait for, and steps are a kind each."""
        if span.what and span.end_s is not None and span.end_s > span.start_s:
            self._past_s[span.kind].append(span.end_s - span.start_s)
        self._next_s.pop(span, None)

    def bound_s(self, kind: str) -> float:
        """Seconds after which a wait for this kind is a stall."""
        past_s = self._past_s.get(kind)
        return max(self._warning_s, USUAL_FACTOR * median(past_s)) if past_s else self._warning_s

    def due(self, awaited: Iterable[Span], now_s: float) -> list[Span]:
        """Those whose warning is due; none most of the time."""
        late = []
        for span in awaited:
            age_s = now_s - span.start_s
            next_s = self._next_s.setdefault(span, self.bound_s(span.kind))
            if age_s >= next_s:
                late.append(span)
                while next_s <= age_s:
                    next_s *= 2
                self._next_s[span] = next_s
        return late


def warning_of(span: Span, now_s: float) -> str:
    """What is waited for, since when, and where; that may take a question to the cluster, so hold no lock."""
    return f"waiting since {now_s - span.start_s:.0f} s for {described(span)}"


def described(span: Span) -> str:
    """What is waited for, and on which machine where that can be found out."""
    where = span.where() if span.where is not None else ""
    return f"{span.what} ({where})" if where else span.what
