"""Work in parts: a little of it in this process, much of it on all cores."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

PART_ROWS = 256
"""Rows of a part, about: seconds of work, so that little is lost when it is interrupted."""
ALONE_S = 60.0
"""Where the rest would take one process longer than this, many take it: to start them takes up to half a minute."""
TRIAL_PARTS = 4
"""So many parts are done in this process first, to learn how fast it goes; the last so many say how fast it is."""

Work = Callable[[int], bytes]
"""Does the part of a number; what it returns is passed on."""
AllCores = Callable[[Work, Sequence[int]], Iterator[tuple[int, bytes]]]
"""Does parts in many processes, in any order; gives each one's number, and what came of it, when it is done."""


def each_part(
    work: Work,
    parts: Sequence[int],
    *,
    all_cores: AllCores | None = None,
    work_on_one_core: Work | None = None,
    alone_s: float = ALONE_S,
) -> Iterator[tuple[int, bytes]]:
    """Does parts, and gives the number of each that is done with what came of it.

    Args:
        work: Does one in this process.
        parts: Their numbers.
        all_cores: What takes over where this process alone would be slow.
        work_on_one_core: What it does, if not `work`.
        alone_s: Seconds beyond which it does.
    """
    last_s = deque[float](maxlen=TRIAL_PARTS)
    for count, part in enumerate(parts):
        left_s = sum(last_s) / TRIAL_PARTS * (len(parts) - count)
        if all_cores and len(last_s) == TRIAL_PARTS and left_s > alone_s:
            yield from all_cores(work_on_one_core or work, parts[count:])
            return
        start_s = time.monotonic()
        done = work(part)
        last_s.append(time.monotonic() - start_s)
        yield part, done
