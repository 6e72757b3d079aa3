"""How many processes of a role may fail before a run stops: so many in so much time, not for ever."""

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

from fxray.errors import WorkerDiedError

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


def forget_frames(error: Exception) -> None:
    """Forgets where an error of Ray's was raised.

    Ray's own frame holds the error, and so, in a circle, every frame above it: what a step holds, its images in the
    object store too, would stay until Python's collector happens to come by.
    """
    error.__traceback__ = None


class FailureBudget:
    """Failures that a role may have. A process that leaves because its node is taken away is none.

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
        self.num_failures = 0

    def record(self, now_s: float, reason: str) -> None:
        """Counts a failure.

        Args:
            now_s: Seconds of a clock that only grows.
            reason: Who failed, doing what, and why.

        Raises:
            WorkerDiedError: There were more within the window than may be restarted.
        """
        self.num_failures += 1
        while self._recent_s and now_s - self._recent_s[0] >= self._window_s:
            self._recent_s.popleft()
        self._recent_s.append(now_s)
        if len(self._recent_s) > self._max_restarts:
            raise WorkerDiedError(
                f"{self._who} failed {len(self._recent_s)} times within {self._window_s / 60:g} minutes, "
                f"{self._max_restarts} restarts are allowed; the last one: {reason}",
                where="failures.max_restarts",
                remedy=f"{self._remedy}; the run continues from its last checkpoint",
            )
