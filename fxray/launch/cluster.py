"""The Ray cluster of a run: the one that the configuration or RAY_ADDRESS names, else a local one for it alone."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from actors.placement import NODE_TYPES
from fxray.config.tree import RayConfig
from fxray.errors import ResourceError
from fxray.launch.access import own_token
from fxray.launch.head import await_head, watched_head
from fxray.launch.leftovers import PARENT, own_folder
from fxray.launch.raylet import own_groups, watched_raylet
from fxray.listening import bound_socket
from fxray.processors import num_processors

SHARED_MEMORY = Path("/dev/shm")
MIN_TEMPORARY_MIB = 64
"""Room for the logs of a Ray; with less it comes up, and nothing goes on."""


@contextmanager
def ray_cluster(config: RayConfig, *, min_cpus: int, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Joins or starts Ray, and leaves or ends it.

    A signal to this process's whole group, as of `timeout`, does not end a Ray of its own before the block ends; where
    one ends all the same, the block does.

    Args:
        config: Address and size.
        min_cpus: Logical processors that the actors of the run ask for.
        environment: Variables of the processes that Ray starts for this one, also on a cluster that is up already.

    Raises:
        ResourceError: The cluster cannot be reached, or a Ray of its own cannot be started here.
        HeadLostError: The cluster's head has not answered for `head_deadline_s`, or the Ray of its own has ended.
    """
    check_machine(config)
    address = ray_address(config)
    _quieten()
    if not address:
        _stay_on_loopback()
    import ray

    if address:
        await_head(address)
    with nullcontext() if address else own_token(), nullcontext() if address else own_folder() as folder:
        with _kept_handler(signal.SIGTERM), own_groups():
            _init(config, address, folder, min_cpus, environment)
        head = ray.get_runtime_context().gcs_address
        with _own_exit(signal.SIGTERM), watched_head(head, config.head_deadline_s) if address else nullcontext():
            try:
                with nullcontext() if address else watched_raylet():
                    yield
            finally:
                ray.shutdown()


@contextmanager
def _kept_handler(number: int) -> Iterator[None]:
    """Gives a signal its handler back, if this thread may.

    Ray puts its own in its place, and before that one another, which prints stacks and ends the process by SIGABRT
    three seconds later, whatever it still has to write.
    """
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(number, before)


@contextmanager
def _own_exit(number: int) -> Iterator[None]:
    """Lets the exit out of the block that this process's handler of a signal asks for, if this thread has handlers.

    Ray, in whose waits the handler is mostly called, makes another of it, with exit code 1.
    """
    handler, asked = signal.getsignal(number), list[SystemExit]()
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        try:
            handler(signum, frame)
        except SystemExit as error:
            asked.append(error)
            raise

    signal.signal(number, handle)
    try:
        yield
    except SystemExit:
        if asked:
            raise asked[0] from None
        raise
    finally:
        signal.signal(number, handler)


def ray_address(config: RayConfig) -> str | None:
    """The cluster to join; None where a run starts a Ray of its own."""
    return config.address or os.environ.get("RAY_ADDRESS")


def _init(
    config: RayConfig,
    address: str | None,
    folder: Path | None,
    min_cpus: int,
    environment: Mapping[str, str] | None,
) -> None:
    """Joins the cluster at an address, or starts a Ray of this process in a folder."""
    import ray

    own = {"env_vars": dict(environment)} if environment else None
    try:
        if address:
            ray.init(address=address, namespace="fxray", runtime_env=own, log_to_driver=False, logging_level="WARNING")
        else:
            ray.init(
                address="local",
                namespace="fxray",
                runtime_env=own,
                resources=dict.fromkeys(NODE_TYPES, 1) if config.use_node_types else None,
                num_cpus=max(config.num_cpus or num_processors(), min_cpus),
                object_store_memory=config.object_store_mib * 2**20,
                include_dashboard=False,
                _metrics_export_port=config.metrics_port or None,
                log_to_driver=False,
                logging_level="WARNING",
                _temp_dir=str(folder),
                _node_ip_address="127.0.0.1",
            )
    except Exception as error:  # Ray raises bare ones here
        raise ResourceError(
            f"Ray cannot be {'joined' if address else 'started'}: {error}",
            where=f"ray.address {address}" if address else "local Ray",
            remedy="check the address and that the head node runs" if address else "run `fxray doctor`",
        ) from error


def _quieten() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a call after the end is an error, and starts no other Ray
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - of a user that is no more than a number
        os.environ["HOME"] = "/"  # as container runtimes have it: Ray Train asks for one when it is imported


def _stay_on_loopback() -> None:
    """Keeps Ray from taking the address that other machines reach; Ray reads this switch when it is imported."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if "ray" in sys.modules:
        from ray._private import ray_constants

        ray_constants.ENABLE_RAY_CLUSTER = False


def check_machine(config: RayConfig) -> None:
    """Returns when nothing stands in the way of a Ray of this run's own, or when there is a cluster to join.

    Raises:
        ResourceError: There is too little shared memory or room for Ray's own files, or a port is in use.
    """
    if ray_address(config):
        return
    _check_shared_memory(config.object_store_mib)
    if (free_mib := shutil.disk_usage(PARENT).free // 2**20) < MIN_TEMPORARY_MIB:
        raise ResourceError(
            f"{free_mib} MiB are free, Ray's own files need {MIN_TEMPORARY_MIB} MiB at least",
            where=str(PARENT),
            remedy="free some space there and give the same command again",
        )
    if config.metrics_port:
        bound_socket("127.0.0.1", config.metrics_port, "ray.metrics_port").close()


def _check_shared_memory(needed_mib: int) -> None:
    free_mib = shutil.disk_usage(SHARED_MEMORY).free // 2**20 if SHARED_MEMORY.is_dir() else 0
    if free_mib < needed_mib:
        raise ResourceError(
            f"{free_mib} MiB of shared memory are free, Ray's object store needs {needed_mib} MiB",
            where=str(SHARED_MEMORY),
            remedy=f"enlarge {SHARED_MEMORY} (docker: --shm-size) or set ray.object_store_mib lower",
        )
