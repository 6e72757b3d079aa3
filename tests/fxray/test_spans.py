"""Spans and waits: who is told, who is present, and when a wait is a stall."""

import threading
import time

import pytest

from fxray import spans
from fxray.spans import Span
from fxray.waiting import StallWatch, waited_s, waiting_for, waits, warning_of


@pytest.fixture
def heard():
    found: list[Span] = []
    with spans.listening(found.append):
        yield found


def span_of(start_s: float, track: str = "rollout-2", name: str = "draw", where=None) -> Span:
    return Span(track, name, f"12 groups from {track}", start_s, where=where)


def test_a_span_is_told_once_when_it_ends(heard):
    span = spans.begin("rollout-2", "draw", facts={"groups": 12})
    assert heard == []
    span.end(tokens=512)
    span.end(tokens=0)
    assert heard == [span]
    assert (span.facts, span.role, span.kind) == ({"groups": 12, "tokens": 512}, "rollout", "rollout draw")
    assert span.end_s >= span.start_s


def test_a_track_is_present_from_its_first_span_until_it_is_retired(heard):
    spans.begin("rollout-10", "start")
    spans.begin("rollout-2", "draw").end()
    assert [(doing.track, doing.name) for doing in spans.present()] == [("rollout-2", "idle"), ("rollout-10", "start")]
    spans.retire("rollout-2", "out of memory\nat 0x0")
    assert [doing.track for doing in spans.present()] == ["rollout-10"]
    assert (heard[-1].name, heard[-1].facts) == ("died", {"reason": "out of memory"})


def test_workers_that_nobody_tells_apart_take_the_first_free_lane(heard):
    first, second = spans.begin_on_lane("reward", "score"), spans.begin_on_lane("reward", "score")
    first.end()
    third = spans.begin_on_lane("reward", "score")
    assert [span.track for span in (first, second, third)] == ["reward-1", "reward-2", "reward-1"]


def test_nothing_of_one_recording_is_left_in_the_next():
    with spans.listening(lambda _: None):
        spans.begin("rollout-1", "draw")
    assert spans.open_spans() == [] == spans.present()


def test_what_went_on_unheard_is_not_in_a_recording():
    spans.begin("rollout-1", "draw")
    with spans.listening(lambda _: None):
        assert spans.open_spans() == [] == spans.present()


def test_another_thread_sees_what_is_waited_for_and_the_time_counts_for_the_oldest(heard):
    old, new = spans.begin("learner-0", "update"), spans.begin("rollout-1", "draw")
    before_s = waited_s().get("learner update", 0.0)
    seen = []
    with waiting_for([new, old]):
        thread = threading.Thread(target=lambda: seen.extend(waits()))
        thread.start()
        thread.join()
        time.sleep(0.02)
    assert seen == [old, new]
    assert waits() == []
    assert 0.02 <= waited_s()["learner update"] - before_s <= time.monotonic() - old.start_s


def test_a_stall_is_said_at_the_bound_and_at_doublings_only():
    watch, span = StallWatch(60), span_of(1000.0)
    said = [age for age in range(0, 300, 5) if watch.due([span], 1000.0 + age)]
    assert said == [60, 120, 240]


def test_a_stall_names_the_node():
    line = warning_of(span_of(0.0, where=lambda: "node 10.0.0.3"), 75.0)
    assert line == "waiting since 75 s for 12 groups from rollout-2 (node 10.0.0.3)"
    assert warning_of(span_of(0.0), 75.0) == "waiting since 75 s for 12 groups from rollout-2"


def test_what_usually_takes_long_is_no_stall_before_three_times_that():
    watch = StallWatch(60)
    for took_s in (100.0, 180.0, 5000.0):
        watch.on_span(Span("rollout-1", "draw", "12 groups", 0.0, took_s))
    assert watch.due([span_of(0.0)], 539.0) == []
    assert len(watch.due([span_of(0.0)], 540.0)) == 1
    assert len(watch.due([span_of(0.0, "learner-0", "update")], 60.0)) == 1


def test_nothing_is_kept_of_steps_which_are_recorded_and_never_waited_for():
    watch, listening = StallWatch(60), []
    with spans.listening(watch.on_span, listening.append):
        for step in range(1000):
            spans.record("steps", f"alpha step {step}", 0.0, 1000.0)
    assert {watch.bound_s(span.kind) for span in listening} == {60}


def test_a_driver_that_wakes_late_hears_one_line_not_all_that_it_missed():
    watch, span = StallWatch(60), span_of(0.0)
    assert len(watch.due([span], 1000.0)) == 1
    assert watch.due([span], 1900.0) == []
    assert len(watch.due([span], 1920.0)) == 1
