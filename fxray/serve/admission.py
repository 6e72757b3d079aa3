"""Back-pressure: so many images are with the engines at once, so many may wait, and the rest is refused at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fxray.counts import counted
from fxray.serve.problems import unavailable

_SECONDS_EACH_AT_FIRST = 1.0
_SMOOTHING = 0.1


class Admission:
    """Counts images from when they are let in until they are answered.

    Args:
        max_in_flight: Images with the engines at once.
        max_waiting: Images that may wait.
    """

    def __init__(self, max_in_flight: int, max_waiting: int) -> None:
        self._max_in_flight, self._max_waiting = max_in_flight, max_waiting
        self._slots = asyncio.Semaphore(max_in_flight)
        self._seconds_each = _SECONDS_EACH_AT_FIRST
        self.num_admitted = 0
        self.num_waiting = 0
        self.num_in_flight = 0
        self.is_draining = False

    @property
    def retry_after_s(self) -> float:
        """About how long until what waits now is done."""
        return min(60.0, 1 + self.num_admitted * self._seconds_each / self._max_in_flight)

    def check_open(self) -> None:
        """Returns unless the service is about to stop.

        Raises:
            Refusal: 503.
        """
        if self.is_draining:
            raise unavailable("the service is about to stop", retry_after_s=10)

    def check_room(self, num_images: int) -> None:
        """Returns where there are places for the images of one request.

        Raises:
            Refusal: 503: too many wait already, or the service is about to stop.
        """
        self.check_open()
        if self.num_admitted and self.num_admitted + num_images > self._max_in_flight + self._max_waiting:
            raise unavailable(
                f"{counted(self.num_admitted, 'image waits or is', 'images wait or are')} being answered, "
                f"{num_images} more are too many",
                retry_after_s=self.retry_after_s,
            )

    @asynccontextmanager
    async def admitted(self, num_images: int) -> AsyncIterator[None]:
        """Holds places for the images of one request, all or none.

        Raises:
            Refusal: See `check_room`.
        """
        self.check_room(num_images)
        self.num_admitted += num_images
        try:
            yield
        finally:
            self.num_admitted -= num_images

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits for an engine to have room for one image, of those admitted or of a batch."""
        self.num_waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.num_waiting -= 1
        try:
            self.num_in_flight += 1
            loop = asyncio.get_running_loop()
            start_s = loop.time()
            try:
                yield
            finally:
                self.num_in_flight -= 1
                self._seconds_each += _SMOOTHING * (loop.time() - start_s - self._seconds_each)
        finally:
            self._slots.release()

    async def drain(self, deadline_s: float) -> bool:
        """Refuses what comes from now on, and waits for what was admitted; False where that took too long."""
        self.is_draining = True
        try:
            async with asyncio.timeout(deadline_s):
                while self.num_admitted:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True
