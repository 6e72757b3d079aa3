"""What it costs that every engine samples from a new adapter, and proves it: `python benchmarks/sync.py`.

    python benchmarks/sync.py [--workers 1 2 4] [--rounds 30] [--steps 8] [--adapter runs/demo/sft/adapter]

    step        a whole GRPO step of the tiny model (16 prompts x 8 answers, 112 px), one engine and one learner rank
    sync        adapter published -> the proofs of all workers are checked, with so many engines of one thread each
    weights     the same with all weights of the model, as with model.lora null
    parts       where the time of one engine's load goes, in wall-clock and in processor time

All in one run, so that the share of the step is a ratio of what was measured side by side. The exit code is 1 where the
median sync of one worker is more than 5 % of the median step.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from fxray_side import save_fresh_adapter
from overlap import take_turn
from turns import ENVIRONMENT
from workload import WORKLOADS, prepare

from actors.weight_sync import PolicyPublisher
from fxray.config.tree import Config
from fxray.engine.engine import Engine
from fxray.events import ignore
from fxray.grpo.types import PolicyBlob
from fxray.launch.fleet import open_fleet, read_policy
from fxray.launch.plan import plan_stage
from fxray.launch.session import Session, open_session
from fxray.launch.start import engine_settings, rollout_pool
from fxray.model.folder import resolve_model_path

MAX_STEP_FRAC = 0.05
DEADLINE_S = 1200.0
SETTLING_STEPS = 2


class TimedEngine(Engine):
    """An engine that notes how long each part of a load takes."""

    def begin(self) -> None:
        self._seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def _on_workers(self, method: str, *args: object) -> Any:
        start = time.perf_counter(), time.thread_time()
        result = super()._on_workers(method, *args)
        self._seconds[method].append((time.perf_counter() - start[0], time.thread_time() - start[1]))
        return result

    def time_loads(self, policy: PolicyBlob, rounds: int) -> dict[str, tuple[float, float]]:
        """Median (wall-clock, processor) seconds of each part of a load."""
        self.begin()
        self.load_policy(policy)
        self.begin()
        for _ in range(rounds):
            start = time.perf_counter(), time.thread_time()
            self.load_policy(policy)
            self._seconds["all"].append((time.perf_counter() - start[0], time.thread_time() - start[1]))
        return {name: _medians(pairs) for name, pairs in self._seconds.items()}


def main() -> None:
    args = parse_arguments()
    os.environ.update(ENVIRONMENT)
    overrides = (
        "rollout.threads=1",
        "learner.threads=1",
        "model.lora.rank=16",
        f"ray.num_cpus={max(args.workers) + 2}",
    )
    with tempfile.TemporaryDirectory(prefix="fxray-sync-") as folder:
        job = prepare(Path(folder), WORKLOADS["112"], resolve_model_path("tiny"), args.adapter, args.steps, overrides)
        with open_session(job.config(), job.folder / "run", lambda _: None) as session:
            save_fresh_adapter(session)
            step_s, adapter = time_steps(session, args.steps)
            weights = read_policy(session.model_path, 0)
            sizes = f"adapter {adapter.num_bytes / 2**20:.2f} MiB, weights {weights.num_bytes / 2**20:.2f} MiB"
            modules = f"{adapter.num_modules} modules, {weights.num_modules} tensors"
            print(f"a step: {step_s * 1e3:.0f} ms (median of {args.steps}); {modules}, {sizes}\n")
            names = f"{'workers':>7}{'sync p50, ms':>14}{'p95':>8}{'of the step':>13}"
            print(f"{names}{'weights p50, ms':>17}{'p95':>8}{'of it':>8}")
            fractions = [
                report_workers(session, adapter, weights, number, args.rounds, step_s) for number in args.workers
            ]
            report_parts("an adapter", session.config, session.model_path, adapter, args.rounds)
            report_parts("whole weights", whole(session.config), session.model_path, weights, args.rounds)
    sys.exit(int(fractions[0] > MAX_STEP_FRAC))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=8, help="timed steps, after two to warm up")
    parser.add_argument("--adapter", type=Path, help="of an SFT, so that answers end by themselves")
    return parser.parse_args()


def time_steps(session: Session, num_steps: int) -> tuple[float, PolicyBlob]:
    """Median seconds of a step, and the policy after the last one."""
    with open_fleet(session, session.splits.test) as fleet:
        plan = plan_stage(session.config, session.stages[0], num_samples=len(fleet.training_prompts))
        steps = take_turn(fleet, replace(plan, num_steps=SETTLING_STEPS + num_steps), 0)
        adapter = fleet.learner.export_policy(SETTLING_STEPS + num_steps)
    return statistics.median(step["seconds"] for step in steps[SETTLING_STEPS:]), adapter


def whole(config: Config) -> Config:
    """The configuration with all weights in place of the adapter."""
    return config.model_copy(update={"model": config.model.model_copy(update={"lora": None})})


def report_workers(
    session: Session, adapter: PolicyBlob, weights: PolicyBlob, num_workers: int, rounds: int, step_s: float
) -> float:
    """Prints the row of so many workers; returns the median sync of the adapter as a part of the step."""
    adapter_s = time_syncs(session.config, session.model_path, adapter, num_workers, rounds)
    weights_s = time_syncs(whole(session.config), session.model_path, weights, num_workers, rounds)
    middle_s, of_weights_s = statistics.median(adapter_s), statistics.median(weights_s)
    print(
        f"{num_workers:7}{middle_s * 1e3:14.1f}{_p95(adapter_s) * 1e3:8.1f}{middle_s / step_s:13.1%}"
        f"{of_weights_s * 1e3:17.1f}{_p95(weights_s) * 1e3:8.1f}{of_weights_s / step_s:8.1%}",
        flush=True,
    )
    return middle_s / step_s


def time_syncs(config: Config, model_path: Path, policy: PolicyBlob, num_workers: int, rounds: int) -> list[float]:
    """Seconds from publishing a policy to the proofs of so many engines, round by round."""
    rollout = config.rollout.model_copy(update={"num_workers": num_workers, "min_workers": num_workers})
    pool = rollout_pool(config.model_copy(update={"rollout": rollout}), model_path, ignore)
    publisher = PolicyPublisher(pool)
    versions = iter(range(policy.version, policy.version + 10**6))
    try:
        while len(publisher.publish(replace(policy, version=next(versions)))) < num_workers:
            time.sleep(0.5)
        policies = [replace(policy, version=next(versions)) for _ in range(rounds)]
        return [_seconds_of(partial(publisher.publish, each)) for each in policies]
    finally:
        pool.close()


def report_parts(what: str, config: Config, model_path: Path, policy: PolicyBlob, rounds: int) -> None:
    engine = ray.remote(TimedEngine).options(num_cpus=1).remote(engine_settings(config, model_path))
    parts = ray.get(engine.time_loads.remote(policy, rounds), timeout=DEADLINE_S)
    ray.kill(engine)
    print(f"\n{f'one load of {what}':32}{'wall-clock, ms':>16}{'processor, ms':>16}   (medians)")
    for name, (wall_s, processor_s) in parts.items():
        print(f"{name:32}{wall_s * 1e3:16.2f}{processor_s * 1e3:16.2f}")


def _seconds_of(action: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    action()
    return time.perf_counter() - start_s


def _medians(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    wall_s, processor_s = zip(*pairs, strict=True)
    return statistics.median(wall_s), statistics.median(processor_s)


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


if __name__ == "__main__":
    main()
