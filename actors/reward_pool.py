"""Scores answers in actors that may hang or die: a group that cannot be scored is masked and counted, never waited for.

    groups ─► a share for each idle worker ─► texts, truth, frame ─► GroupScore
                    │ deadline passed: worker killed and replaced, group masked
                    │ worker died: replaced, group given to another worker once, then masked
                    │ its node was taken away: replaced, group given to another worker, not counted

A share is as many groups as take `SHARE_S`, by the pace of the last one, so that quick rewards cost few requests and
slow ones are spread over all workers. It has the deadline of one group, ten times as long or more. Whichever of several
was to blame is found by scoring each of them alone, so none is masked unless a worker hung, or died, over it alone. A
death counts against all of its share, though: a group that kills is masked at the second worker, not at the third.
After a share that was late there is no other in the step, and none ever again once a group was late alone.

Only a user's own reward function can hang or die; the built-in rewards are total. No pixels come here.
"""

import math
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayActorError, RayTaskError

from actors.failures import LOSSES, FailureBudget, dead_node, forget_frames
from actors.placement import node_share
from fxray import spans
from fxray.capacity.leases import SHARE_S, share_size
from fxray.counts import counted
from fxray.data.frame import Frame
from fxray.errors import DeadlineError, FxrayError
from fxray.events import Note, OnEvent, ignore
from fxray.grpo.types import GroupScore, RolloutGroup
from fxray.ray_words import words_of
from fxray.schema import Annotation
from fxray.spans import Span
from fxray.waiting import waiting_for
from rewards.custom import load_reward
from rewards.score import Score, score
from rewards.stage import StageRewards, weights_at

MAX_REASONS = 100
"""Distinct reasons that are kept; a message may hold the answer itself."""
MAX_MASKED_STEPS = 3
"""Steps in a row without a single answer that could be scored: nothing is learnt, and it will hardly get better."""
BUILT_IN_PARTS = ("label", "iou", "format")
FACTS = ("is_strict", "is_right", "num_boxes", "union_iou")
MAX_TRIES = 2
WORKER_DIED = "the worker that scored it died"
NODE_TAKEN = "the node that scored it was taken away"


@dataclass(slots=True)
class RewardCounters:
    """What went wrong since the pool began.

    Attributes:
        timeouts: Groups masked because their scoring ran past the deadline.
        deaths: Workers that died by themselves.
        failures: Answers masked, for whatever reason.
        reasons: How many answers each reason masked; the last ones are counted together.
    """

    timeouts: int = 0
    deaths: int = 0
    failures: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a reward worker is told of a group.

    Attributes:
        group_id: The group.
        texts: G answers.
        annotation: The truth, boxes in original pixels.
        frame: Frames of the image.
    """

    group_id: str
    texts: tuple[str, ...]
    annotation: Annotation
    frame: Frame

    @classmethod
    def of(cls, group: RolloutGroup) -> "Answers":
        prompt = group.prompt
        texts = tuple(rollout.text for rollout in group.rollouts)
        return cls(prompt.group_id, texts, prompt.annotation, prompt.frame)


@dataclass(frozen=True, slots=True)
class Scored:
    """What a reward worker says of a share.

    Attributes:
        scores: One for each group; answers whose scoring raised are masked.
        reasons: Why each of these was masked.
        seconds: That scoring took.
    """

    scores: list[GroupScore]
    reasons: list[str]
    seconds: float


class RewardWorker:
    """Scores one share at a time."""

    def load(self, function_paths: Sequence[str]) -> None:
        """Imports the user's reward functions.

        Raises:
            ConfigError: One of them cannot be imported or called.
        """
        for path in function_paths:
            load_reward(path)

    def score(self, share: Sequence[Answers], stage: StageRewards) -> Scored:
        """Scores the answers of some groups with the weights in force."""
        start_s, reasons, group_scores = time.monotonic(), list[str](), []
        for answers in share:
            scores: list[Score | None] = []
            for text in answers.texts:
                try:
                    scores.append(score(text, answers.annotation, answers.frame, stage))
                except (Exception, SystemExit) as error:  # noqa: BLE001  a user's function may raise anything
                    scores.append(None)
                    reasons.append(_reason(error))
            group_scores.append(_group_score(answers.group_id, scores, stage))
        return Scored(group_scores, reasons, time.monotonic() - start_s)


RewardActor = ray.remote(RewardWorker)


@dataclass(frozen=True, slots=True)
class _Lease:
    """A worker that is loading (no groups) or scoring, and until when it may take.

    A load that `is_retry` follows one that was late: a run does not go on for its sake, or the wait had no end.
    """

    worker: Any
    groups: tuple[int, ...]
    deadline_s: float
    span: Span
    is_retry: bool = False


class RewardPool:
    """The `Scorer` of the GRPO loop over Ray.

    Args:
        num_workers: Actors that score.
        function_paths: Import paths of the user's reward functions, loaded when a worker starts.
        group_deadline_s: Longest time that the scoring of a share, and so of a group, may take.
        failures: How often workers may die. One that is killed at a deadline is replaced without being counted here.
        start_deadline_s: Longest time that a worker may take to come up. Scoring begins with the first; one that is
            late, or has no node yet, is asked for again while others score or are on their way for the first time.
        on_event: Told why answers are masked, once for each place where that happens.

    Raises:
        ConfigError: A reward function cannot be imported.
    """

    def __init__(
        self,
        *,
        num_workers: int,
        function_paths: Sequence[str],
        group_deadline_s: float,
        failures: FailureBudget,
        start_deadline_s: float,
        node_type: str = "",
        on_event: OnEvent = ignore,
    ) -> None:
        self._on_event = on_event
        self._places: set[tuple[str, str]] = set()
        self._num_masked_steps, self._reasons_of_late = 0, Counter[str]()
        self._function_paths = tuple(function_paths)
        self._group_deadline_s = group_deadline_s
        self._failures = failures
        self._start_deadline_s = start_deadline_s
        self._node_share = node_share(node_type)
        self._num_workers = num_workers
        self._longest_share_s = self._share_s = min(SHARE_S, group_deadline_s / 10)
        self._group_s = math.inf
        self._idle: list[Any] = []
        self._leases: dict[ray.ObjectRef, _Lease] = {}
        self.counters = RewardCounters()
        for _ in range(num_workers):
            self._start_worker()
        while not self._idle:
            self._settle()

    def score(self, groups: Sequence[RolloutGroup], stage: StageRewards, progress_frac: float) -> list[GroupScore]:
        """Returns one score per group, in order; what could not be scored is masked.

        Args:
            groups: Answers with their prompts.
            stage: Reward weights of the stage.
            progress_frac: t / T within the stage, for weights that move.

        Raises:
            WorkerDiedError: Workers died more often than the budget allows.
            DeadlineError: A worker does not come up.
            FxrayError: Nothing could be scored in several steps in a row.
        """
        present = weights_at(stage, progress_frac)
        waiting, alone = deque(range(len(groups))), set[int]()
        deaths: Counter[int] = Counter()
        scores: dict[int, GroupScore] = {}
        while len(scores) < len(groups):
            while self._idle and waiting:
                share = self._take_share(waiting, alone)
                self._submit(self._idle.pop(), share, [Answers.of(groups[index]) for index in share], present)
            for share, outcome in self._settle():
                if isinstance(outcome, Scored):
                    scores |= zip(share, outcome.scores, strict=True)
                    continue
                deaths.update(share if outcome == WORKER_DIED else ())
                is_unlucky = outcome == NODE_TAKEN or (outcome == WORKER_DIED and deaths[share[0]] < MAX_TRIES)
                if is_unlucky or len(share) > 1:
                    waiting.extend(share)
                    alone.update(share)
                else:
                    scores[share[0]] = self._mask(groups[share[0]], outcome, present)
        if not self.counters.timeouts:  # a share was late, but none of its groups was: it was the machine
            self._share_s = self._longest_share_s
        self._refuse_to_learn_nothing(scores.values())
        return [scores[index] for index in range(len(groups))]

    def close(self) -> None:
        """Ends the workers."""
        for worker in [*self._idle, *(lease.worker for lease in self._leases.values())]:
            ray.kill(worker)
        self._idle.clear()
        self._leases.clear()

    def _start_worker(self, *, is_retry: bool = False) -> None:
        worker = RewardActor.options(num_cpus=0, resources=self._node_share).remote()
        deadline_s = time.monotonic() + self._start_deadline_s
        self._leases[worker.load.remote(self._function_paths)] = _Lease(
            worker, (), deadline_s, spans.begin_on_lane("reward", "start", "a reward worker to start"), is_retry
        )

    def _take_share(self, waiting: deque[int], alone: Container[int]) -> tuple[int, ...]:
        """Takes what the next worker shall score; what is to be scored alone stays alone."""
        most = share_size(len(waiting), self._num_workers, self._group_s, self._share_s)
        share = [waiting.popleft()]
        while len(share) < most and waiting and not (share[0] in alone or waiting[0] in alone):
            share.append(waiting.popleft())
        return tuple(share)

    def _submit(self, worker: Any, share: tuple[int, ...], answers: Sequence[Answers], stage: StageRewards) -> None:
        others = f" and {len(share) - 1} more" if len(share) > 1 else ""
        span = spans.begin_on_lane("reward", "score", f"the reward of group {answers[0].group_id}{others}")
        reference = worker.score.remote(answers, stage)
        self._leases[reference] = _Lease(worker, share, time.monotonic() + self._group_deadline_s, span)

    def _settle(self) -> list[tuple[tuple[int, ...], Scored | str]]:
        """Waits for a lease to end or to run past its deadline; gives the scores of shares, or why there are none."""
        patience_s = max(0.0, min(lease.deadline_s for lease in self._leases.values()) - time.monotonic())
        with waiting_for(lease.span for lease in self._leases.values()):
            ready, _ = ray.wait(list(self._leases), num_returns=1, timeout=patience_s)
        if ready:
            outcomes = [self._collect(reference, self._leases.pop(reference)) for reference in ready]
        else:
            now_s = time.monotonic()
            late = [reference for reference, lease in self._leases.items() if lease.deadline_s <= now_s]
            outcomes = [self._give_up(self._leases.pop(reference)) for reference in late]
        return [(share, outcome) for share, outcome in outcomes if share]

    def _collect(self, reference: ray.ObjectRef, lease: _Lease) -> tuple[tuple[int, ...], Scored | str]:
        lease.span.end()
        try:
            result = ray.get(reference, timeout=self._group_deadline_s)
        except LOSSES as error:
            forget_frames(error)
            ray.kill(lease.worker)  # one whose answer alone is lost may live
            is_taken = isinstance(error, RayActorError) and error.preempted
            if not is_taken:
                self.counters.deaths += 1
                self._failures.record(time.monotonic(), f"a worker died: {words_of(error)}", node=dead_node(error))
            self._start_worker()
            return lease.groups, NODE_TAKEN if is_taken else WORKER_DIED
        except RayTaskError as error:
            if not lease.groups:
                raise _cause(error) from error
            self._idle.append(lease.worker)
            return lease.groups, f"scoring raised {_cause(error)}"
        self._idle.append(lease.worker)
        if lease.groups:
            self._group_s = result.seconds / len(lease.groups)
            self._count(result.reasons)
        return lease.groups, result

    def _give_up(self, lease: _Lease) -> tuple[tuple[int, ...], str]:
        """Kills a worker that is late and starts another."""
        lease.span.end(failed="killed at its deadline")
        ray.kill(lease.worker)
        is_last = not self._idle and all(other.is_retry for other in self._leases.values())
        if not lease.groups and is_last:
            raise DeadlineError(
                f"a reward worker did not come up within {self._start_deadline_s:g} s",
                where="reward pool",
                remedy="see whether importing the reward functions hangs, and whether the cluster has free processors",
            )
        self._start_worker(is_retry=not lease.groups)
        if len(lease.groups) > 1:
            self._share_s = 0.0  # what hung once may hang again, and then shares only delay the finding
        self.counters.timeouts += len(lease.groups) == 1
        return lease.groups, f"scoring took more than {self._group_deadline_s:g} s"

    def _mask(self, group: RolloutGroup, reason: str, stage: StageRewards) -> GroupScore:
        num_answers = len(group.rollouts)
        self._count([reason] * num_answers)
        return _group_score(group.prompt.group_id, [None] * num_answers, stage)

    def _count(self, reasons: Sequence[str]) -> None:
        self.counters.failures += len(reasons)
        self._reasons_of_late.update(reasons)
        for reason in reasons:
            known, place = self.counters.reasons, (reason.partition(":")[0], reason.rpartition("(")[2])
            known[reason if reason in known or len(known) < MAX_REASONS else "other reasons"] += 1
            if place not in self._places and len(self._places) < MAX_REASONS:
                self._places.add(place)
                self._on_event(Note(f"an answer is left out of learning, and so are others like it: {reason}", True))

    def _refuse_to_learn_nothing(self, scores: Iterable[GroupScore]) -> None:
        if any(score.is_valid_G.any() for score in scores):
            self._num_masked_steps, self._reasons_of_late = 0, Counter()
            return
        self._num_masked_steps += 1
        if self._num_masked_steps >= MAX_MASKED_STEPS:
            reason, _ = self._reasons_of_late.most_common(1)[0]
            raise FxrayError(
                f"no answer of {counted(self._num_masked_steps, 'step')} in a row could be scored, most often since "
                f"{reason}",
                where="reward pool",
                remedy="mend the function of reward.functions, or raise reward.group_deadline_s; the run goes on from "
                "its last checkpoint",
            )


def _group_score(group_id: str, scores: Sequence[Score | None], stage: StageRewards) -> GroupScore:
    """Puts the scores of a group's answers together; None is an answer that is masked."""

    def column(value: Callable[[Score], float]) -> NDArray[np.float64]:
        return np.array([0.0 if score is None else value(score) for score in scores], dtype=np.float64)

    def of_path(path: str) -> Callable[[Score], float]:
        return lambda score: score.custom[path]

    parts = {part: column(attrgetter(part)) for part in BUILT_IN_PARTS}
    parts |= {reward.path: column(of_path(reward.path)) for reward in stage.custom}
    return GroupScore(
        group_id=group_id,
        rewards_G=column(attrgetter("total")),
        parts=parts,
        is_valid_G=np.array([score is not None for score in scores], dtype=np.bool_),
        facts={fact: column(attrgetter(fact)) for fact in FACTS},
    )


def _reason(error: BaseException) -> str:
    """One line: what was raised, and by which line of whose file."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = str(error).partition("\n")[0][:200]
    return f"{type(error).__name__}: {message} ({Path(frame.filename).name}:{frame.lineno})"


def _cause(error: RayTaskError) -> Exception:
    return error.cause if isinstance(error.cause, FxrayError) else error
