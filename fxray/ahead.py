"""Reading ahead: a thread makes the next items while the caller works on the last one."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from fxray.errors import FxrayError

NUM_AHEAD = 2

S = TypeVar("S")
T = TypeVar("T")


def read_ahead(
    read: Callable[[S], T], items: Sequence[S], *, deadline_s: float, late: Callable[[S], FxrayError]
) -> Iterator[T]:
    """What `read` gives for each item, in order; two are read, one after the other, before they are asked for.

    Args:
        read: May raise; its error comes in its turn.
        items: What there is to read.
        deadline_s: For the caller to wait for one.
        late: The error that tells which one took longer, and what to do.

    Raises:
        FxrayError: What `late` makes of one that takes longer.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
    try:
        pending = deque(pool.submit(read, item) for item in items[:NUM_AHEAD])
        for index, item in enumerate(items):
            try:
                found = pending.popleft().result(timeout=deadline_s)
            except FutureTimeoutError as error:
                raise late(item) from error
            if index + NUM_AHEAD < len(items):
                pending.append(pool.submit(read, items[index + NUM_AHEAD]))
            yield found
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
