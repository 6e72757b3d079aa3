"""What rollout workers are busy with, and until when."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from actors.crew import Worker
from actors.rollout_worker import Draw
from fxray.errors import DeadlineError, FxrayError
from fxray.grpo.types import PolicyBlob, PromptGroup, SamplingSettings
from fxray.spans import Span

START, LOAD, DRAW, REST = "start", "load adapter", "draw", "rest"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a pool waits.

    Attributes:
        start_s: For an engine to come up, from when it has a node.
        step_s: For an engine to draw a lease, or to load a policy, from when it was asked.
        hang_s: For a worker that is up to answer a health question.
    """

    start_s: float
    step_s: float
    hang_s: float


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """What one call of `generate` did.

    Attributes:
        seconds: From the first lease to the last draw.
        num_tokens: Sampled tokens.
        num_leases: Requests to workers; more than needed where workers were lost.
        image_bytes: Encoded images that the leases refer to, each moved once.
        answer_bytes: What came back.
    """

    seconds: float
    num_tokens: int
    num_leases: int
    image_bytes: int
    answer_bytes: int

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Batch:
    """One call of `generate`: what waits, what is there, until when something new is."""

    prompts: Sequence[PromptGroup]
    sampling: SamplingSettings
    waiting: deque[int]
    deadline_s: float
    draws: dict[int, Draw] = field(default_factory=dict)
    num_leases: int = 0
    image_bytes: int = 0

    def collect(self, errand: "Errand", draws: Sequence[Draw]) -> None:
        """Takes what a worker drew of its lease."""
        for index, draw in zip(errand.lease, draws, strict=True):
            if draw.group_id != self.prompts[index].group_id or index in self.draws:
                raise FxrayError(f"drew {draw.group_id} out of turn", where=errand.worker.name)
            self.draws[index] = draw

    def facts(self, seconds: float) -> RolloutFacts:
        """What it came to, in so many seconds."""
        num_tokens = sum(len(draw.token_ids) for draw in self.draws.values())
        answer_bytes = sum(draw.num_bytes for draw in self.draws.values())
        return RolloutFacts(seconds, num_tokens, self.num_leases, self.image_bytes, answer_bytes)


@dataclass(frozen=True, slots=True)
class Errand:
    """What a worker is busy with, and until when; the groups `lease` of `batch` if it draws."""

    worker: Worker
    kind: str
    span: Span
    deadline_s: float
    policy: PolicyBlob | None = None
    batch: Batch | None = None
    lease: tuple[int, ...] = ()

    @property
    def what(self) -> str:
        """In words."""
        return self.span.what


def end_s(errand: Errand, start_deadline_s: float, short_since_s: float | None) -> float:
    """When an errand is late. A worker without a node never is while others are up; a node may end sooner.

    Args:
        errand: It.
        start_deadline_s: For an engine to come up.
        short_since_s: Since when fewer workers are up than a step takes, and none that has a node is on its way; None
            where enough are, or one is.
    """
    worker, errand_end_s = errand.worker, errand.deadline_s
    if errand.kind == START and worker.placed_s is not None:
        errand_end_s = worker.placed_s + start_deadline_s
    elif errand.kind == START:
        is_needed = short_since_s is not None
        errand_end_s = max(short_since_s or 0.0, worker.hired_s) + start_deadline_s if is_needed else math.inf
    return errand_end_s if worker.leaves_s is None else min(errand_end_s, worker.leaves_s)


def may_start(errands: Iterable[Errand]) -> bool:
    """Whether an engine is on its way up; one that waits for a node may do so for ever."""
    return any(errand.kind == START and not errand.worker.has_no_node for errand in errands)


def is_starting(errands: Iterable[Errand]) -> bool:
    """Whether an engine that has a node is on its way up."""
    return any(errand.kind == START and errand.worker.placed_s is not None for errand in errands)


def ends_run(late: Errand, errands: Iterable[Errand], *, is_short: bool) -> bool:
    """Whether nothing can go on without a worker that is late.

    Args:
        late: What it is busy with.
        errands: All that there are.
        is_short: Without it fewer workers are up than a step takes: only a start may then be late, while one goes on of
            a worker that was hired before this one had its node. Its successors do not count, or the wait had no end.
    """
    since_s = late.worker.placed_s or -math.inf
    is_spared = late.kind == START and is_starting(
        each for each in errands if each is not late and each.worker.hired_s <= since_s
    )
    return late.kind == REST or (is_short and not is_spared)


def kept_from_rest(errands: Iterable[Errand], *, is_short: bool) -> str:
    """What a pool waits for before it rests, in words.

    Args:
        errands: All that its workers are busy with.
        is_short: Fewer workers are up than a step takes; else those without a node are waited for by nobody.
    """
    return ", ".join(errand.what for errand in errands if is_short or not errand.worker.has_no_node)


def late_error(what: str, *, is_placed: bool = True, kind: str = DRAW) -> DeadlineError:
    """Says what was waited for, and what can be done about it."""
    remedies = {
        START: "raise rollout.start_deadline_s" if is_placed else "see `ray status`: no node has room for it",
        REST: "set rollout.sleep=false",
    }
    return DeadlineError(
        f"no answer in time from the rollout workers: waited for {what}",
        where="rollout pool",
        remedy="see the workers' logs in Ray's session folder, or "
        + remedies.get(kind, "raise rollout.step_deadline_s"),
    )


def missing_groups(batch: Batch) -> str:
    """The groups that are not there yet, in words."""
    missing = [group.group_id for index, group in enumerate(batch.prompts) if index not in batch.draws]
    return ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
