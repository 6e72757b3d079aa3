"""A whole GRPO step on one GPU, part by part, in each way that engine and learner can share it.

    python benchmarks/gpu_step.py --model DIR [--steps 6] [--workload 504] [--rehearse]

"split" gives each its part of the memory for good; "taking turns" lets the engine sleep while the learner learns.
Publish is the adapter's way into the engine with its proof; the gap is how far sampler and learner differ on answers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from turns import ENVIRONMENT
from workload import ON_GPU, WARMUP_STEPS, WORKLOADS, prepare

TURNS = ("rollout.sleep=true", "rollout.gpu_memory_utilization=0.75")
WAYS = {"split": ON_GPU, "taking turns": (*ON_GPU, *TURNS)}
PARTS = {
    "generate": "seconds/generate",
    "score": "seconds/score",
    "update": "seconds/update",
    "publish": "seconds/publish",
    "step": "seconds",
}
DEADLINE_S = 420


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="folder of a Qwen2.5-VL")
    parser.add_argument("--workload", choices=list(WORKLOADS), default="504")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each way")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, which has one way only")
    args = parser.parse_args()
    from fxray.model.folder import resolve_model_path

    ways = {"CPU": ("rollout.max_model_len=1024",)} if args.rehearse else WAYS
    print(f"{args.model}, workload {args.workload}: medians of {args.steps} steps after {WARMUP_STEPS}, seconds\n")
    print(
        f"{'':14}" + "".join(f"{name:>10}" for name in PARTS) + f"{'tokens/s':>10}{'gap, nats':>11}{'importance':>12}"
    )
    for name, overrides in ways.items():
        with tempfile.TemporaryDirectory(prefix="fxray-step-") as folder:
            probing = (*overrides, "rollout.probe_every_steps=2")
            path = resolve_model_path(args.model)
            job = prepare(Path(folder), WORKLOADS[args.workload], path, None, args.steps, probing).write()
            report(name, steps_of(job, args.steps))


def steps_of(job: Path, num_steps: int) -> list[dict[str, float]]:
    """Metrics of the timed steps; the run has a process of its own, so that a GPU is free for the next."""
    log = job.parent / "log"
    go = "go\n" * (WARMUP_STEPS + num_steps)
    command = [sys.executable, str(Path(__file__).with_name("fxray_side.py")), str(job)]
    with log.open("w") as errors:
        done = subprocess.run(
            command,
            check=False,
            input=go,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | ENVIRONMENT,
            timeout=DEADLINE_S,
        )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    if len(reports) < WARMUP_STEPS + num_steps:
        raise SystemExit(f"the run ended early:\n{log.read_text()[-3000:]}")
    return [each["metrics"] for each in reports[WARMUP_STEPS : WARMUP_STEPS + num_steps]]


def report(name: str, steps: list[dict[str, float]]) -> None:
    parts = [statistics.median(step[key] for step in steps) for key in PARTS.values()]
    gaps = [step["probe_gap_nats"] for step in steps if "probe_gap_nats" in step]
    print(
        f"{name:14}"
        + "".join(f"{part:10.3f}" for part in parts)
        + f"{statistics.median(step['tokens_per_s'] for step in steps):10,.0f}{max(gaps):11.1e}"
        + f"{statistics.mean(step['importance'] for step in steps):12.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
