"""How much of something each name may take in a minute: token buckets."""

import time
from collections import OrderedDict
from collections.abc import Callable

MAX_NAMES = 10_000
"""Names that are remembered; the one that was quiet longest is forgotten first."""


class RateLimiter:
    """A bucket per name, full at first, that fills evenly and holds one minute's worth.

    Args:
        per_min: What a name may take in a minute; 0 for any amount.
        clock: Seconds that only grow.
    """

    def __init__(self, per_min: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_min, self._clock = per_min, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, name: str, amount: int = 1) -> float:
        """Seconds until `amount` can be taken; 0 where it can be now."""
        if self._per_min == 0:
            return 0.0
        missing = min(amount, self._per_min) - self._level(name)
        return max(0.0, missing * 60 / self._per_min)

    def take(self, name: str, amount: int) -> float:
        """Takes an amount, or nothing where it is not there.

        Returns:
            Seconds until it can be taken; 0 where it was taken. More than one minute's worth takes the whole bucket.
        """
        wait_s = self.wait_s(name, amount)
        if wait_s == 0 and self._per_min:
            self._levels[name] = (self._level(name) - min(amount, self._per_min), self._clock())
            self._levels.move_to_end(name)
            while len(self._levels) > MAX_NAMES:
                self._levels.popitem(last=False)
        return wait_s

    def give_back(self, name: str, amount: int) -> None:
        """Undoes a `take` of the same amount."""
        if self._per_min:
            self._levels[name] = (self._level(name) + min(amount, self._per_min), self._clock())

    def _level(self, name: str) -> float:
        level, at_s = self._levels.get(name, (float(self._per_min), self._clock()))
        return min(float(self._per_min), level + (self._clock() - at_s) * self._per_min / 60)
