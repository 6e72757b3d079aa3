"""Live progress of a long command: a moving block on a terminal, now and then a plain line elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fxray.counts import counted
from fxray.events import Event, Note, OnEvent, PhaseDone, PhaseStarted, Step
from fxray.metrics import wait_fracs

PLAIN_INTERVAL_S = 20.0
"""At least so long between two lines of one phase where no terminal is."""
RECENT_STEPS = 20

FACTS: tuple[tuple[str, str, str], ...] = (
    ("reward", "reward", "{:+.3f}"),
    ("reward/label", "label", "{:+.2f}"),
    ("reward/iou", "iou", "{:.3f}"),
    ("reward/format", "format", "{:+.2f}"),
    ("parse_rate", "parsed", "{:.1%}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("validation/loss", "val loss", "{:.4f}"),
    ("validation/accuracy", "val accuracy", "{:.1%}"),
    ("validation/iou", "val iou", "{:.3f}"),
    ("loss", "loss", "{:.4f}"),
    ("tokens_per_s", "tokens/s", "{:,.0f}"),
    ("images_per_s", "images/s", "{:,.1f}"),
    ("num_failed", "without verdict", "{:,.0f}"),
)
"""Metric, what it is called on the screen, and how it is written."""


class Meter:
    """Where a phase stands, and when it will be done.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.start(PhaseStarted(""))

    def start(self, event: PhaseStarted) -> None:
        """A phase begins."""
        self.phase = event.phase
        self.step = event.first_step
        self.num_steps = event.num_steps
        self.metrics: dict[str, float] = {}
        self._start_s = self._last_s = self._clock()
        self._recent_s: deque[float] = deque(maxlen=RECENT_STEPS)

    def advance(self, event: Step) -> None:
        """A step is done; one of another phase than the present starts that phase, how long ago is not known."""
        if event.phase != self.phase:
            self.start(PhaseStarted(event.phase, event.num_steps, event.step))
        now = self._clock()
        if event.step > self.step:
            self._recent_s.append((now - self._last_s) / (event.step - self.step))
        self._last_s = now
        self.step, self.num_steps = event.step, event.num_steps or self.num_steps
        self.metrics |= event.metrics

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._start_s

    @property
    def left_s(self) -> float | None:
        """From the median of the last steps, so that the slow first one does not count; None where unknown."""
        if not self._recent_s or not self.num_steps:
            return None
        since_last_s = self._clock() - self._last_s
        return max(0.0, median(self._recent_s) * (self.num_steps - self.step) - since_last_s)

    def position(self) -> str:
        """Steps done of steps in all, as far as known: "12/40"."""
        if self.num_steps:
            return f"{self.step}/{self.num_steps}"
        return str(self.step) if self.step else ""

    def facts(self) -> list[str]:
        """What the last steps measured, as "name value"."""
        shown = ((name, text.format(self.metrics[key])) for key, name, text in FACTS if key in self.metrics)
        waits = (f"{who} waits {frac:.0%}" for who, frac in wait_fracs(self.metrics).items())
        return [*(f"{name} {value}" for name, value in shown), *waits]


class PlainView:
    """Writes lines that read well in a log: phases, notes, and steps now and then.

    Args:
        write: Takes one line.
        clock: Seconds that only grow.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._meter = Meter(clock)
        self._last_line_s = float("-inf")

    def on_event(self, event: Event) -> None:
        """Writes a line, unless it is a step and the last line is recent."""
        match event:
            case PhaseStarted():
                self._meter.start(event)
                self._last_line_s = self._clock()
                self._write(_started(event))
            case Step():
                self._meter.advance(event)
                is_last = event.step == event.num_steps
                if is_last or self._clock() - self._last_line_s >= PLAIN_INTERVAL_S:
                    self._last_line_s = self._clock()
                    left = f"left {_duration(self._meter.left_s)}" if self._meter.left_s and not is_last else ""
                    words = [self._meter.phase, self._meter.position(), *self._meter.facts(), left]
                    self._write("  ".join(filter(None, words)))
            case PhaseDone():
                self._write(_done(event, self._meter))
            case Note():
                self._write(f"{'warning: ' if event.is_warning else ''}{event.text}")


class LiveView:
    """Keeps a block of two lines moving at the bottom of a terminal; what is finished scrolls up.

    Args:
        console: A terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._meter = Meter()

    def __rich__(self) -> Group:
        meter = self._meter
        if not meter.phase:
            return Group()
        head = Table.grid(padding=(0, 1))
        left = f"left {_duration(meter.left_s)}" if meter.left_s is not None else ""
        bar = ProgressBar(meter.num_steps or None, meter.step, width=30, pulse=not meter.num_steps)
        head.add_row(
            Text(meter.phase, style="bold"), bar, meter.position(), Text(_duration(meter.elapsed_s), "dim"), left
        )
        facts = Text("   ".join(meter.facts()), style="cyan", overflow="ellipsis", no_wrap=True)
        return Group(head, facts)

    def on_event(self, event: Event) -> None:
        """Updates the block, or prints above it."""
        match event:
            case PhaseStarted():
                self._meter.start(event)
            case Step():
                self._meter.advance(event)
            case PhaseDone():
                self._console.print(Text.assemble(("✓ ", "green"), _done(event, self._meter)))
                self._meter.start(PhaseStarted(""))
            case Note():
                self._console.print(Text(event.text, "yellow" if event.is_warning else "dim"))


@contextmanager
def show_progress(when_stopped: str = "") -> Iterator[OnEvent]:
    """Gives a consumer of events that shows them on stderr while the block runs.

    Args:
        when_stopped: Told where the block is left by Ctrl-C or a signal.
    """
    with _view() as on_event:
        try:
            yield on_event
        except (KeyboardInterrupt, SystemExit):
            if when_stopped:
                on_event(Note(when_stopped, is_warning=True))
            raise


@contextmanager
def _view() -> Iterator[OnEvent]:
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield PlainView(lambda line: print(line, file=console.file, flush=True)).on_event
        return
    view = LiveView(console)
    with Live(view, console=console, refresh_per_second=4, transient=True):
        yield view.on_event


def _started(event: PhaseStarted) -> str:
    steps = f": {counted(event.num_steps, 'step')}" if event.num_steps else ""
    resumed = f", going on after {event.first_step}" if event.first_step else ""
    return f"{event.phase}{steps}{resumed}"


def _done(event: PhaseDone, meter: Meter) -> str:
    is_measured = event.phase == meter.phase
    seconds = event.seconds or (meter.elapsed_s if is_measured else 0.0)
    words = [f"{event.phase} done in {_duration(seconds)}", event.summary, *(meter.facts() if is_measured else ())]
    return "  ".join(filter(None, words))


def _duration(seconds: float | None) -> str:
    minutes, rest = divmod(round(seconds or 0), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
