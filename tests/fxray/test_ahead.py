import time

import pytest

from fxray.ahead import read_ahead
from fxray.errors import DataError, DeadlineError


def late(item: int) -> DeadlineError:
    return DeadlineError(f"item {item} was late")


def test_reading_ahead_keeps_the_order_and_stays_two_ahead() -> None:
    seen: list[int] = []

    def read(item: int) -> int:
        seen.append(item)
        return item * item

    results = read_ahead(read, range(3, 9), deadline_s=5, late=late)
    assert next(results) == 9
    deadline_s = time.monotonic() + 5
    while len(seen) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)

    assert seen == [3, 4, 5]
    assert list(results) == [16, 25, 36, 49, 64]
    assert list(read_ahead(read, [], deadline_s=5, late=late)) == []


def test_what_a_read_raises_comes_in_its_turn() -> None:
    def read(item: str) -> str:
        if item == "c":
            raise DataError("no such row")
        return item

    results = read_ahead(read, "abcd", deadline_s=5, late=lambda _: late(0))
    assert [next(results), next(results)] == ["a", "b"]
    with pytest.raises(DataError, match="no such row"):
        next(results)


def test_a_read_that_hangs_is_named() -> None:
    with pytest.raises(DeadlineError, match="item 0 was late"):
        next(read_ahead(lambda _: time.sleep(1), range(1), deadline_s=0.05, late=late))
