"""Whether the simulation is right: `python benchmarks/simulate_check.py [--workers 1 2 4] [--steps 8]`.

A step of a real run beside a step of the simulated one, and the parts of both, for so many rollout workers. Real are
the GRPO loop, Ray, the rollout pool, the sync with its proofs, prompts, reward actors and the deaths of workers. Two
processors have no room for four engines, so what would compute takes its time asleep: an engine `engine_seconds` for
the lengths that the simulation draws, a load and an update those of the tiny model (`benchmarks/simulate.py`). What
the driver's calls, a prompt, a score and a worker's start cost is measured first, in the same process.

The exit code is 1 where a step without deaths differs by more than `MAX_GAP` of the simulated one. Workers die by
chance, here as there; a simulated step with deaths is the mean over `SEEDS` runs, beside how far single ones spread.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import ray
from driver import (
    GROUP_SIZE,
    draw_of,
    driver_speed,
    local_ray,
    make_prompts,
    measure_calls,
    measure_waits,
    reward_pool,
)
from numpy.typing import NDArray
from simulate import GROUPS_PER_REWARD_WORKER, tiny_case

from actors.errands import Deadlines
from actors.failures import FailureBudget
from actors.nodes import STEADY
from actors.rollout import RolloutPool
from actors.rollout_worker import HEALTH, Draw, Job
from actors.scaling import Scaler
from actors.weight_sync import PolicyPublisher
from fxray.capacity.leases import engine_seconds
from fxray.capacity.simulation import Costs, Setup, simulate
from fxray.config.load import load_config
from fxray.config.schedule import load_stages
from fxray.grpo.loop import Cursor, Ports, StagePlan, run_stage
from fxray.grpo.ports import Learner
from fxray.grpo.types import (
    AdapterBlob,
    PolicyBlob,
    ProbeGap,
    RolloutGroup,
    SamplingSettings,
    SyncProof,
    TrainingGroup,
    UpdateSettings,
)
from fxray.launch.plan import plan_stage

MAX_GAP = 0.10
SEEDS = 200
DEADLINE_S = 600.0
HOUR_S = 3600.0
PARTS = ("draw", "publish", "generate", "score", "wait")
"""Of a step: `fxray.capacity.simulation.Step`."""


HEADER = (
    f"{'workers':>7}{'stale':>6}{'life, s':>9}{'real, s':>9}{'simulated':>11}{'gap':>7}"
    "  parts of a step, real (simulated)"
)


class SleepingWorker:
    """A rollout worker whose engine takes as long as the simulation's, and which dies as often."""

    def __init__(self, name: str, setup: Setup, costs: Costs, lengths: NDArray[np.int64]) -> None:
        self._name, self._setup, self._costs, self._lengths = name, setup, costs, lengths
        self._version = -1

    @ray.method(concurrency_group=HEALTH)
    def health(self) -> str:
        return "here"

    def start(self) -> None:
        """Its life begins."""
        if self._setup.deaths_per_hour:
            life_s = np.random.default_rng().exponential(HOUR_S / self._setup.deaths_per_hour)
            threading.Timer(life_s, os._exit, [1]).start()

    def load_policy(self, policy: AdapterBlob) -> SyncProof:
        time.sleep(self._costs.load_s)
        self._version = policy.version
        return SyncProof(self._name, policy.version, policy.sha256, policy.num_modules)

    def generate(self, jobs: Sequence[Job], _: SamplingSettings) -> list[Draw]:
        lengths = np.concatenate([self._lengths_of(job.group_id) for job in jobs]).tolist()
        time.sleep(engine_seconds(lengths, len(jobs), self._setup.max_num_seqs, self._costs.engine))
        return [draw_of(job.group_id, self._lengths_of(job.group_id), self._version) for job in jobs]

    def _lengths_of(self, group_id: str) -> NDArray[np.int64]:
        """Those that the simulation draws for the group."""
        step, index = map(int, group_id.split("/")[1:])
        setup = self._setup
        drawn = np.random.default_rng((setup.seed, step)).choice(self._lengths, (setup.num_groups, setup.group_size))
        return drawn[index % setup.num_groups]


class SleepingLearner:
    """As much of a learner as a stage calls; an update takes as long as the simulation's."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        tensor = bytes(int(costs.adapter_bytes))
        header = json.dumps(
            {"a.lora_A.weight": {"dtype": "U8", "shape": [len(tensor)], "data_offsets": [0, len(tensor)]}}
        )
        self._content = len(header).to_bytes(8, "little") + header.encode() + tensor
        self._sha256 = hashlib.sha256(self._content).hexdigest()

    def update(self, groups: Sequence[TrainingGroup], _: UpdateSettings) -> dict[str, float]:
        time.sleep(self._costs.learn_s + self._costs.learn_group_s * len(groups))
        return {"loss": 0.0}

    def export_policy(self, version: int) -> PolicyBlob:
        return AdapterBlob(version, self._content, {}, self._sha256, 1)

    def probe(self, groups: Sequence[RolloutGroup], temperature: float) -> ProbeGap:
        del groups, temperature
        return ProbeGap(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Real:
    """Seconds of a real run's steps, and the deaths in it."""

    step_s: float
    parts: dict[str, float]
    num_deaths: int


def main() -> None:
    args = parse_arguments()
    case = tiny_case()
    with local_ray():
        costs = measured_costs(case.costs, args.rounds)
        print(
            f"measured: {costs.driver}\n  score {costs.score_group_s * 1e3:.1f} ms a group, start {costs.start_s:.2f} s"
        )
        print(HEADER)
        cases = [(number, staleness, 0.0) for staleness in args.staleness for number in args.workers]
        if args.life:
            cases += [(number, 0, HOUR_S / args.life) for number in args.workers if number > 1]
        gaps = []
        for number, staleness, deaths in cases:
            setup = Setup(
                num_workers=number,
                num_groups=case.groups_per_worker * number,
                group_size=GROUP_SIZE,
                max_num_seqs=case.max_num_seqs,
                num_steps=args.steps * (3 if deaths else 1),
                max_staleness=staleness,
                num_reward_workers=max(1, case.groups_per_worker * number // GROUPS_PER_REWARD_WORKER),
                workers_per_node=number,
                deaths_per_hour=deaths,
            )
            gap = report(setup, replace(costs, learn_group_s=costs.learn_group_s / number), case.lengths)
            gaps += [] if deaths else [gap]
    sys.exit(int(max(map(abs, gaps)) > MAX_GAP))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--life", type=float, default=20.0, help="mean seconds of a worker that dies; 0: none does")
    parser.add_argument("--rounds", type=int, default=100, help="of each call that is measured")
    return parser.parse_args()


def measured_costs(tiny: Costs, rounds: int) -> Costs:
    """What the parts that are real cost here, and nothing beside them."""
    driver = driver_speed(measure_calls(rounds), measure_waits(rounds), "wall_s")
    setup = Setup(1, 16, GROUP_SIZE, 128, 1)
    start_s = time.monotonic()
    prompts = make_prompts(setup, 0)
    driver = replace(driver, prompt_group_s=(time.monotonic() - start_s) / len(prompts))
    groups = [draw_of(prompt.group_id, np.full(GROUP_SIZE, 24), 0).to_group(prompt) for prompt in prompts]
    rewards = stage_plan(setup).rewards
    scorer = reward_pool(setup.num_reward_workers)
    times_s = [timed(lambda: scorer.score(groups, rewards, 0.0)) for _ in range(5)]
    scorer.close()
    pool = rollout_pool(setup, tiny, np.ones(1, np.int64))
    publisher = PolicyPublisher(pool)
    up_s = timed(lambda: publisher.publish(SleepingLearner(tiny).export_policy(1)))
    pool.close()
    score_s = statistics.median(times_s[1:]) / len(groups)
    return replace(tiny, driver=driver, score_group_s=score_s, start_s=up_s - tiny.load_s)


def timed(call: Callable[[], object]) -> float:
    start_s = time.monotonic()
    call()
    return time.monotonic() - start_s


def report(setup: Setup, costs: Costs, lengths: NDArray[np.int64]) -> float:
    """Prints the row of a setup; returns how much longer its real steps are, as a part of the simulated ones."""
    real = run(setup, costs, lengths)
    seeds = range(SEEDS if setup.deaths_per_hour else 1)
    runs = [simulate(replace(setup, seed=seed), costs, lengths) for seed in seeds]
    simulated_s = statistics.mean(each.step_s for each in runs)
    gap = real.step_s / simulated_s - 1
    settled = [step for each in runs for step in each.steps]
    told = ", ".join(
        f"{name} {real.parts[name]:.3f} ({statistics.mean(getattr(step, f'{name}_s') for step in settled):.3f})"
        for name in PARTS
    )
    if setup.deaths_per_hour:
        low, high = np.quantile([each.step_s for each in runs], [0.05, 0.95])
        deaths = statistics.mean(each.num_deaths for each in runs)
        told += f"; deaths {real.num_deaths} ({deaths:.1f}); nine of ten simulated runs {low:.2f} to {high:.2f} s"
    life = HOUR_S / setup.deaths_per_hour if setup.deaths_per_hour else float("inf")
    place = f"{setup.num_workers:7}{setup.max_staleness:6}{life:9.0f}"
    print(f"{place}{real.step_s:9.3f}{simulated_s:11.3f}{gap:7.1%}  {told}", flush=True)
    return gap


def run(setup: Setup, costs: Costs, lengths: NDArray[np.int64]) -> Real:
    """A real run of a stage."""
    pool, scorer, learner = (
        rollout_pool(setup, costs, lengths),
        reward_pool(setup.num_reward_workers),
        SleepingLearner(costs),
    )
    publisher, plan = PolicyPublisher(pool), stage_plan(setup)
    pool.adopt(learner.export_policy(0))
    while pool.num_up < setup.num_workers:
        pool.generate(make_prompts(replace(setup, num_groups=1), 0), plan.sampling)
    warm_up = [
        draw_of("alpha/0/0", np.full(GROUP_SIZE, 24), 0).to_group(make_prompts(replace(setup, num_groups=1), 0)[0])
    ]
    scorer.score(warm_up, plan.rewards, 0.0)
    told: list[tuple[float, dict[str, float]]] = []
    deaths_before, start_s = pool.num_deaths, time.monotonic()
    run_stage(
        plan,
        Cursor("alpha", 0, 1),
        Ports(pool, scorer, cast("Learner", learner), publisher),
        draw=lambda step: make_prompts(setup, step),
        observe=lambda _, metrics: told.append((time.monotonic(), metrics)),
        save=lambda _, __: None,
    )
    num_deaths = pool.num_deaths - deaths_before
    pool.close()
    scorer.close()
    parts = {name: statistics.mean(metrics[f"seconds/{name}"] for _, metrics in told) for name in PARTS}
    return Real((told[-1][0] - start_s) / setup.num_steps, parts, num_deaths)


def stage_plan(setup: Setup) -> StagePlan:
    overrides = [
        f"grpo.group_size={setup.group_size}",
        f"grpo.max_staleness={setup.max_staleness}",
        "grpo.warmup_steps=0",
    ]
    plan = plan_stage(load_config("tiny", overrides), load_stages("paper")[0], num_samples=1)
    return replace(plan, name="alpha", num_steps=setup.num_steps, probe_every_steps=0)


def rollout_pool(setup: Setup, costs: Costs, lengths: NDArray[np.int64]) -> RolloutPool:
    actor = ray.remote(num_cpus=0, concurrency_groups={HEALTH: 1})(SleepingWorker)
    return RolloutPool(
        lambda name: actor.remote(name, setup, costs, lengths),
        scaler=Scaler(setup.num_workers, None),
        min_workers=setup.num_workers,
        max_num_seqs=setup.max_num_seqs,
        deadlines=Deadlines(DEADLINE_S, DEADLINE_S, DEADLINE_S),
        failures=FailureBudget("rollout workers", max_restarts=10_000, window_s=3600, remedy=""),
        nodes=STEADY,
    )


if __name__ == "__main__":
    main()
