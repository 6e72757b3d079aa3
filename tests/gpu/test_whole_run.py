"""Whole runs on a GPU: one that is killed and goes on, and one whose learner alone has a GPU."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fxray.metrics import read_metrics

TOP = Path(__file__).parents[2]
NULL = "(null)"
"""In the name of the GPU that does nothing, tests/gpu/null."""
TURNS = [
    "sft.num_workers=2",
    "learner.num_ranks=2",
    "learner.gpus_per_rank=0.4",
    "rollout.num_workers=2",
    "rollout.gpus_per_worker=0.6",
    "rollout.sleep=true",
]
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(720)]


def command(place: Any, run_dir: Path, *more: str) -> list[str]:
    overrides = [part for override in place.overrides(*more) for part in ("--set", override)]
    return [sys.executable, "-m", "fxray", "train", "--config", "smoke", "--run-dir", str(run_dir), *overrides]


def test_a_whole_run_on_one_gpu_is_killed_and_goes_on(place: Any, tmp_path: Path) -> None:
    steps = "grpo.steps_per_stage=4"
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command(place, tmp_path / "run", steps), stdout=log, stderr=log, start_new_session=True)
    end_s = time.monotonic() + 300
    while not list((tmp_path / "run").glob("grpo/alpha/step-*")) and time.monotonic() < end_s:
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = command(place, tmp_path / "run", steps)
    done = subprocess.run(again, check=False, capture_output=True, text=True, timeout=390)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.null
@pytest.mark.parametrize(
    ("num_gpus", "is_compiled"),
    [(1, False), pytest.param(1, True, marks=pytest.mark.long), pytest.param(2, True, marks=pytest.mark.long)],
)
def test_a_whole_run_whose_ranks_alone_compute_on_gpus_goes_through_every_phase(
    tmp_path: Path, num_gpus: int, is_compiled: bool
) -> None:
    """On the null GPU its weights are garbage, which the probe is told to bear; engines answer on the CPU.

    Of two, each is shared: a rank of the learner has what one of two engines leaves of it. Compiling takes minutes, and
    ranks that compile are in other tests.
    """
    if NULL not in torch.cuda.get_device_name():
        pytest.skip("where there is a GPU, engines have a share of it, as in the test above")
    run_dir, size = tmp_path / "run", "data.synth={num_train: 64, num_validation: 16, num_test: 8, size_px: 168}"
    learns = [
        "model.dtype=bfloat16",
        "rollout.probe_tolerance_nats=1000",
        *(TURNS if num_gpus == 2 else ["sft.num_workers=1", "learner.gpus_per_rank=1"]),
        "grpo.max_new_tokens=16",  # garbage never ends by itself
        "evaluate.max_new_tokens=16",
    ]
    overrides = [part for override in (*learns, size) for part in ("--set", override)]
    train = ["-m", "fxray", "train", "--config", "smoke", "--run-dir", str(run_dir), *overrides]
    done = subprocess.run(
        [sys.executable, "tests/gpu/null/launch.py", *train],
        cwd=TOP,
        env=os.environ | {"NULL_GPUS": f"{num_gpus}", "TORCHDYNAMO_DISABLE": "01"[not is_compiled]},
        check=False,
        capture_output=True,
        text=True,
        timeout=660,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps = read_metrics(run_dir)
    assert [step.phase for step in steps] == ["sft"] * 4 + ["alpha"] * 2 + ["beta"] * 2 + ["gamma"] * 2
    assert all(step.metrics["tokens"] > 0 for step in steps if step.phase != "sft")
    assert (run_dir / "report.html").exists()
