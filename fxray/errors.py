"""Every error that a user can meet. Each one says what is wrong, where, and what to do about it.

A class here also inherits the stdlib class that callers would expect, and survives pickling, so that it crosses
process boundaries whole. A malformed answer of the model is never an error: it is a scored value.
"""


class FxrayError(Exception):
    """Anything that fxray refuses or gives up on.

    Args:
        message: What is wrong, the value that was got and the value that was expected.
        where: The place: a configuration field, a file and row, a sample id, an actor.
        remedy: What the user can do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.where, self.remedy))

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  remedy: {self.remedy}" if self.remedy else text


def _rebuild(cls: type[FxrayError], message: str, where: str, remedy: str) -> FxrayError:
    return cls(message, where=where, remedy=remedy)


class ConfigError(FxrayError, ValueError):
    """A configuration that cannot be run as it stands."""

    exit_code = 2


class DataError(FxrayError, ValueError):
    """A dataset, row or image that cannot be read."""


class CheckpointError(FxrayError, ValueError):
    """A checkpoint that is damaged, or belongs to another model or run."""


class ModelError(FxrayError, ValueError):
    """A base model or processor that fxray cannot drive."""


class SyncError(FxrayError, RuntimeError):
    """A rollout worker that does not sample from the adapter that the learner published."""


class DeadlineError(FxrayError, TimeoutError):
    """A wait that ran past its deadline; the message names what was waited for."""


class WorkerDiedError(FxrayError, RuntimeError):
    """An actor that died more often than the failure budget allows."""


class LearnerLostError(WorkerDiedError):
    """A rank of the learner that died or hangs. Started again, the learner goes on from its last checkpoint."""


class HeadLostError(FxrayError, ConnectionError):
    """A cluster whose head does not answer any more; Ray ends all its processes soon after."""


class ResourceError(FxrayError, OSError):
    """A machine that has too little of something: disk, shared memory, ports, processors."""
