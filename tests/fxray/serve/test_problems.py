"""What a refusal tells a client to do."""

import pytest

from fxray.serve.problems import unavailable
from fxray.serve.rate import RateLimiter


def test_who_waits_as_long_as_told_is_let_in():
    now_s = [0.0]
    limiter = RateLimiter(4, clock=lambda: now_s[0])
    assert limiter.take("ana", 4) == 0
    now_s[0] = 4.6
    wait_s = limiter.take("ana", 1)
    assert wait_s == pytest.approx(10.4)
    told = unavailable("too many", retry_after_s=wait_s).headers["Retry-After"]
    assert told == "11"
    now_s[0] += int(told)
    assert limiter.take("ana", 1) == 0


@pytest.mark.parametrize(("wait_s", "told"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (60.0, "60")])
def test_a_time_to_wait_is_told_in_whole_seconds_that_are_enough(wait_s, told):
    assert unavailable("too many", retry_after_s=wait_s).headers["Retry-After"] == told
