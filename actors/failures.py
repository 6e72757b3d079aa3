"""How many processes of a role may fail before a run stops: so many in so much time, not for ever."""

import math
import re
from collections import deque

from ray.exceptions import (
    ActorUnschedulableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from fxray.counts import counted
from fxray.errors import DeadlineError, FxrayError, WorkerDiedError

DEATHS = (
    RayActorError,
    OutOfMemoryError,
    RuntimeEnvSetupError,
    ActorUnschedulableError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfDiskError,
    WorkerCrashedError,
)
"""What a call raises whose actor is gone or never came. Only the first is a `RayActorError`: not where Ray's memory
monitor ends a process, nor where a node cannot make ready what the job brings (`RuntimeEnvSetupError`)."""
LOSSES = (*DEATHS, ObjectLostError)
"""The same, and what a call raises whose answer is gone with the node where it lay."""

FALLS_WITHIN_S = 10.0
"""What a node does to its processes, it does to all of them within so many seconds."""


def dead_node(error: Exception) -> str:
    """Id of the node whose death ended an actor, where Ray says so; else empty."""
    found = re.search(r"node has died\. Node Id: (\w+)", str(error))
    return found[1] if found else ""


def is_of_one_machine(cause: object) -> bool:
    """Whether an actor met with something that another one may be spared: images late, an engine's own error.

    Every other error of fxray's names what is wrong with the request, and would be the same elsewhere.
    """
    return isinstance(cause, DeadlineError) or type(cause) is FxrayError


def forget_frames(error: Exception) -> None:
    """Forgets where an error of Ray's was raised.

    Ray's own frame holds the error, and so, in a circle, every frame above it: what a step holds, its images in the
    object store too, would stay until Python's collector happens to come by.
    """
    error.__traceback__ = None


class FailureBudget:
    """Failures that a role may have. A process that leaves because its node is taken away is none.

    Processes that fall with one node are one failure, however many they are.

    Args:
        who: The role, in the plural: "rollout workers".
        max_restarts: Failures within the window that are answered with a restart.
        window_s: How long a failure counts.
        remedy: What the user can do when there are more.
    """

    def __init__(self, who: str, *, max_restarts: int, window_s: float, remedy: str) -> None:
        self._who = who
        self._max_restarts = max_restarts
        self._window_s = window_s
        self._remedy = remedy
        self._recent_s: deque[float] = deque()
        self._nodes_s: dict[str, float] = {}
        self.num_failures = 0

    def record(self, now_s: float, reason: str, *, node: str = "", hired_s: float = -math.inf) -> None:
        """Counts a failure.

        Args:
            now_s: Seconds of a clock that only grows.
            reason: Who failed, doing what, and why.
            node: Id of the node where it ran; empty where nobody knows.
            hired_s: When it was asked for: who came after a failure on the node fails by itself.

        Raises:
            WorkerDiedError: There were more within the window than may be restarted.
        """
        self.num_failures += 1
        begun_s = self._nodes_s.get(node, -math.inf)
        if node and hired_s < begun_s and now_s - begun_s < FALLS_WITHIN_S:
            return
        self._nodes_s[node] = now_s
        while self._recent_s and now_s - self._recent_s[0] >= self._window_s:
            self._recent_s.popleft()
        self._recent_s.append(now_s)
        if len(self._recent_s) > self._max_restarts:
            raise WorkerDiedError(
                f"{self._who} failed {counted(len(self._recent_s), 'time')} within {self._window_s / 60:g} min, "
                f"{counted(self._max_restarts, 'restart is', 'restarts are')} allowed; the last one: {reason}",
                where="failures.max_restarts",
                remedy=f"{self._remedy}; the run continues from its last checkpoint",
            )
