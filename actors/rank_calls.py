"""Waiting for the learner's ranks: one answer of each in time, or who is lost and why."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from actors.failures import LOSSES, forget_frames
from actors.health import Health
from fxray import spans
from fxray.errors import DeadlineError, FxrayError, LearnerLostError
from fxray.ray_words import words_of
from fxray.spans import Span
from fxray.waiting import waiting_for

LOOK_EVERY_S = 1.0


@contextmanager
def own_faults(what: str) -> Iterator[None]:
    """Has a rank that raises what is no refusal started again: one that cannot use its GPU any more, for one."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, FxrayError):
            raise
        forget_frames(error)
        reason = f"{type(error.cause).__name__}: {str(error.cause).strip()[:300]}"
        raise LearnerLostError(f"a rank failed: {reason}", where=f"waiting for {what}") from error


def record_phases(span: Span, result: object) -> None:
    """Draws the phases of an update inside its span, one after another with their summed lengths: they alternate."""
    sums = result if isinstance(result, dict) else {}
    since_s, end_s = span.start_s, span.end_s or span.start_s
    for name, seconds in sums.items():
        if name.startswith("seconds/"):
            until_s = min(since_s + seconds, end_s)
            spans.record(span.track, name.removeprefix("seconds/"), since_s, until_s, is_part=True)
            since_s = until_s


def await_ranks(
    calls: Sequence[Any], deadline_s: float, what: str, name: str = "", health: Health | None = None
) -> list[Any]:
    """Results of calls, one per rank, in their order, each fetched once; the first failure ends the wait.

    Args:
        calls: What the ranks were asked.
        deadline_s: For all of them.
        what: Is waited for.
        name: Of the spans; by default the same, shorter.
        health: Asks the ranks for signs of life meanwhile; None where they may be silent.

    Raises:
        DeadlineError: They are not all there in time.
        LearnerLostError: An actor died, or does not say that it lives.
    """
    end = time.monotonic() + deadline_s
    pending, results = list(calls), {}
    name = name or what.removeprefix("the learner's ")
    begun = {call: spans.begin(f"learner-{rank}", name, f"{what} (rank {rank})") for rank, call in enumerate(calls)}
    try:
        while pending:
            left_s = end - time.monotonic()
            with waiting_for(begun[call] for call in pending):
                ready, pending = ray.wait(pending, timeout=max(0.0, min(left_s, LOOK_EVERY_S)))
            for call in ready:
                begun[call].end()
                results[call] = ray.get(call, timeout=max(1.0, left_s))
                record_phases(begun[call], results[call])
            if ready:
                continue
            if health is not None and (hung := health.find_hung()):
                raise LearnerLostError(
                    f"{hung} has not said for {health.deadline_s:g} s that it lives (learner.hang_deadline_s)",
                    where=f"waiting for {what}",
                )
            if left_s <= 0:
                raise DeadlineError(
                    f"no answer within {deadline_s:.0f} s",
                    where=f"waiting for {what}",
                    remedy="look at the Ray logs, or raise learner.step_deadline_s",
                )
        return [results[call] for call in calls]
    except RayTaskError as error:
        if isinstance(error.cause, FxrayError):
            raise error.cause from None
        raise
    except LOSSES as error:
        forget_frames(error)
        raise LearnerLostError(f"a learner rank died: {words_of(error)}", where=f"waiting for {what}") from error
    except GetTimeoutError as error:
        raise DeadlineError(f"no answer within {deadline_s:.0f} s", where=f"waiting for {what}") from error
    finally:
        for span in begun.values():
            span.end(failed="no answer")
