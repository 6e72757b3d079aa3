"""Seconds of a GRPO step when sampling runs ahead of the learner, beside its two halves measured alone in the same run.

    python benchmarks/overlap.py [--workload 112|448] [--rounds 3] [--steps 10] [--staleness 0 1 2]

One engine and one learner rank, of one CPU thread each. The ways take turns of `--steps` steps, `--rounds` times. Where
sampling takes turns with learning (staleness 0), sampling is the time from the prompts to the scores and learning that
of the update: each has the machine for itself then. The exit code is 1 where the median step with overlap takes longer
than 1.15 times the longer of the two.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from fxray_side import save_fresh_adapter
from turns import ENVIRONMENT
from workload import STAGE, WORKLOADS, Job, prepare

from fxray.grpo.loop import Cursor, StagePlan, run_stage
from fxray.launch.fleet import Fleet, open_fleet
from fxray.launch.plan import plan_stage
from fxray.launch.session import open_session
from fxray.model.folder import resolve_model_path

MAX_RATIO = 1.15
SETTLING_STEPS = 2
"""At each end of a turn, where the sampler is not yet, or no longer, ahead."""
SAMPLING = ("draw", "publish", "generate", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=["112", "448"], default="112")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="steps of a turn")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2], help="0 must be among them")
    args = parser.parse_args()
    if 0 not in args.staleness or args.steps <= 2 * SETTLING_STEPS:
        parser.error(f"--staleness must hold 0, and --steps must be above {2 * SETTLING_STEPS}")
    os.environ.update(ENVIRONMENT)
    workload = WORKLOADS[args.workload]
    threads = ("rollout.threads=1", "learner.threads=1")
    with tempfile.TemporaryDirectory(prefix="fxray-overlap-") as folder:
        job = prepare(Path(folder), workload, resolve_model_path("tiny"), None, args.steps, threads)
        records = measure(job, args.rounds, args.steps, args.staleness)
    print(
        f"{workload.num_prompts} prompts x 8 answers at {workload.model_px} px, one engine and one learner rank of one "
        f"thread each, {os.cpu_count()} processors; medians of {args.rounds} x {args.steps - 2 * SETTLING_STEPS} steps"
    )
    sys.exit(report(records))


def measure(job: Job, rounds: int, num_steps: int, ways: list[int]) -> dict[int, list[dict[str, float]]]:
    """Metrics of the steps in which each way has settled."""
    records: dict[int, list[dict[str, float]]] = defaultdict(list)
    with open_session(job.config(), job.folder / "run", lambda _: None) as session:
        save_fresh_adapter(session)
        with open_fleet(session, session.splits.test) as fleet:
            plan = plan_stage(session.config, session.stages[0], num_samples=len(fleet.training_prompts))
            take_turn(fleet, replace(plan, num_steps=2), 0)  # engine and learner come up
            version = 2
            for number in range(rounds):
                for way in ways:
                    steps = take_turn(fleet, replace(plan, num_steps=num_steps, max_staleness=way), version)
                    version += num_steps
                    records[way] += steps[SETTLING_STEPS:-SETTLING_STEPS]
                    seconds = " ".join(f"{step['seconds']:.2f}" for step in steps)
                    print(f"round {number + 1}, staleness {way}: {seconds} s", file=sys.stderr, flush=True)
    return records


def take_turn(fleet: Fleet, plan: StagePlan, version: int) -> list[dict[str, float]]:
    steps: list[dict[str, float]] = []
    run_stage(
        plan,
        Cursor(STAGE, 0, version),
        fleet.ports,
        draw=lambda step: fleet.training_prompts.of_step(STAGE, step),
        observe=lambda _, metrics: steps.append(metrics),
        save=lambda *_: None,
    )
    return steps


def report(records: dict[int, list[dict[str, float]]]) -> int:
    """Prints the table; returns the exit code."""

    def median(way: int, *names: str) -> float:
        return statistics.median(sum(step[f"seconds/{name}"] for name in names) for step in records[way])

    alone = max(median(0, *SAMPLING), median(0, "update"))
    print(f"\n{'staleness':>9}{'step, s':>9}{'sampling':>10}{'learning':>10}{'wait':>7}{'idle':>7}{'step / alone':>14}")
    worst = 0.0
    for way, steps in records.items():
        step_s = statistics.median(step["seconds"] for step in steps)
        worst = max(worst, step_s / alone if way else 0.0)
        print(
            f"{way:9}{step_s:9.2f}{median(way, *SAMPLING):10.2f}{median(way, 'update'):10.2f}"
            f"{median(way, 'wait'):7.2f}{median(way, 'idle'):7.2f}{step_s / alone:14.2f}"
        )
    return int(worst > MAX_RATIO)


if __name__ == "__main__":
    main()
