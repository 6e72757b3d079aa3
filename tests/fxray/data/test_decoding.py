import threading
import time

import pytest

from fxray.data import decoding
from fxray.data.decoding import PixelRoom, by_threads
from fxray.errors import DataError


def test_results_come_in_order_from_as_many_threads_as_there_may_be() -> None:
    lock, now, most = threading.Lock(), [], []

    def slow(number: int, text: str) -> str:
        with lock:
            now.append(number)
            most.append(len(now))
        time.sleep(0.02 if number % 3 == 0 else 0.005)
        with lock:
            now.remove(number)
        return f"{number} {text}"

    for num_threads in (1, 3):
        most.clear()
        assert by_threads(slow, num_threads, range(9), "abcdefghi") == [f"{i} {c}" for i, c in enumerate("abcdefghi")]
        assert max(most) == num_threads
    assert by_threads(slow, 4, [], []) == []


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
