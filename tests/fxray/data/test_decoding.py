import threading
import time
from typing import Any

import pytest

from fxray.data import decoding
from fxray.data.decoding import PixelRoom, by_threads
from fxray.errors import DataError


@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_come_in_order_from_as_many_threads_as_there_may_be(num_threads: int, overlap: Any) -> None:
    def slow(number: int, text: str) -> str:
        overlap.stay(0.02 if number % 3 == 0 else 0.005)
        return f"{number} {text}"

    assert by_threads(slow, num_threads, range(9), "abcdefghi") == [f"{i} {c}" for i, c in enumerate("abcdefghi")]
    assert overlap.most == num_threads
    assert by_threads(slow, num_threads, [], []) == []


def test_what_goes_wrong_first_is_told_whatever_is_done_first() -> None:
    def fail(number: int) -> None:
        time.sleep(0.05 / (1 + number))
        if number:
            raise DataError(f"number {number}")

    with pytest.raises(DataError, match="number 1"):
        by_threads(fail, 3, [0, 1, 2])


def test_room_is_shared_and_one_image_always_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MOST_PIXELS", 100)
    room, entered = PixelRoom(), threading.Event()

    def enter() -> None:
        with room.taken(60):
            entered.set()

    with room.taken(1000):
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(10)
    thread.join(10)
    with room.taken(40), room.taken(60):
        pass
