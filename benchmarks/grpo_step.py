"""Samples per second of a whole GRPO step, generate to publish, of fxray and of a peer, in one run on one machine.

    python benchmarks/grpo_step.py --peer trl [--workload 112|448|both] [--steps 8] [--model DIR] [--adapter DIR]

fxray runs as it always does, with Ray actors, vLLM and DeepSpeed; the peer is TRL's `GRPOTrainer` with PEFT. Each is a
process of its own, and they take their steps in turn. Both get the same model, images, prompts, rewards, group size,
LoRA rank and beta, and forbid the same tokens. All answers have 64 tokens (256 at 504 px, the size for --gpu); with the
adapter of an SFT run (such as runs/demo/sft/adapter) in the model they are real answers and end by themselves.

The second table says what crossed the boundaries between fxray's actors in one further step. The exit code is 1 where
more than 1.1 times the unique image bytes crossed one of them.
"""

import argparse
import importlib.metadata
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import Side
from workload import GROUP_SIZE, LORA_RANK, ON_GPU, WARMUP_STEPS, WORKLOADS, Job, Workload, prepare

MAX_IMAGE_RATIO = 1.1
BESIDE_A_PEER = (*ON_GPU, "rollout.gpu_memory_utilization=0.2")
"""Both systems have an engine and a learner on the one GPU at once."""
HERE = Path(__file__).parent
PEERS = {"trl": ("TRL", HERE / "trl_peer.py")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=sorted(PEERS), default="trl")
    parser.add_argument("--workload", choices=[*WORKLOADS, "both"], default="both", help="both: 112 and 448")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each system")
    parser.add_argument("--model", default="tiny", help="folder or name of the base model")
    parser.add_argument("--gpu", action="store_true", help="engine and learner share one GPU; the peer uses vLLM there")
    parser.add_argument("--adapter", type=Path, help="folder of an SFT adapter to merge into the model first")
    args = parser.parse_args()
    name, script = PEERS[args.peer]
    chosen = [WORKLOADS[name] for name in (("112", "448") if args.workload == "both" else (args.workload,))]
    print(
        f"A GRPO step of fxray and of {name} {importlib.metadata.version(args.peer)}: G = {GROUP_SIZE}, LoRA rank "
        f"{LORA_RANK} on all linear layers, {os.cpu_count()} processors; medians of {args.steps} steps after "
        f"{WARMUP_STEPS} to warm up, taken in turn"
    )
    ratios = [run(workload, args, name, script) for workload in chosen]
    if max(ratios) > MAX_IMAGE_RATIO:
        sys.exit(f"more than {MAX_IMAGE_RATIO} times the unique image bytes crossed a boundary")


def run(workload: Workload, args: argparse.Namespace, peer: str, script: Path) -> float:
    """Times both systems and prints what came out; returns the largest ratio of image bytes at a boundary."""
    from fxray.model.folder import resolve_model_path

    with tempfile.TemporaryDirectory(prefix="fxray-step-") as folder:
        overrides = BESIDE_A_PEER if args.gpu else ()
        job = prepare(Path(folder), workload, resolve_model_path(args.model), args.adapter, args.steps, overrides)
        ours, theirs, payload = take_steps(job, peer, script)
    print_speed(workload, {"fxray": ours, peer: theirs})
    print_breakdown(ours, theirs, peer)
    return print_payload(payload)


def take_steps(job: Job, peer: str, script: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Reports of the timed steps of both, and the bytes of the step after them."""
    path, sides = job.write(), list[Side]()
    try:
        for name, file in (("fxray", HERE / "fxray_side.py"), (peer, script)):
            progress(f"{job.workload.name} px: {name} comes up")
            sides.append(Side(name, file, path, job.folder / f"{name}.log"))
        for step in range(1, WARMUP_STEPS + job.num_steps):
            for side in sides:
                progress(f"{job.workload.name} px: step {step + 1} of {WARMUP_STEPS + job.num_steps}, {side.name}")
                side.step()
        ours, theirs = (side.steps[WARMUP_STEPS - 1 :] for side in sides)
        sides[0].step()
        return ours[: job.num_steps], theirs, sides[0].steps[-1]["payload"]
    finally:
        progress("")
        for side in sides:
            side.close()


def progress(text: str) -> None:
    """One line that overwrites itself, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def median(steps: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(value(step) for step in steps)


def print_speed(workload: Workload, sides: dict[str, list[dict[str, Any]]]) -> None:
    print(
        f"\n{workload.num_prompts} prompts x {GROUP_SIZE} answers, {workload.model_px} px, "
        f"at most {workload.max_new_tokens} new tokens\n\n"
        f"{'':10}{'s/step':>8}{'fastest':>9}{'slowest':>9}{'samples/s':>11}{'tokens/answer':>15}{'reward':>8}"
    )
    seconds = {}
    for name, steps in sides.items():
        seconds[name] = median(steps, lambda step: step["seconds"])
        facts = [step.get("metrics", step) for step in steps]
        print(
            f"{name:10}{seconds[name]:8.2f}{min(step['seconds'] for step in steps):9.2f}"
            f"{max(step['seconds'] for step in steps):9.2f}{workload.num_answers / seconds[name]:11.1f}"
            f"{statistics.mean(fact['answer_tokens'] for fact in facts):15.1f}"
            f"{statistics.mean(fact['reward'] for fact in facts):8.2f}"
        )
    ours, theirs = seconds.values()
    print(f"\nfxray takes {theirs / ours:.2f} times as many samples per second")


def print_breakdown(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], peer: str) -> None:
    """Where the seconds go; medians of the parts need not add up to the median of the whole."""

    def part(name: str) -> float:
        return median(ours, lambda step: step["metrics"].get(f"seconds/{name}", 0.0))

    draw = median(ours, lambda step: step["draw_s"])
    inside = ("preprocess", "reference", "forward", "backward", "step")
    update = ", ".join(f"{name} {part(f'update/{name}'):.3f}" for name in inside)
    print(
        f"fxray, seconds: prompts {draw:.3f}, generate {part('generate'):.3f}, score {part('score'):.3f}, "
        f"update {part('update'):.3f} ({update}), publish {part('publish'):.3f}"
    )
    rest = median(theirs, lambda step: step["seconds"] - step["generate"] - step["score"])
    print(
        f"{peer}, seconds: generate {median(theirs, lambda step: step['generate']):.3f}, "
        f"score {median(theirs, lambda step: step['score']):.3f}, reference, update and the rest {rest:.3f}"
    )


def print_payload(payload: dict[str, Any]) -> float:
    """Bytes per boundary beside the unique image bytes; returns the largest ratio of image bytes."""
    unique = payload["unique"]
    print(f"\nbytes of one step; unique image bytes: {unique:,}\n{'':42}{'bytes':>12}{'of images':>12}{'ratio':>7}")
    for name, (num_bytes, image_bytes) in sorted(payload["boundaries"].items()):
        print(f"{name:42}{num_bytes:12,}{image_bytes:12,}{image_bytes / unique:7.2f}")
    return max(image_bytes / unique for _, image_bytes in payload["boundaries"].values())


if __name__ == "__main__":
    main()
