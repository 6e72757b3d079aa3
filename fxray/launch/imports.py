"""The parts of a large import, converted on all cores of a machine or a cluster by Ray Data."""

import logging
from collections.abc import Iterable, Iterator
from queue import Empty, Queue
from threading import Thread

from fxray.config.tree import RayConfig
from fxray.data.import_job import RECORDS_PER_PART, ImportJob
from fxray.data.rows import Reading
from fxray.errors import DeadlineError
from fxray.launch.cluster import ray_cluster

OBJECT_STORE_MIB = 128
"""Only part numbers pass through it."""
PART_DEADLINE_S = 900.0
"""Longest wait for the next part: 3.5 s an image, far beyond any that is read."""


def convert_on_all_cores(job: ImportJob, parts: list[int], reading: Reading) -> Iterator[int]:
    """Converts parts of an import, and gives the number of each that is done.

    Args:
        job: The import; on a cluster its folder is one that all nodes see.
        parts: Which.
        reading: How records are read.

    Raises:
        ResourceError: Ray cannot be joined or started.
        DeadlineError: No part was done for a quarter of an hour, as when Ray has died.
    """
    with ray_cluster(RayConfig(object_store_mib=OBJECT_STORE_MIB), min_cpus=1):
        import ray

        def convert(row: dict[str, int]) -> dict[str, int]:
            job.convert(row["item"], reading)
            return row

        ray.data.DataContext.get_current().enable_progress_bars = False  # the command shows its own
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = ray.data.from_items(parts, override_num_blocks=len(parts)).map(convert).iter_rows()
        yield from each_in_time((int(row["item"]) for row in rows), PART_DEADLINE_S)


def each_in_time(parts: Iterable[int], deadline_s: float) -> Iterator[int]:
    """Gives what an iterable gives, as long as it comes in time: Ray Data's own iterators wait for ever.

    Raises:
        DeadlineError: The next one took longer than `deadline_s`.
    """
    arrived: Queue[int | Exception | None] = Queue()

    def pull() -> None:
        try:
            for part in parts:
                arrived.put(part)
            arrived.put(None)
        except Exception as error:  # noqa: BLE001 - raised again by the reader
            arrived.put(error)

    Thread(target=pull, daemon=True).start()
    while True:
        try:
            part = arrived.get(timeout=deadline_s)
        except Empty:
            raise DeadlineError(
                f"no part of {RECORDS_PER_PART} rows was done for {deadline_s:.0f} s",
                where="Ray Data",
                remedy="see whether Ray still runs, then run the import again: it goes on where it was",
            ) from None
        if isinstance(part, Exception):
            raise part
        if part is None:
            return
        yield part
