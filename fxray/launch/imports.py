"""The parts of a large import, converted on all cores of a machine or a cluster by Ray Data."""

import logging
from collections.abc import Iterator

from fxray.config.tree import RayConfig
from fxray.data.import_job import ImportJob
from fxray.data.rows import Reading
from fxray.launch.cluster import ray_cluster

OBJECT_STORE_MIB = 128
"""Only part numbers pass through it."""


def convert_on_all_cores(job: ImportJob, parts: list[int], reading: Reading) -> Iterator[int]:
    """Converts parts of an import, and gives the number of each that is done.

    Args:
        job: The import; on a cluster its folder is one that all nodes see.
        parts: Which.
        reading: How records are read.

    Raises:
        ResourceError: Ray cannot be joined or started.
    """
    with ray_cluster(RayConfig(object_store_mib=OBJECT_STORE_MIB), min_cpus=1):
        import ray

        def convert(row: dict[str, int]) -> dict[str, int]:
            job.convert(row["item"], reading)
            return row

        ray.data.DataContext.get_current().enable_progress_bars = False  # the command shows its own
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        for row in ray.data.from_items(parts, override_num_blocks=len(parts)).map(convert).iter_rows():
            yield int(row["item"])
