"""A Ray of this process's own that ends with it, and not before.

A signal to the whole group of a process, as `timeout` and many supervisors send it, reaches the processes of Ray too.
They end at once, while their driver still ends what has begun; it would wait for them for a minute, until Ray ends it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from fxray.errors import HeadLostError
from fxray.launch.head import watched

SILENCE_S = 1.0


@contextmanager
def own_groups() -> Iterator[None]:
    """Has every process that Ray starts inside the block be a group of its own, which no signal to ours reaches.

    They end with this process all the same: the kernel tells them.
    """
    from ray._private import services

    before = services.ConsolePopen
    services.ConsolePopen = partial(before, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = before


@contextmanager
def watched_raylet() -> Iterator[None]:
    """Ends the block when the process that runs Ray on this machine has ended.

    Raises:
        HeadLostError: It has. A block that waits for Ray nevertheless is ended with this process.
    """
    import ray
    from ray._private.ray_constants import PROCESS_TYPE_RAYLET

    node = ray._private.worker._global_node
    (raylet,) = node.all_processes[PROCESS_TYPE_RAYLET]
    error = HeadLostError(
        "Ray has ended, and what has begun with it",
        where="local Ray",
        remedy="start the command again; a supervisor is to signal it alone at first (systemd: KillMode=mixed)",
    )
    with watched(lambda: raylet.process.poll() is None, SILENCE_S, error):
        yield
