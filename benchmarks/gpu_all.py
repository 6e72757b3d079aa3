"""All that wants a GPU, from the repository's root, on a bare machine: tests first, then each benchmark.

    python benchmarks/gpu_all.py --wheels DIR [--out DIR] [--model 3b|7b] [--only NAME ...] [--list]

The machine has torch, transformers and peft, and no network; the folder holds wheels of vLLM, Ray, DeepSpeed and what
they need. They go into a folder of their own, nothing else is changed. Each run ends within eight minutes; what it
prints is shown and kept as DIR/NAME.txt. A run that fails does not stop the next; the exit code counts those.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 480
SHAPES = {"3b": "qwen2.5-vl-3b", "7b": "qwen2.5-vl-7b"}
AT_504 = ["--px", "504", "--gpu", "--dtype", "bfloat16", "--max-new-tokens", "256", "--threads", "4"]


def runs(model: str) -> dict[str, list[str]]:
    """Name and arguments of every run."""
    rollout = ["benchmarks/rollout.py", "--model", model, *AT_504, "--steps", "4", "--max-num-seqs", "128"]
    return {
        "doctor": ["-m", "fxray", "doctor"],
        "tests": ["-m", "pytest", "tests/gpu", "--long", "-q", "-s", "-p", "no:cacheprovider"],
        "rollout": [*rollout, "--prompts", "32", "--answers", "8"],
        "detect": [*rollout, "--prompts", "256", "--answers", "1"],
        "learner": ["benchmarks/gpu_learner.py", "--model", model],
        "memory": ["benchmarks/gpu_memory.py", "--model", model],
        "step": ["benchmarks/gpu_step.py", "--model", model],
        "peer": [
            "benchmarks/grpo_step.py",
            "--peer",
            "trl",
            "--gpu",
            "--workload",
            "504",
            "--model",
            model,
            "--steps",
            "4",
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="folder of wheels; without it what is installed is used")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--model", choices=list(SHAPES), default="3b", help="shape, with random weights")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="some of the runs")
    parser.add_argument("--list", action="store_true", help="print the runs and end")
    args = parser.parse_args()
    model = str(args.out / args.model)
    chosen = {name: command for name, command in runs(model).items() if not args.only or name in args.only}
    if args.only and (unknown := set(args.only) - chosen.keys()):
        parser.error(f"there is no run {', '.join(sorted(unknown))}; choose from {', '.join(runs(model))}")
    if args.wheels is not None and not any(args.wheels.glob("*.whl")):
        parser.error(f"--wheels: {args.wheels} is no folder with wheels in it; fill it with `pip download`")
    if args.list:
        for name, command in chosen.items():
            print(f"{name:10}python {' '.join(command)}")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [*install(args.wheels, args.out), str(ROOT), os.environ.get("PYTHONPATH")])
    )
    shape = ["-m", "fxray", "model", "random", model, "--like", SHAPES[args.model]]
    if any(model in command for command in chosen.values()) and not Path(model).exists():
        subprocess.run([sys.executable, *shape], cwd=ROOT, env=environment, check=True, timeout=DEADLINE_S)
    failed = [name for name, command in chosen.items() if not run(name, command, args.out, environment)]
    print(
        f"\n{len(chosen) - len(failed)} of {len(chosen)} runs ended well"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    sys.exit(len(failed))


def install(wheels: Path | None, out: Path) -> list[str]:
    """Puts the wheels into a folder; returns what to add to the path."""
    if wheels is None:
        return []
    site = out / "site"
    if not site.exists():
        aside = out / "site.part"
        shutil.rmtree(aside, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target"]
        subprocess.run([*command, str(aside), *map(str, sorted(wheels.glob("*.whl")))], check=True, timeout=DEADLINE_S)
        aside.rename(site)
    return [str(site.resolve())]


def run(name: str, command: list[str], out: Path, environment: dict[str, str]) -> bool:
    """Runs one, shows and keeps what it prints."""
    print(f"\n== {name}: python {' '.join(command)}", flush=True)
    start_s = time.monotonic()
    with (out / f"{name}.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        # Whoever hangs says nothing, and its children hold on to its output.
        late = threading.Timer(DEADLINE_S, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        try:
            for line in process.stdout:
                sys.stdout.write(line)
                log.write(line)
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            late.cancel()
        code = 124 if time.monotonic() - start_s >= DEADLINE_S else code
        log.write(f"exit code {code}, {time.monotonic() - start_s:.0f} s\n")
    print(f"== {name}: exit code {code}, {time.monotonic() - start_s:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    main()
