"""How many rollout workers pay: a rule on measured steps, with no clock and no Ray.

    steps of the present size ─► medians ─► what more workers save, what fewer cost ─► another size, or the same

Generation takes as long as its busiest worker, so n workers take share(n) / share(present) of the time measured now,
where share(n) is the number of groups that the busiest of n draws. A step is only shorter by what the learner really
waited for, and only longer by what the rollout workers do not sit idle for anyway:

    saved(n)  = min(learner waited, generation x (1 - share(n) / share(present)))
    lost(n)   = max(0, generation x (share(n) / share(present) - 1) - rollout waited)

- It grows to the n whose every further worker saves less than GROWTH_PAYS of the step, at most doubling at a time.
- It shrinks by as many workers as cost together at most SHRINKING_COSTS of the step.
- What was gained by growing is far more than what shrinking may cost, so it does not swing. A growth that saved less
  than a third of what was promised (processors are short, or answers differ much in length) is taken back, and the pool
  never grows so far again.
- It decides every `every_steps` steps of the present size, and not before they took as long as a worker takes to start.

On-policy (grpo.max_staleness 0) engines and learner take turns: the learner waits for all of generation, and a slower
one is hidden by nothing, so "rollout waited" is 0 there, and the rule weighs generation's share of the step.
"""

import math
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from fxray.capacity.leases import lease_size

GROWTH_PAYS = 0.08
"""Part of a step that each further worker must save."""
SHRINKING_COSTS = 0.02
"""Part of a step that fewer workers may cost."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Where the time of one step went.

    Attributes:
        step_s: All of it.
        generate_s: Drawing its answers.
        learner_waited_s: The learner had nothing to learn from.
        rollout_waited_s: The rollout workers had no policy to draw from, while the learner learnt; 0 on-policy.
    """

    step_s: float
    generate_s: float
    learner_waited_s: float
    rollout_waited_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Between which sizes, and how often it may change.

    Attributes:
        min_workers: Fewest.
        max_workers: Most.
        every_steps: Steps between two changes.
    """

    min_workers: int
    max_workers: int
    every_steps: int


@dataclass(frozen=True, slots=True)
class Growth:
    """The last growth, which is still to be judged.

    Attributes:
        from_workers: Size before.
        generate_s: Seconds of generation before.
        promised_s: What it was to save.
    """

    from_workers: int
    generate_s: float
    promised_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """A size, and why.

    Attributes:
        num_workers: From now on.
        reason: In words; empty where nothing changes.
        growth: What the next decision judges, if this one grew.
        is_too_many: This size turned out not to pay: never grow to it again.
    """

    num_workers: int
    reason: str = ""
    growth: Growth | None = None
    is_too_many: bool = False


def busiest_share(num_groups: int, num_workers: int, fills_engine: int) -> int:
    """Groups that the busiest of so many workers draws; it stops falling where leases are fewer than workers."""
    size = lease_size(num_groups, num_workers, fills_engine)
    rounds = math.ceil(math.ceil(num_groups / size) / num_workers)
    return min(num_groups, rounds * size)


def decide(
    num_workers: int,
    steps: Sequence[StepTimes],
    limits: Limits,
    *,
    num_groups: int,
    fills_engine: int,
    growth: Growth | None = None,
) -> Decision:
    """Chooses the next size.

    Args:
        num_workers: Present size; all of these are up.
        steps: What was measured with this size, and no other.
        limits: Bounds.
        num_groups: Groups of a step.
        fills_engine: Groups that one engine decodes at once.
        growth: What the last change promised, if it was a growth.
    """
    step_s, generate_s, waited_s, idle_s = (
        median(getattr(step, name) for step in steps)
        for name in ("step_s", "generate_s", "learner_waited_s", "rollout_waited_s")
    )
    if growth is not None and growth.generate_s - generate_s < growth.promised_s / 3:
        return Decision(
            growth.from_workers,
            f"{num_workers} drew in {generate_s:.2f} s what {growth.from_workers} drew in {growth.generate_s:.2f} s",
            is_too_many=True,
        )
    present = busiest_share(num_groups, num_workers, fills_engine)

    def added_s(num: int) -> float:
        return generate_s * (busiest_share(num_groups, num, fills_engine) / present - 1)

    best, saved_s = num_workers, 0.0
    for num in range(num_workers + 1, min(limits.max_workers, 2 * num_workers) + 1):
        would_save_s = min(waited_s, -added_s(num))
        if would_save_s - saved_s >= GROWTH_PAYS * (step_s - saved_s) * (num - best):
            best, saved_s = num, would_save_s
    if best > num_workers:
        return Decision(
            best,
            f"the learner waited {waited_s:.2f} s of a step of {step_s:.2f} s, and {best} would save {saved_s:.2f} s",
            Growth(num_workers, generate_s, -added_s(best)),
        )
    while best > limits.min_workers and max(0.0, added_s(best - 1) - idle_s) <= SHRINKING_COSTS * step_s:
        best -= 1
    if best < num_workers:
        return Decision(
            best,
            f"each step of {step_s:.2f} s left rollout idle for {idle_s:.2f} s, and drawing with {best} takes "
            f"{added_s(best):.2f} s more",
        )
    return Decision(num_workers)


class Scaler:
    """Remembers what was measured with the present size, and changes it now and then.

    Any thread may call it.

    Args:
        num_workers: Size to begin with.
        limits: Bounds; None where the size stays.
        lag_steps: Steps between the first that a changed pool draws and the first that is observed with its times.
    """

    def __init__(self, num_workers: int, limits: Limits | None, *, lag_steps: int = 1) -> None:
        self.num_workers = num_workers
        self.limits = limits
        self._lag_steps = lag_steps
        self._lock = threading.Lock()
        self._num_skipped = 0
        self._steps: deque[StepTimes] = deque()
        self._num_groups = 1
        self._start_s = 0.0
        self._growth: Growth | None = None

    def observe(self, step: StepTimes, num_groups: int) -> None:
        """Takes in what a step of so many groups measured; of a size that stays, nothing."""
        with self._lock:
            if self.limits is None:
                return
            if self._num_skipped < self._lag_steps:
                self._num_skipped += 1
                return
            self._num_groups = num_groups
            self._steps.append(step)

    def note_start(self, seconds: float) -> None:
        """Takes in how long a worker took to start, from when it had a node."""
        self._start_s = max(self._start_s, seconds)

    def choose(self, num_up: int, fills_engine: int) -> Decision:
        """The size from now on; `reason` says whether and why it is another.

        Args:
            num_up: Workers that are up. While they are not as many as they shall be, what is measured says nothing.
            fills_engine: Groups that one engine decodes at once.
        """
        with self._lock:
            if self.limits is None or not self._is_ripe(num_up, self.limits.every_steps):
                return Decision(self.num_workers)
            decision = decide(
                self.num_workers,
                list(self._steps),
                self.limits,
                num_groups=self._num_groups,
                fills_engine=fills_engine,
                growth=self._growth,
            )
            if decision.is_too_many:
                self.limits = replace(self.limits, max_workers=decision.num_workers)
            self.num_workers, self._growth = decision.num_workers, decision.growth
            self._forget()
            return decision

    def _is_ripe(self, num_up: int, every_steps: int) -> bool:
        if num_up != self.num_workers:
            self._forget()
            return False
        return len(self._steps) >= every_steps and sum(each.step_s for each in self._steps) >= self._start_s

    def _forget(self) -> None:
        self._steps.clear()
        self._num_skipped = 0
