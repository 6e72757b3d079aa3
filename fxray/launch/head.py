"""The head of a cluster that a driver has joined: asked every two seconds by a thread, so that its loss is said.

Ray itself says nothing: a minute after its head is gone (RAY_gcs_rpc_server_reconnect_timeout_s) it ends every process
of the cluster, drivers too. So the driver gives up a little earlier, in its own words, and leaves its run in order.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from fxray.errors import HeadLostError, ResourceError
from fxray.launch.access import REMEDY

ASK_EVERY_S = 2.0
ANSWER_DEADLINE_S = 5.0
JOIN_DEADLINE_S = 30.0
LEAVING_DEADLINE_S = 10.0
"""For the driver to let go of what it holds; what it waits for in Ray may never come."""


def await_head(address: str) -> None:
    """Returns when the head of a cluster takes calls of this process; Ray's own joining asks in vain for 12 minutes.

    Args:
        address: As `ray.address`; "auto" where no cluster runs is left to Ray, which says so at once.

    Raises:
        ResourceError: Nothing answers there, or it wants another token than the one here, if any.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray._private.services import canonicalize_bootstrap_address
    from ray.exceptions import AuthenticationError

    try:
        place = canonicalize_bootstrap_address(address)
    except (OSError, ValueError) as error:
        raise _not_joined(address, str(error), "give HOST:PORT of the head node, or auto on a node") from error
    if place is None:
        return
    end_s, asked_for = time.monotonic() + JOIN_DEADLINE_S, "/ray.rpc.NodeInfoGcsService/GetClusterId"
    while True:
        try:
            with init_grpc_channel(place) as channel:
                channel.unary_unary(asked_for)(b"", timeout=ANSWER_DEADLINE_S)
        except AuthenticationError as error:
            raise _not_joined(address, "RAY_AUTH_MODE is token, and no token is here", REMEDY) from error
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise _not_joined(address, "it wants another token than the one here, if any", REMEDY) from error
            if time.monotonic() > end_s:
                silence = f"its head has not answered at {place} for {JOIN_DEADLINE_S:g} s: {error.details()}"
                raise _not_joined(address, silence) from error
            time.sleep(ASK_EVERY_S)
        else:
            return


def _not_joined(address: str, why: str, remedy: str = "check the address and that the head node runs") -> ResourceError:
    return ResourceError(f"Ray cannot be joined: {why}", where=f"ray.address {address}", remedy=remedy)


@contextmanager
def watched_head(address: str, deadline_s: float) -> Iterator[None]:
    """Ends the block when the head has not answered for too long.

    Args:
        address: Of Ray's control store: "10.0.0.1:6379".
        deadline_s: Longest silence.

    Raises:
        HeadLostError: See `watched`.
    """
    error = HeadLostError(
        f"the head of the cluster has not answered for {deadline_s:g} s (ray.head_deadline_s)",
        where=address,
        remedy="start the cluster again; the same command then goes on from the last checkpoint",
    )
    with watched(asker(address), deadline_s, error):
        yield


@contextmanager
def watched(answers: Callable[[], bool], deadline_s: float, error: HeadLostError) -> Iterator[None]:
    """Ends the block when what it depends on has not answered for too long; watches from the main thread alone.

    Args:
        answers: Asks it.
        deadline_s: Longest silence.
        error: What is raised then.

    Raises:
        HeadLostError: It is gone. A block that does not end within `LEAVING_DEADLINE_S` then is ended with its
            process, exit code 1, after the same words on stderr.
    """
    is_lost, is_left = threading.Event(), threading.Event()
    signalling = threading.Lock()

    def interrupt(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        """Ray's own waits are left by nothing but this; a block that has ended meanwhile keeps its own end."""
        if not is_left.is_set():
            raise KeyboardInterrupt

    def end_block() -> None:
        with signalling:
            if is_left.is_set():
                return
            is_lost.set()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        if not is_left.wait(LEAVING_DEADLINE_S):
            sys.stderr.write(f"error: {error}\n")
            sys.stderr.flush()
            os._exit(error.exit_code)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=watch, args=(answers, deadline_s, is_left, end_block), daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if is_lost.is_set():
            raise error from None
        raise
    finally:
        is_left.set()
        with signalling:  # a signal under the former handler would end the process without a word
            signal.signal(signal.SIGUSR1, before)


def watch(answers: Callable[[], bool], deadline_s: float, is_left: threading.Event, lose: Callable[[], None]) -> None:
    """Asks until the block is left, or calls `lose` once when there was no answer for `deadline_s`."""
    heard_s = time.monotonic()
    while not is_left.wait(ASK_EVERY_S):
        if answers():
            heard_s = time.monotonic()
        elif time.monotonic() - heard_s >= deadline_s:
            lose()
            return


def asker(address: str) -> Callable[[], bool]:
    """A function that asks Ray's control store for its health, as Ray asks its nodes, and waits a few seconds."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel

    options = [("grpc.max_reconnect_backoff_ms", int(1000 * ASK_EVERY_S))]
    check = init_grpc_channel(address, options).unary_unary("/grpc.health.v1.Health/Check")

    def answers() -> bool:
        try:
            check(b"", timeout=ANSWER_DEADLINE_S)
        except grpc.RpcError:
            return False
        return True

    return answers
