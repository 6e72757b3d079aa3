"""What the progress of many images says."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from fxray.detect.results import told
from fxray.events import Event, Step


def speeds(monkeypatch: pytest.MonkeyPatch, ends_s: list[float]) -> list[float | None]:
    """Images a second as told, where findings come after so many seconds."""
    clock = [0.0]
    events: list[Event] = []

    def found() -> Iterator[tuple[dict[str, Any], bytes]]:
        for clock[0] in ends_s:
            yield {"verdict": "real"}, b""

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    assert len(list(told(found(), len(ends_s), events.append))) == len(ends_s)
    return [event.metrics.get("images_per_s") for event in events if isinstance(event, Step)]


def test_images_that_come_at_once_have_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert speeds(monkeypatch, [40.0, 40.001, 40.002]) == [None]


def test_speed_is_that_after_the_first_image_for_which_the_engine_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert speeds(monkeypatch, [40.0, 40.5, 41.0, 41.5, 42.0]) == [2.0, 2.0]
