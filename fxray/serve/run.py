"""The service for as long as the command runs: start, swap of the adapter, drained stop.

It runs on a Ray of its own, or on a cluster that it joins (`ray.address`). There it starts Serve, and leaves what
others run on it alone.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any, TypeVar

from fxray.config.tree import Config
from fxray.errors import DeadlineError, FxrayError, ResourceError
from fxray.events import Note, OnEvent
from fxray.launch.cluster import ray_address, ray_cluster
from fxray.listening import bound_socket, url_of
from fxray.serve.application import NAME, adapters_of, build
from fxray.serve.folder_lock import lock_folder
from fxray.serve.listener import KEEP_ALIVE_S

_T = TypeVar("_T")
_CALL_MARGIN_S = 30.0
_POLL_S, _TELL_S = 1.0, 15.0
_LOOK = "try `fxray detect` with the same settings; of a cluster, the logs of Ray Serve say more"
_LOGGING = {"enable_access_log": False, "log_level": "WARNING"}


def serve_until_told(
    config: Config, adapter: Path | None, find_adapter: Callable[[], Path | None], on_event: OnEvent
) -> None:
    """Serves until SIGTERM or SIGINT, then ends what has begun; SIGHUP swaps the adapters.

    Args:
        config: All of it.
        adapter: Folder of the adapter to start with; None for the bare base model.
        find_adapter: Called on SIGHUP: the adapter to go on with; those of `serve.adapters` are read again too.
        on_event: Told what happens.

    Raises:
        ConfigError: It would listen beyond loopback without API keys.
        ResourceError: The port or `serve.data_dir` is taken, or Ray Serve runs on the cluster already.
        FxrayError: The engines did not come up, or not in time.
    """
    serve = config.serve
    bound_socket(serve.host, serve.port, "--port").close()
    is_joined = bool(ray_address(config.ray))  # then the gateway's node is not known, and Ray Serve's proxy listens
    if serve.data_dir.is_dir() or not is_joined:  # said before the engines start, as the gateway would say it
        lock_folder(serve.data_dir.resolve(), wait_s=0).close()
    application = build(config, adapter, listens=None if is_joined else (serve.host, serve.port))
    on_event(Note("starting the engines"))
    replicas = max(serve.replicas, serve.max_replicas)
    with (
        # Nothing can be swapped before and after `_wait`. SIGTERM raises SystemExit there: the command's, then Ray's.
        _handled((signal.SIGHUP,), lambda *_: None),
        ray_cluster(config.ray, min_cpus=int(replicas * config.rollout.cpus_per_worker) + 1),
    ):
        if is_joined:
            _refuse_running_serve()
        handle = _start(application, config, on_event, is_joined=is_joined)
        try:
            on_event(Note(f"{url_of(serve.host, serve.port)} answers; Ctrl-C ends it"))
            asyncio.run(_wait(handle, find_adapter, on_event, config))
        finally:
            _stop(handle, serve.drain_deadline_s, on_event, is_joined=is_joined)
    on_event(Note("ended"))  # after Ray, which may tell in alarming words that Serve's controller was killed


@contextmanager
def _handled(numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has a handler called for signals inside the block, and after it the one before."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, each in before.items():
            signal.signal(number, each)


def _refuse_running_serve() -> None:
    """Returns where the cluster has no Serve yet: one that runs listens where it does, whatever host and port say.

    Raises:
        ResourceError: Ray Serve runs there.
    """
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:  # there is none
        return
    raise ResourceError(
        "Ray Serve runs on this cluster already, and listens where it was told to",
        where="ray.address",
        remedy="add the detector to it with `serve deploy deploy/serve.yaml`, or end it with `serve shutdown`",
    )


def _start(application: Any, config: Config, on_event: OnEvent, *, is_joined: bool) -> Any:
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly" if is_joined else "Disabled",
        http_options={
            "host": config.serve.host,
            "port": config.serve.port,
            "keep_alive_timeout_s": KEEP_ALIVE_S,
        },
        logging_config=_LOGGING,
    )
    target = serve.RunTarget(application, name=NAME, route_prefix="/", logging_config=_LOGGING)
    try:
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        _wait_until_running(config.rollout.start_deadline_s, on_event)
    except BaseException as error:  # Ctrl-C too: what has begun would go on by itself on a cluster
        _end(is_joined=is_joined)
        if isinstance(error, FxrayError) or not isinstance(error, (RuntimeError, TimeoutError)):
            raise
        said, _, remedy = str(error).partition(" remedy: ")
        raise FxrayError(f"the service did not come up: {said}", remedy=remedy or _LOOK) from error
    return handle


def _wait_until_running(deadline_s: float, on_event: OnEvent) -> None:
    """Until every part of the application runs; tells what runs already.

    Args:
        deadline_s: For a node to come, and once more for an engine on it.
        on_event: Told every 15 s.

    Raises:
        RuntimeError: Serve gave it up.
        DeadlineError: It took too long.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    start_s = told_s = time.monotonic()
    told: set[str] = set()
    while (found := serve.status().applications.get(NAME)) is None or found.status != ApplicationStatus.RUNNING:
        if found and found.status == ApplicationStatus.DEPLOY_FAILED:
            raise RuntimeError("; ".join(_failures(found)) or str(found.message))
        for failure in _failures(found, " Retrying ") if found else ():
            if failure not in told:
                told.add(failure)
                on_event(Note(f"trying again after {failure}", is_warning=True))
        parts = found.deployments.items() if found else ()
        states = [f"{name} {_states(part.replica_states)}" for name, part in parts]
        if (now := time.monotonic()) - start_s > 2 * deadline_s:
            raise DeadlineError(
                f"the service did not come up within {2 * deadline_s:g} s (twice rollout.start_deadline_s); "
                f"there is {'; '.join(states) or 'nothing of it yet'}",
                where="Ray Serve",
                remedy=_LOOK,
            )
        if now - told_s >= _TELL_S:
            told_s = now
            on_event(Note(f"starting for {now - start_s:.0f} s: {'; '.join(states) or 'nothing is there yet'}"))
        time.sleep(_POLL_S)


def _failures(found: Any, having: str = "") -> list[str]:
    """What Ray Serve says of an application's parts that do not start, each without its traceback.

    An error is the last line of a traceback that is not indented, with those below it.

    Args:
        found: The application.
        having: Only of parts of which Serve's own words contain this.
    """
    said = []
    for name, part in found.deployments.items():
        lines = part.message.rstrip().splitlines() if having in part.message.partition("\n")[0] else []
        if starts := [number for number, line in enumerate(lines) if not line.startswith(" ")]:
            said.append(f"{name}: {' '.join(' '.join(lines[starts[-1] :]).split())}")
    return said


def _states(counts: Mapping[str, int]) -> str:
    """How many replicas are how far: "1 starting"."""
    return ", ".join(f"{number} {state.lower()}" for state, number in counts.items() if number) or "waits"


async def _wait(handle: Any, find_adapter: Callable[[], Path | None], on_event: OnEvent, config: Config) -> None:
    """Until a signal says stop."""
    loop, hangups, stopped = asyncio.get_running_loop(), asyncio.Queue[int](), asyncio.Event()

    def tell(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if number == signal.SIGHUP:
            loop.call_soon_threadsafe(hangups.put_nowait, number)
        else:
            loop.call_soon_threadsafe(stopped.set)

    # Those of the loop would leave the signals with what the kernel does, which ends this process before the service.
    with _handled((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), tell):
        swapping = asyncio.create_task(_swap_when_told(hangups, handle, find_adapter, on_event, config))
        stopping = asyncio.create_task(stopped.wait())
        try:
            ended, _ = await asyncio.wait((swapping, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            swapping.cancel()  # a swap that runs does not hold the stop up
            stopping.cancel()
        if swapping in ended:
            await swapping


async def _swap_when_told(
    hangups: asyncio.Queue[int],
    handle: Any,
    find_adapter: Callable[[], Path | None],
    on_event: OnEvent,
    config: Config,
) -> None:
    """Swaps the adapters at each hang-up, until it is cancelled."""
    while await hangups.get():
        try:
            adapters = await _in_daemon(lambda: adapters_of(config, find_adapter()))
        except (FxrayError, OSError, RuntimeError) as error:  # of a shared disk, for one; a loop of links
            on_event(Note(f"the adapters stay as they are: {error}", is_warning=True))
            continue
        for name, folder in adapters.items():
            if folder:
                await _swap(handle, name, folder, on_event, config.serve.drain_deadline_s + _CALL_MARGIN_S)
            elif len(adapters) == 1:
                on_event(Note("the base model answers alone; there is no adapter to swap", is_warning=True))


async def _in_daemon(function: Callable[[], _T]) -> _T:
    """What a function returns that may wait for long, as for a copy; nobody waits for its thread at a stop."""
    result = Future[_T]()
    result.set_running_or_notify_cancel()  # whoever is cancelled while waiting leaves it to the thread

    def work() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # noqa: BLE001  raised by who waits
            result.set_exception(error)

    Thread(target=work, daemon=True).start()
    return await asyncio.wrap_future(result)


async def _swap(handle: Any, name: str, folder: str, on_event: OnEvent, deadline_s: float) -> None:
    """Swaps the adapter of a model, and tells what came of it; after the deadline the gateway goes on with the call."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        async with asyncio.timeout(deadline_s):
            model = await handle.swap.remote(name, folder)
        on_event(Note(f"model {name}: policy version {model['policy_version']} answers: {folder}"))
    except (FxrayError, RayError, RayServeException, TimeoutError) as error:
        cause = getattr(error, "cause", error)  # Ray wraps what a replica raised
        if type(error) is TimeoutError:
            said = f"no engine took {folder} within {deadline_s:g} s; it may still do so: /v1/models says what answers"
        elif isinstance(cause, FxrayError):
            said = f"the adapter stays as it is: {cause}"
        else:
            said = f"the adapter stays as it is: {type(cause).__name__}: {cause}"
        on_event(Note(f"model {name}: {said}", is_warning=True))


def _stop(handle: Any, deadline_s: float, on_event: OnEvent, *, is_joined: bool) -> None:
    """Waits for what has begun, unless a second signal says otherwise, and ends the service in any case."""
    try:
        on_event(Note("ending what has begun"))
        if not handle.drain.remote(deadline_s).result(timeout_s=deadline_s + _CALL_MARGIN_S):
            on_event(Note(f"some requests did not end within {deadline_s:g} s", is_warning=True))
    except Exception as error:  # noqa: BLE001  whatever it is, the service is to end
        on_event(Note(f"the gateway could not be drained: {error}", is_warning=True))
    finally:
        _end(is_joined=is_joined)


def _end(*, is_joined: bool) -> None:
    """Ends the service; on a cluster, Serve itself only where nobody else's application runs on it."""
    from ray import serve

    if is_joined:
        serve.delete(NAME)
        if serve.status().applications:
            return
    serve.shutdown()
