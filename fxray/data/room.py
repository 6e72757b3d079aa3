"""Bounds what threads hold decoded at the same time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOST_THREADS = 8
"""That decode at the same time: each holds a whole image."""
MOST_PIXELS = 200_000_000
"""Of the images that are decoded at the same time, unless one has more: each takes 4 bytes, and is there twice."""


class PixelRoom:
    """Room for so many pixels."""

    def __init__(self) -> None:
        self._free, self._pixels = threading.Condition(), 0

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Waits until so many more may be held; an image alone always may."""
        with self._free:
            self._free.wait_for(lambda: self._pixels == 0 or self._pixels + pixels <= MOST_PIXELS)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._free:
                self._pixels -= pixels
                self._free.notify_all()
