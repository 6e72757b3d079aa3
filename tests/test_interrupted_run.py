"""The whole way for real, on the smallest scale: a run that is killed in SFT and in beta ends as a quiet one does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(2400)]

DEADLINE_S = 800
SCHEDULE = """
stages:
  - name: alpha
    rewards: {w_iou: 1.0, label: {right: 1.0, wrong: -1.0}, format: {right: 2.0, wrong: -1.0}}
  - name: beta
    rewards: {w_iou: 1.5, label: {right: 2.0, wrong: -2.0}, format: {right: 1.0, wrong: -1.5}}
"""
SETTINGS = (
    "data.synth.num_train=64",
    "data.synth.num_validation=8",
    "data.synth.num_test=16",
    "sft.max_steps=6",
    "sft.batch_size=8",
    "sft.micro_batch_size=4",
    "sft.checkpoint_every_steps=2",
    "grpo.steps_per_stage=3",
    "grpo.prompts_per_step=4",
    "grpo.group_size=4",
    "grpo.max_new_tokens=32",
    "evaluate.max_new_tokens=32",
    "evaluate.num_bootstrap=50",
    "checkpoint.every_steps=1",
    "ray.object_store_mib=128",
)


def start(run_dir: Path, schedule: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fxray", "train", "--config", "smoke", "--run-dir", str(run_dir)]
    for setting in [*SETTINGS, f"grpo.schedule={schedule}"]:
        command += ["--set", setting]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(run_dir.parent / "stderr").open("ab"))


def finish(run_dir: Path, schedule: Path) -> None:
    assert start(run_dir, schedule).wait(DEADLINE_S) == 0, (run_dir.parent / "stderr").read_text()[-3000:]


def kill_when(is_time: Callable[[], bool], run_dir: Path, schedule: Path) -> None:
    """Starts the run and sends kill -9 to its driver at a point in its way."""
    driver = start(run_dir, schedule)
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_time():
        assert driver.poll() is None, (run_dir.parent / "stderr").read_text()[-3000:]
        assert time.monotonic() < deadline_s, "the run did not come to the point where it should be killed"
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(30)


def steps(run_dir: Path) -> dict[tuple[str, int], float]:
    """Reward or loss by phase and step; a step that is recorded twice fails."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    keys = [(line["phase"], line["step"]) for line in lines]
    assert len(keys) == len(set(keys)), "a step is recorded twice"
    return {key: line["metrics"].get("reward", line["metrics"]["loss"]) for key, line in zip(keys, lines, strict=True)}


def has_reached(run_dir: Path, phase: str, step: int) -> Callable[[], bool]:
    log = run_dir / "metrics.jsonl"
    return lambda: log.exists() and f'"phase": "{phase}", "step": {step}' in log.read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A quiet run, and one that was killed in SFT and in beta."""
    root = tmp_path_factory.mktemp("runs")
    schedule = root / "schedule.yaml"
    schedule.write_text(SCHEDULE)
    quiet, killed = root / "quiet", root / "killed"
    finish(quiet, schedule)
    kill_when(has_reached(killed, "sft", 3), killed, schedule)
    kill_when(has_reached(killed, "beta", 2), killed, schedule)
    finish(killed, schedule)
    return quiet, killed


@pytest.mark.parametrize("adapter", ["sft/adapter", "grpo/alpha/final/adapter", "grpo/beta/final/adapter"])
def test_the_weights_are_the_same_to_the_last_bit(runs: tuple[Path, Path], adapter: str) -> None:
    quiet, killed = ((run / adapter / "adapter_model.safetensors").read_bytes() for run in runs)
    assert quiet == killed


def test_no_step_is_skipped_or_repeated_and_each_draws_the_same(runs: tuple[Path, Path]) -> None:
    quiet, killed = map(steps, runs)
    assert [key for key in quiet if key[0] != "sft"] == [(s, i) for s in ("alpha", "beta") for i in (1, 2, 3)]
    assert killed == quiet


def test_both_reports_tell_the_same_numbers(runs: tuple[Path, Path]) -> None:
    quiet, killed = (json.loads((run / "metrics.json").read_text())["evaluations"] for run in runs)
    for evaluation in [*quiet.values(), *killed.values()]:
        del evaluation["seconds_per_image"]
    assert quiet == killed
    assert (runs[1] / "report.html").stat().st_size > 10_000


def test_the_run_says_that_its_data_is_synthetic(runs: tuple[Path, Path]) -> None:
    assert "synthetic" in (runs[0] / "report.html").read_text().lower()
