import time

import pytest

from fxray.errors import DataError, DeadlineError
from fxray.launch.parts import each_in_time

LATE = DeadlineError("nothing came")


def test_what_comes_in_time_comes_in_order():
    assert list(each_in_time(iter([3, 1, 2]), 5, LATE)) == [3, 1, 2]


@pytest.mark.alone
def test_a_stall_ends_at_the_deadline():
    def stalls():
        yield 1
        time.sleep(3)

    parts = each_in_time(stalls(), 0.1, LATE)
    assert next(parts) == 1
    start_s = time.monotonic()
    with pytest.raises(DeadlineError, match="nothing came"):
        next(parts)
    assert time.monotonic() - start_s < 2


def test_an_error_in_a_part_is_raised_here():
    def breaks():
        yield 1
        raise DataError("torn", where="part 2")

    parts = each_in_time(breaks(), 5, LATE)
    assert next(parts) == 1
    with pytest.raises(DataError, match="part 2: torn"):
        next(parts)
