"""The driver's record: it goes on while the driver is blocked, and the reason of a failure stays."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from fxray import spans
from fxray.errors import ResourceError, SyncError
from fxray.events import Note, PhaseDone, PhaseStarted, Step
from fxray.launch import watch as watch_module
from fxray.launch.watch import RunWatch, watch_run
from fxray.status.record import read_record
from fxray.waiting import waiting_for


def watched(folder: Path, told: list, warning_s: float = 60.0) -> RunWatch:
    return RunWatch(folder, told.append, warning_s=warning_s, phases=("alpha", "beta"))


def test_the_record_says_where_the_driver_is(tmp_path: Path) -> None:
    told: list = []
    watch = watched(tmp_path, told)
    with spans.listening(watch.on_span):
        events = [
            PhaseStarted("alpha", 40, 12),
            Step("alpha", 13, 40, {"reward": 1.0, "num_rollout_failures": 2.0, "num_tokens": 9.0}),
            Note("left out: an image", is_warning=True),
            Note("all well"),
        ]
        for event in events:
            watch.on_event(event)
        lease = spans.begin("rollout-1", "draw", "8 groups from rollout-1")
        spans.begin("generate", "generate")
        with waiting_for([lease]):
            watch.beat()
    record = read_record(tmp_path)
    assert told == events
    assert (record.outcome, record.pid, record.phases) == ("running", os.getpid(), ("alpha", "beta"))
    assert (record.phase, record.step, record.num_steps, record.first_step) == ("alpha", 13, 40, 12)
    assert record.counters == {"num_rollout_failures": 2.0}
    assert [saying.text for saying in record.warnings] == ["left out: an image"]
    assert [(w.track, w.name) for w in record.waiting] == [("rollout-1", "8 groups from rollout-1")]
    assert [(w.track, w.name) for w in record.workers] == [("rollout-1", "draw")]
    assert abs(record.workers[0].since - time.time()) < 5


def test_a_blocked_driver_is_warned_about_by_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "TICK_S", 0.02)
    told: list = []
    with watch_run(tmp_path, told.append, warning_s=0.1, phases=()):
        span = spans.begin("rollout-2", "draw", "12 groups from rollout-2")
        with waiting_for([span]):
            time.sleep(0.5)  # as ray.wait blocks
        span.end()
    texts = [event.text for event in told]
    assert texts == [f"waiting since 0 s for {span.what}"] * len(texts)
    assert 2 <= len(texts) <= 3  # at 0.1, 0.2 and 0.4 s
    record = read_record(tmp_path)
    assert (record.outcome, record.error, record.waiting) == ("finished", None, ())
    assert [saying.text for saying in record.warnings] == texts


@pytest.mark.parametrize(
    ("error", "outcome", "kind", "message"),
    [
        (
            SyncError("holds no module", where="policy version 3", remedy="go on"),
            "failed",
            "SyncError",
            "holds no module",
        ),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError", "by zero"),
        (SystemExit(143), "stopped", "stopped", "signal 15"),
        (KeyboardInterrupt(), "stopped", "stopped", "interrupted"),
    ],
)
def test_the_reason_of_the_end_stays_until_the_run_goes_on(tmp_path: Path, error, outcome, kind, message) -> None:
    def drive() -> None:
        with watch_run(tmp_path, lambda _: None, warning_s=60, phases=("alpha",)) as watch:
            watch.on_event(PhaseStarted("alpha", 4))
            watch.on_event(Note("late", is_warning=True))
            spans.begin("learner-0", "update")
            raise error

    with pytest.raises(type(error)):
        drive()
    record = read_record(tmp_path)
    assert (record.outcome, record.error.kind, record.error.message) == (outcome, kind, message)
    assert record.error.phase == "alpha"
    assert (record.error.where, record.error.remedy != "") == (
        getattr(error, "where", ""),
        outcome == "stopped" or kind == "SyncError",
    )
    with watch_run(tmp_path, lambda _: None, warning_s=60, phases=("alpha",)):
        pass
    record = read_record(tmp_path)
    assert (record.outcome, record.error, len(record.warnings)) == ("finished", None, 1)


def test_nothing_is_written_over_a_drivers_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks, is_answered, left = threading.Event(), threading.Event(), threading.Event()

    def ask_a_head_that_is_gone(_: RunWatch) -> None:
        asks.set()
        assert is_answered.wait(60)
        left.set()

    monkeypatch.setattr(watch_module, "TICK_S", 0.001)
    monkeypatch.setattr(watch_module, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(RunWatch, "tick", ask_a_head_that_is_gone)

    def fail() -> None:
        assert asks.wait(60)
        raise SyncError("holds no module")

    with pytest.raises(SyncError), watch_run(tmp_path, [].append, warning_s=60, phases=()):
        fail()
    is_answered.set()
    assert left.wait(60)
    time.sleep(0.1)
    assert read_record(tmp_path).outcome == "failed"


def test_steps_and_what_was_unfinished_are_on_the_timeline(tmp_path: Path) -> None:
    with watch_run(tmp_path, lambda _: None, warning_s=60, phases=()) as watch:
        watch.on_event(PhaseStarted("alpha", 2))
        spans.begin("rollout-1", "draw")
        time.sleep(0.02)
        watch.on_event(Step("alpha", 1, 2))
        watch.on_event(PhaseDone("alpha", 1.0))
    events = json.loads((tmp_path / "timeline.json").read_text())
    assert [e["name"] for e in events if e["ph"] != "M"] == ["alpha from step 0", "alpha step 1", "draw"]
    assert events[-1]["args"] == {"unfinished": "the driver left"}


def test_a_full_disk_does_not_end_the_run_and_its_remedy_is_left_to_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = watched(tmp_path, [])

    def full(*_: object) -> None:
        raise ResourceError("cannot be written: No space left on device", where="status.json", remedy="free some space")

    monkeypatch.setattr(watch_module, "write_record", full)
    watch.beat()
    watch.close(None)
    assert read_record(tmp_path) is None
    told = f"warning: {tmp_path} does not say how the run ended: cannot be written: No space left on device\n"
    assert capsys.readouterr().err == told


def test_a_run_is_watched_on_when_nobody_reads_its_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "TICK_S", 0.02)
    monkeypatch.setattr(watch_module, "HEARTBEAT_S", 0.1)
    told: list = []

    def tell(event: Note) -> None:
        told.append(event)
        raise BrokenPipeError

    with watch_run(tmp_path, tell, warning_s=0.1, phases=()):
        span = spans.begin("rollout-2", "draw", "12 groups from rollout-2")
        with waiting_for([span]):
            end_s = time.monotonic() + 30
            while len(told) < 2 and time.monotonic() < end_s:
                time.sleep(0.05)
            (tmp_path / "status.json").unlink()
            while read_record(tmp_path) is None and time.monotonic() < end_s:
                time.sleep(0.05)
        assert len(told) >= 2
        assert read_record(tmp_path).outcome == "running"


def test_a_timeline_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    watch = watched(tmp_path, [])
    with spans.listening(watch.on_span):
        for name in ("one", "two"):
            span = spans.begin("rollout-1", name)
            time.sleep(0.01)
            span.end()
            watch.beat()
            (tmp_path / "timeline.json").rename(tmp_path / f"{name}.json")
        watch.close(None)
    assert [event["name"] for event in json.loads((tmp_path / "two.json").read_text()) if event["ph"] == "X"] == ["two"]
    assert "rollout-1" in (tmp_path / "two.json").read_text()
    assert read_record(tmp_path).outcome == "finished"


def test_a_timeline_that_cannot_be_written_keeps_no_word_from_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watched(tmp_path, [])
    monkeypatch.setattr(watch_module.TimelineFile, "write", lambda self: (_ for _ in ()).throw(OSError("gone")))
    watch.beat()
    assert read_record(tmp_path).outcome == "running"
    watch.close(None)
    assert read_record(tmp_path).outcome == "finished"
