"""Draws and scores the answers of the steps to come, on-policy or a stated number of versions behind.

    step t is drawn from the policy of step max(0, t - k),  k = max_staleness

    k = 0   sample 0 | learn 0 | sample 1 | learn 1 | ...
    k = 1   sample 0 | sample 1 | sample 2 | ...          sampling runs in a thread of its own,
                     | learn 0  | learn 1  | ...          in the order of the steps

The lag is fixed: which policy a step is drawn from depends on the step alone, never on who was faster. So no group can
be older than the bound, none is thrown away, and a run with overlap is as reproducible and as resumable as one without.
Prompts depend on the step alone, so a thread reads those of the next step while the generator is busy with this one.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from fxray.errors import CheckpointError, DataError, SyncError
from fxray.grpo.ports import Generator, Publisher, Scorer
from fxray.grpo.types import GroupScore, PolicyBlob, PromptGroup, RolloutGroup, SamplingSettings, Validation
from rewards.stage import StageRewards

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sampled:
    """The scored answers of a step.

    Attributes:
        rollouts: One group per prompt.
        scores: One score per group.
        version: Policy version that all of them were drawn from.
        seconds: Of "draw" (waiting for prompts and images), "publish", "generate", "score", and "idle": how long
            sampling had nothing to do before this step, because it waited for a policy.
    """

    rollouts: Sequence[RolloutGroup]
    scores: Sequence[GroupScore]
    version: int
    seconds: dict[str, float]


class Sampler:
    """Samples the steps of one stage in order, ahead of the learner as far as it may.

    A context manager: leaving it waits for the step that is being drawn and forgets the rest, so that nobody else finds
    the generator busy; only an interrupt from the keyboard does not wait.

    Args:
        generator: Draws answers; used by one thread at a time.
        scorer: Scores them, likewise.
        publisher: Brings a policy to the generator, likewise.
        draw: Prompts of a step, a function of the step alone; used by one thread at a time.
        stage: Name and reward weights.
        sampling: How answers are drawn.
        num_steps: T, steps of the stage.
        start_version: Policy version at step 0 of the stage.
        max_staleness: k, versions that a step's policy may be behind.
    """

    def __init__(
        self,
        generator: Generator,
        scorer: Scorer,
        publisher: Publisher,
        draw: Callable[[int], Sequence[PromptGroup]],
        *,
        stage: StageRewards,
        sampling: SamplingSettings,
        num_steps: int,
        start_version: int,
        max_staleness: int,
    ) -> None:
        self._generator, self._scorer, self._publisher, self._draw = generator, scorer, publisher, draw
        self._stage, self._sampling, self._num_steps = stage, sampling, num_steps
        self._start_version, self._max_staleness = start_version, max_staleness
        self._policies: dict[int, PolicyBlob] = {}
        self._published: int | None = None
        self._next_step: int | None = None
        self._tasks: deque[Callable[[], Sampled]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampling") if max_staleness else None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._prompts: dict[int, Future[Sequence[PromptGroup]]] = {}
        self._idle_since_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_interrupted = error is not None and not isinstance(error, Exception)
        if self._thread is not None:
            self._thread.shutdown(wait=not is_interrupted, cancel_futures=True)
        self._reader.shutdown(wait=not is_interrupted, cancel_futures=True)

    def offer(self, policy: PolicyBlob) -> None:
        """Makes a policy known; it is published when a step wants it."""
        self._policies[policy.version] = policy

    def past(self, step: int) -> list[PolicyBlob]:
        """The policies before that of `step` which the steps from `step` on are still drawn from, oldest first."""
        present = self._start_version + step
        return [self._policies[version] for version in range(self._version_of(step), present)]

    def take(self, step: int) -> Sampled:
        """The answers of a step; begins to draw those up to `max_staleness` steps later.

        Raises:
            DataError: A step without a single readable image.
            CheckpointError: A policy that the step is drawn from was never offered.
            SyncError: A group was drawn from another policy than the step's.
            FxrayError: What the ports say.
        """
        first = step if self._next_step is None else self._next_step
        last = min(step + self._max_staleness, self._num_steps - 1)
        for coming in range(first, last + 1):
            self._tasks.append(self._begin(partial(self._sample, coming, self._policy_of(coming))))
        self._next_step = last + 1
        self._forget_before(self._version_of(step))
        return self._tasks.popleft()()

    def draw_with(self, version: int, step: int) -> Callable[[], Sequence[RolloutGroup]]:
        """Begins to draw the first group of a step from an offered policy, for a probe; call the result to have it."""
        return self._begin(partial(self._draw_one, step, self._policies[version]))

    def validate(self, version: int, step: int, validation: Validation) -> Sampled:
        """The scored answers of an offered policy to held-out images; none where none of them can be read.

        Args:
            version: Of the policy.
            step: Whose rewards, where they move within the stage.
            validation: The images.

        Raises:
            SyncError: A group was drawn from another policy.
            FxrayError: What the ports say.
        """
        return self._begin(partial(self._validate, self._policies[version], step, validation))()

    def _version_of(self, step: int) -> int:
        return self._start_version + max(0, step - self._max_staleness)

    def _policy_of(self, step: int) -> PolicyBlob:
        version = self._version_of(step)
        if version not in self._policies:
            raise CheckpointError(
                f"policy version {version}, which step {step} is drawn from, is not in the checkpoint",
                where=f"stage {self._stage.name}",
                remedy="delete the newest checkpoint of the stage to go on from the one before it",
            )
        return self._policies[version]

    def _forget_before(self, version: int) -> None:
        for old in [each for each in self._policies if each < version]:
            del self._policies[old]

    def _begin(self, task: Callable[[], T]) -> Callable[[], T]:
        return task if self._thread is None else self._thread.submit(task).result

    def _publish(self, policy: PolicyBlob) -> None:
        if self._published != policy.version:
            self._publisher.publish(policy)
            self._published = policy.version

    def _sample(self, step: int, policy: PolicyBlob) -> Sampled:
        marks_s = [self._idle_since_s, time.monotonic()]
        for past in [each for each in self._prompts if each < step - self._max_staleness]:
            del self._prompts[past]
        prompts = self._read(step)
        if step + 1 < self._num_steps:
            self._begin_to_read(step + 1)
        marks_s.append(time.monotonic())
        self._publish(policy)
        marks_s.append(time.monotonic())
        rollouts = self._generate(prompts, self._sampling, policy)
        marks_s.append(time.monotonic())
        scores = self._scorer.score(rollouts, self._stage, step / self._num_steps)
        marks_s.append(time.monotonic())
        self._idle_since_s = marks_s[-1]
        names = ("idle", "draw", "publish", "generate", "score")
        seconds = {name: end_s - start_s for name, start_s, end_s in zip(names, marks_s[:-1], marks_s[1:], strict=True)}
        return Sampled(rollouts, scores, policy.version, seconds)

    def _validate(self, policy: PolicyBlob, step: int, validation: Validation) -> Sampled:
        start_s = time.monotonic()
        rollouts, scores = list[RolloutGroup](), list[GroupScore]()
        self._publish(policy)
        for prompts in validation.batches():
            drawn = self._generate(prompts, validation.sampling, policy)
            scores += self._scorer.score(drawn, self._stage, step / self._num_steps) if drawn else []
            rollouts += drawn
        seconds = time.monotonic() - start_s
        self._idle_since_s += seconds  # sampling was not idle meanwhile
        return Sampled(rollouts, scores, policy.version, {"validation": seconds})

    def _generate(
        self, prompts: Sequence[PromptGroup], sampling: SamplingSettings, policy: PolicyBlob
    ) -> list[RolloutGroup]:
        rollouts = self._generator.generate(prompts, sampling)
        for group in rollouts:
            if group.policy_version != policy.version:
                raise SyncError(
                    f"was drawn from policy version {group.policy_version}, expected {policy.version}",
                    where=f"group {group.prompt.group_id}",
                )
        return rollouts

    def _draw_one(self, step: int, policy: PolicyBlob) -> Sequence[RolloutGroup]:
        self._publish(policy)
        return self._generator.generate(self._read(step)[:1], self._sampling)

    def _begin_to_read(self, step: int) -> Future[Sequence[PromptGroup]]:
        """Once for each step: a probe draws with prompts that its step, the present one, has or will have."""
        if step not in self._prompts:
            self._prompts[step] = self._reader.submit(self._draw, step)
        return self._prompts[step]

    def _read(self, step: int) -> Sequence[PromptGroup]:
        prompts = self._begin_to_read(step).result()
        if not prompts:
            raise DataError(
                "no image of this step can be read, nor of those after it",
                where=f"stage {self._stage.name}, step {step}",
                remedy="see whether the disk of the images is there; the same command goes on from the last checkpoint",
            )
        return prompts
