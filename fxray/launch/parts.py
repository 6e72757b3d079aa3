"""The parts of a large piece of work, done on all cores of a machine or a cluster by Ray Data."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from queue import Empty, Queue
from threading import Thread
from typing import TypeVar

from fxray.config.tree import RayConfig
from fxray.data.parts import PART_ROWS, Work
from fxray.errors import DeadlineError
from fxray.launch.cluster import ray_cluster

T = TypeVar("T")
OBJECT_STORE_MIB = 128
"""Numbers of parts pass through it, and what came of each: at most some hundred kilobytes."""
WORKER_BYTES = 512 * 2**20
"""Memory that Ray sets aside for a worker, so that a machine with many cores and little memory gets fewer of them."""
MAX_AHEAD = 1024
"""Items that wait to be taken."""
PART_DEADLINE_S = 900.0
"""Longest wait for the next part: 3.5 s an image, far beyond any that is read."""


def on_all_cores(work: Work, parts: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Does parts, and gives the number of each that is done with what came of it.

    Args:
        work: Does one part; it travels to other processes. On a cluster its files lie where all nodes see them.
        parts: Their numbers.

    Raises:
        ResourceError: Ray cannot be joined or started.
        DeadlineError: No part was done for a quarter of an hour, as when Ray has died.
    """
    with ray_cluster(RayConfig(object_store_mib=OBJECT_STORE_MIB), min_cpus=1):
        import ray

        def do(row: dict[str, int]) -> dict[str, int | bytes]:
            return {"part": row["item"], "done": work(row["item"])}

        ray.data.DataContext.get_current().enable_progress_bars = False  # the command shows its own
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        largest = max(node["Resources"].get("memory", 0.0) for node in ray.nodes())  # more would never be given
        numbers = ray.data.from_items(list(parts), override_num_blocks=len(parts))
        rows = numbers.map(do, memory=min(WORKER_BYTES, largest)).iter_rows()
        yield from each_in_time(
            ((int(row["part"]), row["done"]) for row in rows),
            PART_DEADLINE_S,
            DeadlineError(
                f"no part of {PART_ROWS} rows was done for {PART_DEADLINE_S:.0f} s",
                where="Ray Data",
                remedy="see whether Ray still runs, then run the command again: it goes on where it was",
            ),
        )


def each_in_time(items: Iterable[T], deadline_s: float, late: DeadlineError) -> Iterator[T]:
    """Gives what an iterable gives, as long as it comes in time: Ray Data's own iterators wait for ever.

    Args:
        items: Are drawn by a thread, at most `MAX_AHEAD` ahead.
        deadline_s: Longest wait for the next one.
        late: What is raised then.

    Raises:
        DeadlineError: The next one took longer than `deadline_s`.
    """
    arrived: Queue[tuple[T] | Exception | None] = Queue(MAX_AHEAD)

    def pull() -> None:
        try:
            for item in items:
                arrived.put((item,))
            arrived.put(None)
        except Exception as error:  # noqa: BLE001 - raised again by the reader
            arrived.put(error)

    Thread(target=pull, daemon=True).start()
    while True:
        try:
            item = arrived.get(timeout=deadline_s)
        except Empty:
            raise late from None
        if isinstance(item, Exception):
            raise item
        if item is None:
            return
        yield item[0]
