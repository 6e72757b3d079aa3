"""Images decoded by several threads, as Pillow lets them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

MOST_THREADS = 8
"""That decode at the same time: each holds a whole image."""
MOST_PIXELS = 200_000_000
"""Of the images that are decoded at the same time, unless one has more: each takes 4 bytes, and is there twice."""


def by_threads(work: Callable[..., T], num_threads: int, *columns: Sequence[Any]) -> list[T]:
    """What `work` makes of each item of the columns, in order.

    Args:
        work: Decodes an image, and what else lets other threads run.
        num_threads: That may work on them; `MOST_THREADS` do at most.
        columns: Of equal length, one for each argument of `work`.

    Raises:
        Exception: What `work` raises of the first item that it raises of.
    """
    with ThreadPoolExecutor(max(1, min(MOST_THREADS, num_threads)), "decoding") as threads:
        return list(threads.map(work, *columns))


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
