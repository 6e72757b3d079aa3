"""A sweep of two trials for real, on the smallest scale: trained, compared, found done, and its best trained again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fxray.config.load import load_config

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(2400)]

DEADLINE_S = 2000
SWEEP = """
title: Two rates
fields:
  grpo.learning_rate: {grid: [1.0e-4, 1.0e-3]}
metric: accuracy
"""
SETTINGS = (
    "data.synth.num_train=64",
    "data.synth.num_validation=16",
    "data.synth.num_test=8",
    "sft.max_steps=6",
    "sft.batch_size=8",
    "grpo.schedule=fixed-gamma",
    "grpo.steps_per_stage=1",
    "grpo.prompts_per_step=4",
    "grpo.max_new_tokens=32",
    "evaluate.max_new_tokens=32",
    "evaluate.num_bootstrap=50",
    "ray.object_store_mib=128",
)


def sweep(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fxray", "sweep", str(folder / "rates.yaml"), "--config", "smoke"]
    command += ["--out", str(folder / "out")]
    for setting in SETTINGS:
        command += ["--set", setting]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "rates.yaml").write_text(SWEEP)
    done = sweep(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_both_trials_share_their_sft_and_leave_the_test_split_alone(folder: Path) -> None:
    out = folder / "out"
    content = json.loads((out / "sweep.json").read_text())
    assert content["is_synthetic"]
    trials = [trial for setting in content["settings"] for trial in setting["trials"]]
    assert [trial["state"] for trial in trials] == ["", ""]
    assert all(trial["metrics"]["accuracy"]["value"] is not None and trial["seconds"] > 0 for trial in trials)
    runs = sorted((out / "trials").iterdir())
    weights = [(run / "sft/adapter/adapter_model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    assert not list(out.glob("trials/*/evaluation/*/predictions.parquet"))
    best = load_config(out / "best.yaml")
    assert best.grpo.learning_rate in (1e-4, 1e-3)
    assert best.data.synth is not None


def test_what_is_done_is_not_done_again(folder: Path) -> None:
    logs = sorted((folder / "out" / "logs").iterdir())
    written = [log.stat().st_mtime_ns for log in logs]
    done = sweep(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [log.stat().st_mtime_ns for log in logs] == written
