"""What it costs that every engine samples from a new adapter, and proves it: `python benchmarks/sync.py`.

    python benchmarks/sync.py [--workers 1 2 4] [--rounds 30] [--steps 8] [--adapter runs/demo/sft/adapter]

    step        a whole GRPO step of the tiny model (16 prompts x 8 answers, 112 px), one engine and one learner rank
    sync        adapter published -> the proofs of all workers are checked, with so many engines of one thread each
    weights     the whole model over the same path: ray.put, each worker gets it and takes its sha256. That is the
                transport alone: no engine here can take whole weights over
    parts       where the time of one engine's load goes, in wall-clock and in processor time

All in one run, so that the share of the step is a ratio of what was measured side by side. The exit code is 1 where the
median sync of one worker is more than 5 % of the median step.
"""

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from fxray_side import save_fresh_adapter
from overlap import take_turn
from turns import ENVIRONMENT
from workload import WORKLOADS, prepare

from actors.weight_sync import AdapterPublisher
from fxray.config.tree import Config
from fxray.engine.engine import Engine
from fxray.events import ignore
from fxray.grpo.types import AdapterBlob
from fxray.launch.fleet import open_fleet
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

    def time_loads(self, adapter: AdapterBlob, rounds: int) -> dict[str, tuple[float, float]]:
        """Median (wall-clock, processor) seconds of each part of a load."""
        self.begin()
        self.load_adapter(adapter)
        self.begin()
        for _ in range(rounds):
            start = time.perf_counter(), time.thread_time()
            self.load_adapter(adapter)
            self._seconds["all"].append((time.perf_counter() - start[0], time.thread_time() - start[1]))
            start = time.perf_counter(), time.thread_time()
            hashlib.sha256(adapter.safetensors).hexdigest()
            self._seconds["sha256"].append((time.perf_counter() - start[0], time.thread_time() - start[1]))
        return {name: _medians(pairs) for name, pairs in self._seconds.items()}


class Receiver:
    """Stands where an engine would take whole weights over."""

    def receive(self, content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()


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
            weights = (session.model_path / "model.safetensors").read_bytes()
            sizes = f"adapter {len(adapter.safetensors) / 2**20:.2f} MiB, weights {len(weights) / 2**20:.2f} MiB"
            print(f"a step: {step_s * 1e3:.0f} ms (median of {args.steps}); {adapter.num_modules} modules, {sizes}\n")
            print(f"{'workers':>7}{'sync p50, ms':>14}{'p95':>8}{'of the step':>13}{'weights p50, ms':>17}{'p95':>8}")
            fractions = [
                report_workers(session.config, session.model_path, adapter, weights, number, args.rounds, step_s)
                for number in args.workers
            ]
            report_parts(session.config, session.model_path, adapter, args.rounds)
    sys.exit(int(fractions[0] > MAX_STEP_FRAC))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=8, help="timed steps, after two to warm up")
    parser.add_argument("--adapter", type=Path, help="of an SFT, so that answers end by themselves")
    return parser.parse_args()


def time_steps(session: Session, num_steps: int) -> tuple[float, AdapterBlob]:
    """Median seconds of a step, and the policy after the last one."""
    with open_fleet(session) as fleet:
        plan = plan_stage(session.config, session.stages[0], num_samples=len(fleet.training_prompts))
        steps = take_turn(fleet, replace(plan, num_steps=SETTLING_STEPS + num_steps), 0)
        adapter = fleet.learner.export_adapter(SETTLING_STEPS + num_steps)
    return statistics.median(step["seconds"] for step in steps[SETTLING_STEPS:]), adapter


def report_workers(
    config: Config,
    model_path: Path,
    adapter: AdapterBlob,
    weights: bytes,
    num_workers: int,
    rounds: int,
    step_s: float,
) -> float:
    """Prints the row of so many workers; returns the median sync as a part of the step."""
    rollout = config.rollout.model_copy(update={"num_workers": num_workers})
    pool = rollout_pool(config.model_copy(update={"rollout": rollout}), model_path, ignore)
    receivers = [ray.remote(Receiver).options(num_cpus=0).remote() for _ in range(num_workers)]
    expected = hashlib.sha256(weights).hexdigest()

    def send() -> None:
        reference = ray.put(weights)
        for got in ray.get([receiver.receive.remote(reference) for receiver in receivers], timeout=DEADLINE_S):
            assert got == expected

    publisher = AdapterPublisher(pool)
    versions = iter(range(adapter.version, adapter.version + 10**6))
    try:
        while len(publisher.publish(replace(adapter, version=next(versions)))) < num_workers:
            time.sleep(0.5)
        send()
        sync_s, send_s = [], []
        for _ in range(rounds):
            present = replace(adapter, version=next(versions))
            sync_s.append(_seconds_of(lambda blob=present: publisher.publish(blob)))
            send_s.append(_seconds_of(send))
    finally:
        pool.close()
        for receiver in receivers:
            ray.kill(receiver)
    middle_s = statistics.median(sync_s)
    print(
        f"{num_workers:7}{middle_s * 1e3:14.1f}{_p95(sync_s) * 1e3:8.1f}{middle_s / step_s:13.1%}"
        f"{statistics.median(send_s) * 1e3:17.1f}{_p95(send_s) * 1e3:8.1f}",
        flush=True,
    )
    return middle_s / step_s


def report_parts(config: Config, model_path: Path, adapter: AdapterBlob, rounds: int) -> None:
    engine = ray.remote(TimedEngine).options(num_cpus=1).remote(engine_settings(config, model_path))
    parts = ray.get(engine.time_loads.remote(adapter, rounds), timeout=DEADLINE_S)
    ray.kill(engine)
    print(f"\n{'one load in an engine':24}{'wall-clock, ms':>16}{'processor, ms':>16}   (medians)")
    for name, (wall_s, processor_s) in parts.items():
        print(f"{name:24}{wall_s * 1e3:16.2f}{processor_s * 1e3:16.2f}")


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
