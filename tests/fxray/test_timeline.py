"""The timeline: events as the trace-event format wants them, valid at every moment, bounded, mended."""

import json
import os
import time
from pathlib import Path

import pytest

from fxray import timeline
from fxray.spans import Span
from fxray.timeline import OLD_TIMELINE_FILE, TimelineFile, busy_s, length_s, read_timeline


def check_trace(events: list[dict]) -> None:
    """The rules of the trace-event format, as far as fxray uses it, and that spans of a track nest."""
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    spans: dict = {}
    for event in events:
        assert event["ph"] in "XiM"
        assert isinstance(event["name"], str)
        assert all(type(event[key]) is int for key in ("pid", "tid"))
        if event["ph"] == "M":
            assert set(event["args"]) <= {"name", "sort_index"}
            continue
        assert type(event["ts"]) is int
        assert event["ts"] > 0
        assert (event["pid"], event["tid"]) in named
        if event["ph"] == "X":
            assert type(event["dur"]) is int
            assert event["dur"] >= 0
            spans.setdefault(event["tid"], []).append((event["ts"], -event["dur"]))
        else:
            assert event["s"] in "gpt"
    for found in spans.values():
        ends: list[int] = []
        for start, minus_length in sorted(found):
            while ends and ends[-1] <= start:
                ends.pop()
            assert not ends or start - minus_length <= ends[-1], "spans of one track overlap without nesting"
            ends.append(start - minus_length)


def draw(track: str, start_s: float, seconds: float, name: str = "draw", **facts) -> Span:
    return Span(track, name, "", start_s, start_s + seconds, facts=facts)


def test_the_file_is_a_valid_trace_after_every_write(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    file = TimelineFile(path)
    assert json.loads(path.read_text()) == []
    for step in range(3):
        start_s = 100.1 + 10.3 * step
        file.add(draw("generate", start_s, 4))
        file.add(draw("rollout-1", start_s, 3, groups=4))
        file.add(draw("rollout-2", start_s, 4, groups=4))
        file.add(draw("learner-0", start_s + 4, 2.1, name="forward"))
        file.add(draw("learner-0", start_s + 4 + 2.1, 0.7, name="backward"))
        file.add(draw("learner-0", start_s + 4, 5, name="update"))
        file.add(draw("steps", start_s, 0, name="warning", text="late"))
        file.add(draw("reward-1", start_s, 0.001))
        file.write()
        events = json.loads(path.read_text())
        check_trace(events)
    tracks = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert tracks == ["generate", "rollout-1", "rollout-2", "learner-0", "steps"]
    assert busy_s(events) == pytest.approx({"generate": 12, "rollout-1": 9, "rollout-2": 12, "learner-0": 15})
    (first,) = [e for e in events if e["name"] == "draw" and e["cat"] == "rollout"][:1]
    assert (first["dur"], first["args"]) == (3_000_000, {"groups": 4})
    parts = [e for e in events if e["name"] in ("forward", "backward")]
    assert parts[0]["ts"] + parts[0]["dur"] == parts[1]["ts"]


@pytest.mark.parametrize("lost_bytes", [1, 3, 20, 10_000])
def test_a_torn_file_is_read_as_far_as_it_goes_and_mended(tmp_path: Path, lost_bytes: int) -> None:
    path = tmp_path / "timeline.json"
    file = TimelineFile(path)
    for number in range(3):
        file.add(draw("rollout-1", 10.0 * number + 1, 5))
    file.write()
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    before = read_timeline(path)
    again = TimelineFile(path)
    assert json.loads(path.read_text()) == before
    again.add(draw("rollout-1", 100, 5))
    again.write()
    events = json.loads(path.read_text())
    assert events[: len(before)] == before
    assert events[-1]["dur"] == 5_000_000
    check_trace(events)


def test_what_had_no_room_on_the_disk_leaves_no_hole_and_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "timeline.json"
    file = TimelineFile(path)
    file.add(draw("rollout-1", 1, 5))
    file.write()
    before = json.loads(path.read_text())
    real_pwrite, num_free_bytes = os.pwrite, 100

    def pwrite(descriptor: int, content: bytes, offset: int) -> int:
        return real_pwrite(descriptor, content[:num_free_bytes], offset)

    with monkeypatch.context() as full_disk:
        full_disk.setattr(os, "pwrite", pwrite)
        for start_s in (10, 20):
            file.add(draw("rollout-2", start_s, 5))
            with pytest.raises(OSError, match="No space left"):
                file.write()
            assert json.loads(path.read_text()) == before
    file.write()
    file.add(draw("rollout-1", 30, 5))
    file.write()
    events = json.loads(path.read_text())
    check_trace(events)
    assert busy_s(events) == pytest.approx({"rollout-1": 10, "rollout-2": 10})


def test_of_what_waits_for_a_file_that_cannot_be_written_the_newest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "MAX_WAITING", 100)
    path = tmp_path / "timeline.json"
    file = TimelineFile(path)
    path.unlink()
    path.mkdir()
    for number in range(1000):
        file.add(draw(f"rollout-{number % 2 + 1}", 10.0 * number + 1, 5, number=number))
        with pytest.raises(OSError, match="is a folder"):
            file.write()
    path.rmdir()
    file.write()
    events = json.loads(path.read_text())
    check_trace(events)
    numbers = [event["args"]["number"] for event in events if event["ph"] == "X"]
    assert numbers == list(range(1000 - len(numbers), 1000))
    assert 50 <= len(numbers) <= 100


def test_a_hole_in_a_file_is_cut_with_what_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    file = TimelineFile(path)
    file.add(draw("rollout-1", 1, 5))
    file.write()
    whole = path.read_bytes()
    path.write_bytes(whole.removesuffix(b"\n]\n") + b",\n" + bytes(300) + whole.removeprefix(b"[\n"))
    TimelineFile(path)
    assert path.read_bytes() == whole


def test_a_full_file_makes_room_and_the_new_one_names_its_tracks(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    file = TimelineFile(path, max_bytes=2000)
    for number in range(60):
        file.add(draw("rollout-1", 10.0 * number + 1, 5, number=number))
        file.write()
    events = json.loads(path.read_text())
    check_trace(events)
    check_trace(json.loads((tmp_path / OLD_TIMELINE_FILE).read_text()))
    assert events[-1]["args"] == {"number": 59}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 5000
    assert len(list(tmp_path.iterdir())) == 2


def test_times_are_those_of_the_clock_and_the_length_is_from_the_first_to_the_last(tmp_path: Path) -> None:
    path, now_s = tmp_path / "timeline.json", time.monotonic()
    file = TimelineFile(path)
    file.add(draw("rollout-1", now_s - 10, 4))
    file.add(draw("rollout-2", now_s - 5, 3))
    file.write()
    events = read_timeline(path)
    first, second = (event for event in events if event["ph"] == "X")
    assert first["ts"] == pytest.approx(1e6 * (time.time() - 10), abs=5e6)
    assert second["ts"] - first["ts"] == pytest.approx(5e6, abs=2)
    assert length_s(events) == pytest.approx(8)
    assert length_s([]) == 0


def test_no_file_has_no_events(tmp_path: Path) -> None:
    assert read_timeline(tmp_path / "timeline.json") == []
