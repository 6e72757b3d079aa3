"""A run in simulated time: rollout workers, driver, adapter broadcast, rewards and learner, event by event.

    driver   one thread: hands out a lease, waits for one answer, takes it, in the order of the rollout pool
    engine   a lease takes `engine_seconds` of its answers' lengths; it may die, and its groups are drawn again
    adapter  leaves the driver's node once for each node, which share its link; then every engine loads it
    learner  the update of step t gives the policy of step t + 1; sampling may be `max_staleness` versions behind

One heap of (time, event) is all there is. The same seed gives the same run.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fxray.capacity.leases import EngineSpeed, engine_seconds, groups_at_once, lease_size, num_shares
from fxray.errors import ConfigError

FOREVER = float("inf")
MAX_TRIES = 100
"""Leases of a step, for each of its groups, after which it is given up: engines die faster than they answer."""


@dataclass(frozen=True, slots=True)
class DriverSpeed:
    """Processor time of the driver.

    Attributes:
        submit_s: Of handing a request to an actor.
        submit_group_s: More for each group in it.
        wait_s: Of asking which request is done.
        wait_each_s: More for each request that is outstanding.
        take_s: Of taking an answer.
        take_group_s: More for each group in it.
        prompt_group_s: Of reading the prompt of a group: another process does it, a step ahead.
    """

    submit_s: float
    submit_group_s: float
    wait_s: float
    wait_each_s: float
    take_s: float
    take_group_s: float
    prompt_group_s: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds and bytes of everything.

    Attributes:
        engine: One engine.
        driver: The driver.
        adapter_bytes: Of a published adapter.
        link_bytes_per_s: Of the driver's node.
        load_s: Of an engine, to take an adapter over and prove it.
        start_s: From asking for a worker until it can load an adapter.
        death_seen_s: From a worker's death until the driver hears of it.
        score_group_s: Of one reward worker, for a group.
        learn_group_s: Of the learner, for a group, its ranks together.
        learn_s: Of the learner, for a step, whatever is in it.
    """

    engine: EngineSpeed
    driver: DriverSpeed
    adapter_bytes: float
    link_bytes_per_s: float
    load_s: float
    start_s: float
    death_seen_s: float
    score_group_s: float
    learn_group_s: float
    learn_s: float


@dataclass(frozen=True, slots=True)
class Setup:
    """What is simulated.

    Attributes:
        num_workers: Engines at the start.
        num_groups: Of a step.
        group_size: Answers of a group.
        max_num_seqs: Answers that an engine decodes at once.
        num_steps: Of the run.
        max_staleness: Policy versions that sampling may be behind.
        num_reward_workers: Actors that score.
        workers_per_node: Engines that share an object store.
        deaths_per_hour: Of one engine, on average.
        joins_s: When further workers are asked for.
        seed: Of lengths and deaths.
    """

    num_workers: int
    num_groups: int
    group_size: int
    max_num_seqs: int
    num_steps: int
    max_staleness: int = 0
    num_reward_workers: int = 1
    workers_per_node: int = 1
    deaths_per_hour: float = 0.0
    joins_s: tuple[float, ...] = ()
    seed: int = 0


@dataclass(slots=True)
class Step:
    """Where the time of one step went, in seconds; the sampling side first.

    Attributes:
        begins_s: When its sampling began.
        draw_s: Waiting for prompts.
        publish_s: From the new policy to all proofs.
        generate_s: From the first lease to the last answer.
        score_s: Rewards.
        learns_s: When its update began.
        ends_s: When its update ended.
        idle_s: Sampling waited for a policy before it.
        wait_s: The learner waited for its answers.
        engine_s: All engines together, for leases that came back.
        driver_s: The driver's processor, until the scores were there.
        num_leases: Requests for answers, those of the dead included.
        num_tokens: Of the answers.
        drawn: How often each group arrived, [groups].
    """

    begins_s: float
    draw_s: float = 0.0
    publish_s: float = 0.0
    generate_s: float = 0.0
    score_s: float = 0.0
    learns_s: float = 0.0
    ends_s: float = 0.0
    idle_s: float = 0.0
    wait_s: float = 0.0
    engine_s: float = 0.0
    driver_s: float = 0.0
    num_leases: int = 0
    num_tokens: int = 0
    drawn: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Run:
    """What came out.

    Attributes:
        steps: One after the other.
        num_deaths: Workers that died.
        num_joined: Workers that were asked for later, `joins_s` of them that came due.
    """

    steps: tuple[Step, ...]
    num_deaths: int
    num_joined: int

    @property
    def seconds(self) -> float:
        return self.steps[-1].ends_s

    @property
    def step_s(self) -> float:
        """Mean seconds of a step, over the whole run."""
        return self.seconds / len(self.steps)

    @property
    def tokens_per_s(self) -> float:
        return sum(step.num_tokens for step in self.steps) / self.seconds


def simulate(setup: Setup, costs: Costs, lengths: NDArray[np.int64]) -> Run:
    """Runs the steps of a stage.

    Args:
        setup: How many of what.
        costs: What each takes.
        lengths: Tokens of real answers, [any number]; answers are drawn from them with replacement.

    Raises:
        ConfigError: Engines die before they can finish a lease.
    """
    pool, driver = _Pool(setup, costs), costs.driver
    size = (setup.num_groups, setup.group_size)
    sampled_s, learnt_s = 0.0, [0.0]  # learnt_s[v]: when policy version v is there
    asked_s = 0.0  # when the prompts of the step were asked for
    steps = []
    for index in range(setup.num_steps):
        answers = np.random.default_rng((setup.seed, index)).choice(lengths, size)
        policy_s = learnt_s[max(0, index - setup.max_staleness)]
        step = Step(begins_s=max(sampled_s, policy_s), idle_s=max(0.0, policy_s - sampled_s))
        pool.begin(step.begins_s)
        step.draw_s = pool.wait_until(asked_s + driver.prompt_group_s * setup.num_groups)
        asked_s = pool.now_s
        if index == 0 or index > setup.max_staleness:
            step.publish_s = pool.publish()
        step.generate_s = pool.generate(step, answers)
        shares = num_shares(setup.num_groups, setup.num_reward_workers, costs.score_group_s)
        share_s = driver.submit_s + driver.wait_s + driver.wait_each_s * setup.num_reward_workers + driver.take_s
        calls_s = shares * share_s + setup.num_groups * (driver.submit_group_s + driver.take_group_s)
        pool.drive(calls_s)
        step.score_s = max(calls_s, costs.score_group_s * math.ceil(setup.num_groups / setup.num_reward_workers))
        step.driver_s = pool.driver_s
        sampled_s = pool.now_s - calls_s + step.score_s
        step.learns_s = max(sampled_s, learnt_s[-1])
        step.wait_s = step.learns_s - learnt_s[-1]
        step.ends_s = step.learns_s + costs.learn_s + costs.learn_group_s * setup.num_groups
        learnt_s.append(step.ends_s)
        steps.append(step)
    return Run(tuple(steps), pool.num_deaths, pool.num_joined)


@dataclass(slots=True)
class _Worker:
    """An engine; the policy that it holds, and when it dies."""

    version: int
    dies_s: float


_Errand = tuple[float, int, _Worker, tuple[int, ...], float]
"""When it ends, its number, who is busy, the groups of a lease, and the engine's seconds for them."""


class _Pool:
    """The rollout pool in simulated time: idle workers, and a heap of what each other one is busy with."""

    def __init__(self, setup: Setup, costs: Costs) -> None:
        self._setup, self._costs = setup, costs
        self._rng = np.random.default_rng((setup.seed, 2**31))
        self._version = 0
        self._idle = [_Worker(0, self._death_after(0.0)) for _ in range(setup.num_workers)]
        self._errands: list[_Errand] = []
        self._waiting: deque[int] = deque()
        self._joins_s = deque(sorted(setup.joins_s))
        self._num_errands = self._num_loading = self._num_missing = 0
        self.now_s = self.driver_s = 0.0
        self.num_deaths = self.num_joined = 0

    def begin(self, now_s: float) -> None:
        """The next step begins."""
        self.now_s, self.driver_s = now_s, 0.0

    def wait_until(self, time_s: float) -> float:
        """Nobody works until then; returns how long that is."""
        before_s, self.now_s = self.now_s, max(self.now_s, time_s)
        return self.now_s - before_s

    def drive(self, seconds: float) -> float:
        """The driver works for so long; returns it."""
        self.now_s += seconds
        self.driver_s += seconds
        return seconds

    def publish(self) -> float:
        """Every worker that is up takes the next policy over and proves it; returns how long that took."""
        self._version += 1
        self._num_loading = 0  # who still loads the one before loads this one afterwards
        before_s = self.now_s
        idle, self._idle = self._idle, []
        for worker in idle:
            self._load(worker, len(idle))
        while not self._idle or self._num_loading:
            self._settle(None)
        return self.now_s - before_s

    def generate(self, step: Step, lengths: NDArray[np.int64]) -> float:
        """Draws all groups of a step, [groups, G] tokens; returns how long that took."""
        before_s, num_groups = self.now_s, len(lengths)
        step.drawn = np.zeros(num_groups, np.int64)
        step.num_tokens = int(lengths.sum())
        self._waiting.extend(range(num_groups))
        self._num_missing = num_groups
        fills_engine = groups_at_once(self._setup.group_size, self._setup.max_num_seqs)
        size = lease_size(num_groups, self._num_workers, fills_engine)
        while self._num_missing:
            while self._idle and self._waiting:
                lease = tuple(self._waiting.popleft() for _ in range(min(size, len(self._waiting))))
                self._lease(step, lease, lengths)
            self._settle(step)
        return self.now_s - before_s

    @property
    def _num_workers(self) -> int:
        return len(self._idle) + len(self._errands)

    def _death_after(self, time_s: float) -> float:
        rate = self._setup.deaths_per_hour / 3600
        return time_s + self._rng.exponential(1 / rate) if rate else FOREVER

    def _push(self, ends_s: float, worker: _Worker, lease: tuple[int, ...] = (), engine_s: float = 0.0) -> None:
        """Notes an errand, which ends early where the worker dies before."""
        self._num_errands += 1
        if worker.dies_s < ends_s:
            ends_s = max(worker.dies_s + self._costs.death_seen_s, self.now_s)
        heapq.heappush(self._errands, (ends_s, self._num_errands, worker, lease, engine_s))

    def _lease(self, step: Step, lease: tuple[int, ...], lengths: NDArray[np.int64]) -> None:
        worker, driver = self._idle.pop(), self._costs.driver
        self.drive(driver.submit_s + driver.submit_group_s * len(lease))
        step.num_leases += 1
        if step.num_leases > MAX_TRIES * len(lengths):
            raise ConfigError(
                f"engines that die {self._setup.deaths_per_hour:g} times an hour do not finish their leases",
                where="simulation",
                remedy="lower the deaths per hour, or the groups of a lease",
            )
        flat = lengths[list(lease)].ravel().tolist()
        engine_s = engine_seconds(flat, len(lease), self._setup.max_num_seqs, self._costs.engine)
        self._push(self.now_s + engine_s, worker, lease, engine_s)

    def _load(self, worker: _Worker, num_workers: int) -> None:
        """Sends the policy to a worker, one of so many whose nodes share the link of the driver's node."""
        self.drive(self._costs.driver.submit_s)
        worker.version = self._version
        self._num_loading += 1
        num_nodes = math.ceil(num_workers / self._setup.workers_per_node)
        arrives_s = self.now_s + num_nodes * self._costs.adapter_bytes / self._costs.link_bytes_per_s
        self._push(arrives_s + self._costs.load_s, worker)

    def _start(self) -> None:
        self.drive(self._costs.driver.submit_s)
        up_s = self.now_s + self._costs.start_s
        self._push(up_s, _Worker(-1, self._death_after(up_s)))

    def _join(self, until_s: float) -> None:
        """Asks for the workers whose time has come."""
        while self._joins_s and self._joins_s[0] <= until_s:
            self.now_s = max(self.now_s, self._joins_s.popleft())
            self.num_joined += 1
            self._start()

    def _settle(self, step: Step | None) -> None:
        """Waits for one errand to end, and deals with how it ended."""
        driver = self._costs.driver
        self._join(max(self.now_s, self._errands[0][0]))
        self.now_s = max(self.now_s, self._errands[0][0])
        self.drive(driver.wait_s + driver.wait_each_s * len(self._errands))
        ends_s, _, worker, lease, engine_s = heapq.heappop(self._errands)
        self._num_loading -= worker.version == self._version and not lease
        if ends_s >= worker.dies_s:
            self.num_deaths += 1
            self._waiting.extendleft(reversed(lease))
            self._start()
            return
        self.drive(driver.take_s + driver.take_group_s * len(lease))
        if step is not None and lease:
            step.drawn[list(lease)] += 1
            step.engine_s += engine_s
            self._num_missing -= len(lease)
        if worker.version == self._version:
            self._idle.append(worker)
        else:
            self._load(worker, 1)
