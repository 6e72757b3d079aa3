"""What a driver tells of itself while it works: status record, timeline, stall warnings, metrics for Prometheus.

    events ┐
    spans  ┼─► RunWatch ─► every 5 s, in a thread of its own: status.json, timeline.json, due warnings, Ray's metrics
    waits  ┘

The thread goes on while the driver is blocked; that is what it is for. When the driver leaves, its reason stays.
"""

import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fxray import spans
from fxray.errors import FxrayError
from fxray.events import Event, Note, OnEvent, PhaseDone, PhaseStarted, Step
from fxray.spans import Doing, Span
from fxray.status.record import (
    HEARTBEAT_S,
    MAX_WARNINGS,
    Activity,
    RunError,
    Saying,
    StatusRecord,
    is_fault,
    pid_namespace,
    read_record,
    write_record,
)
from fxray.timeline import TIMELINE_FILE, TimelineFile
from fxray.versions import command_line
from fxray.waiting import StallWatch, waits, warning_of

if TYPE_CHECKING:
    from fxray.launch.exporter import Exporter

TICK_S = 1.0


class RunWatch:
    """Listens to a driver and writes down what it does.

    Args:
        run_dir: The run directory.
        on_event: Told of everything that the driver tells, and of stalls.
        warning_s: Seconds that the driver may wait before a warning.
        phases: The run's stages in their order.
    """

    def __init__(self, run_dir: Path, on_event: OnEvent, *, warning_s: float, phases: Sequence[str]) -> None:
        self._run_dir, self._tell, self._phases = run_dir, on_event, tuple(phases)
        self._stalls = StallWatch(warning_s)
        self._timeline = TimelineFile(run_dir / TIMELINE_FILE)
        before = read_record(run_dir)
        self._warnings: deque[Saying] = deque(before.warnings if before else (), maxlen=MAX_WARNINGS)
        self._started = time.time()
        self._position, self._step = PhaseStarted(""), 0
        self._phase_started = time.time()
        self._step_start_s = time.monotonic()
        self._counters: dict[str, float] = {}
        self._exporter: Exporter | None = None
        self._lock = threading.Lock()
        self._metrics_url = ""

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """Shows the run's series to Prometheus inside the block, in which Ray must be up."""
        from fxray.launch.exporter import Exporter, metrics_url

        with self._lock:
            self._exporter, self._metrics_url = Exporter(), metrics_url()
        try:
            yield
        finally:
            with self._lock:
                self._exporter, self._metrics_url = None, ""

    def on_event(self, event: Event) -> None:
        """Takes down where the run stands, and passes the event on."""
        match event:
            case PhaseStarted():
                self._begin(event)
                spans.mark("steps", f"{event.phase} from step {event.first_step}", phase=event.phase)
            case Step():
                if event.phase != self._position.phase:
                    self._begin(PhaseStarted(event.phase, event.num_steps, max(0, event.step - 1)))
                self._step = event.step
                now_s = time.monotonic()
                spans.record("steps", f"{event.phase} step {event.step}", self._step_start_s, now_s)
                self._step_start_s = now_s
                self._counters |= {name: value for name, value in event.metrics.items() if is_fault(name)}
            case PhaseDone():
                self._begin(PhaseStarted(""))
            case Note() if event.is_warning:
                self._warn(event.text)
        with self._lock:
            if self._exporter is not None:
                self._exporter.on_event(event)
        self._tell(event)

    def on_span(self, span: Span) -> None:
        """Takes down a span that is over."""
        with self._lock:
            self._stalls.on_span(span)
            self._timeline.add(span)
            if self._exporter is not None:
                self._exporter.on_span(span)

    def tick(self) -> None:
        """Says what is stalled."""
        now_s = time.monotonic()
        with self._lock:
            due = self._stalls.due(waits(), now_s)
        for span in due:
            self.on_event(Note(warning_of(span, now_s), is_warning=True))

    def beat(self) -> None:
        """Writes what is new. A full disk is the driver's own affair, at its next checkpoint."""
        with suppress(OSError):
            write_record(self._run_dir, self._record("running"))
        with suppress(OSError), self._lock:
            if self._exporter is not None:
                self._exporter.beat()
            self._timeline.write()

    def close(self, error: BaseException | None) -> None:
        """Writes the driver's last words."""
        for span in spans.open_spans():
            span.end(unfinished="the driver left")
        with suppress(OSError), self._lock:
            self._timeline.write()
        try:
            write_record(self._run_dir, self._record(_outcome(error), error))
        except OSError as failure:
            reason = failure.message if isinstance(failure, FxrayError) else failure  # one remedy is enough
            sys.stderr.write(f"warning: {self._run_dir} does not say how the run ended: {reason}\n")

    def _begin(self, position: PhaseStarted) -> None:
        self._position, self._step = position, position.first_step
        self._phase_started, self._step_start_s = time.time(), time.monotonic()

    def _warn(self, text: str) -> None:
        self._warnings.append(Saying(time.time(), text))
        spans.mark("steps", "warning", text=text[:300])

    def _record(self, outcome: str, error: BaseException | None = None) -> StatusRecord:
        now, position = time.time(), self._position
        since = now - time.monotonic()
        is_over = outcome != "running"
        return StatusRecord(
            outcome=outcome,
            host=platform.node(),
            pid=os.getpid(),
            pid_namespace=pid_namespace(),
            command=command_line(),
            started=self._started,
            time=now,
            phase=position.phase,
            step=self._step,
            num_steps=position.num_steps,
            first_step=position.first_step,
            phase_started=self._phase_started,
            phases=self._phases,
            waiting=() if is_over else tuple(Activity(w.track, w.what, w.start_s + since) for w in waits()),
            workers=() if is_over else tuple(_activity(doing, since) for doing in spans.present() if doing.is_worker),
            counters=dict(self._counters),
            warnings=tuple(self._warnings),
            metrics_url="" if is_over else self._metrics_url,
            error=_run_error(error, position.phase) if error is not None else None,
        )


@contextmanager
def watch_run(run_dir: Path, on_event: OnEvent, *, warning_s: float, phases: Sequence[str]) -> Iterator[RunWatch]:
    """Watches the driver for as long as the block takes, and leaves the reason when it raises."""
    watch = RunWatch(run_dir, on_event, warning_s=warning_s, phases=phases)
    over = threading.Event()

    def work() -> None:
        next_beat_s, told = 0.0, set[str]()
        while True:
            _go_on(watch.tick, told)
            if over.is_set():  # a tick may outlast the driver's patience, and its last words are to stay the last
                return
            if time.monotonic() >= next_beat_s:
                _go_on(watch.beat, told)
                next_beat_s = time.monotonic() + HEARTBEAT_S
            if over.wait(TICK_S):
                return

    thread = threading.Thread(target=work, name="fxray-watch", daemon=True)
    with spans.listening(watch.on_span):
        thread.start()
        failure: BaseException | None = None
        try:
            yield watch
        except BaseException as error:
            failure = error
            raise
        finally:
            over.set()
            thread.join(timeout=2 * HEARTBEAT_S)
            watch.close(failure)


def _go_on(act: Callable[[], None], told: set[str]) -> None:
    """Does a part of the watching; where it fails, that is told once, or a run that works would be taken for dead."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 (whoever is told, a terminal or Ray's metrics, may raise anything)
        text = f"warning: what watches the run goes on after {type(error).__name__}: {error}\n"
        with suppress(OSError, ValueError):  # stderr may be what failed
            if text not in told:
                told.add(text)
                sys.stderr.write(text)


def _activity(doing: Doing, since: float) -> Activity:
    return Activity(doing.track, doing.name, doing.since_s + since)


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "finished"
    return "stopped" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"


def _run_error(error: BaseException, phase: str) -> RunError:
    cause = getattr(error, "cause", None)
    original = cause if isinstance(cause, FxrayError) else error
    if isinstance(original, FxrayError):
        return RunError(type(original).__name__, original.message, original.where, original.remedy, phase)
    if isinstance(original, SystemExit):
        code = original.code if isinstance(original.code, int) else 0
        text = f"signal {code - 128}" if code > 128 else f"exit code {code}"
        return RunError("stopped", text, remedy="give the same command again: the run goes on", phase=phase)
    if isinstance(original, KeyboardInterrupt):
        return RunError("stopped", "interrupted", remedy="give the same command again: the run goes on", phase=phase)
    return RunError(type(original).__name__, str(original)[:2000], phase=phase)
