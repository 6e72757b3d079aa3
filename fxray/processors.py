"""Processors that this process may use: fewer than the machine has where a container, Slurm or taskset pins it."""

import os


def num_processors() -> int:
    """How many threads can work at once here; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
