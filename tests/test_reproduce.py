"""Two rows of an experiment for real, on the smallest scale: trained, measured, and found done the second time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(2400)]

DEADLINE_S = 2000
EXPERIMENT = """
title: The three stages against the last one throughout
source: Table 4
kind: trainings
columns: [accuracy, iou, again.accuracy]
reference: Best
equal_steps: true
rows:
  - {title: Best, paper: {accuracy: 0.981, iou: 0.378}}
  - {title: SFT, phase: sft}
  - {title: GRPO γ throughout, set: [grpo.schedule=fixed-gamma], paper: {accuracy: 0.947, iou: 0.401}}
"""
SETTINGS = (
    "data.synth.num_train=64",
    "data.synth.num_validation=8",
    "data.synth.num_test=16",
    "sft.max_steps=6",
    "sft.batch_size=8",
    "grpo.steps_per_stage=1",
    "grpo.prompts_per_step=4",
    "grpo.max_new_tokens=32",
    "evaluate.max_new_tokens=32",
    "evaluate.num_bootstrap=50",
    "ray.object_store_mib=128",
)


def reproduce(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fxray", "reproduce", str(folder / "rows.yaml"), "--config", "smoke"]
    command += ["--out", str(folder / "out"), *more]
    for setting in SETTINGS:
        command += ["--set", setting]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "rows.yaml").write_text(EXPERIMENT)
    done = reproduce(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_both_trainings_are_measured_and_share_their_sft(folder: Path) -> None:
    content = json.loads((folder / "out" / "rows" / "rows.json").read_text())
    lines = {line["title"]: line for line in content["lines"]}
    assert content["is_synthetic"]
    assert [lines["Best"]["num_steps"], lines["GRPO γ throughout"]["num_steps"]] == [3, 3]
    assert all(line["metrics"]["accuracy"]["value"] is not None for line in lines.values())
    assert set(lines["GRPO γ throughout"]["gains"]) == {"accuracy", "iou"}
    runs = folder / "out" / "runs"
    weights = [runs / name / "sft/adapter/adapter_model.safetensors" for name in ("base", "grpo.schedule-fixed-gamma")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    logs = [(runs / name / "metrics.jsonl").read_text() for name in ("base", "grpo.schedule-fixed-gamma")]
    assert [log.count('"phase": "sft"') for log in logs] == [6, 6]
    assert "SYNTHETIC" in (folder / "out" / "rows" / "rows.md").read_text()
    assert (folder / "out" / "rows" / "curves.svg").stat().st_size > 10_000


def test_what_is_done_is_not_done_again_and_other_images_are_answered(folder: Path) -> None:
    reports = [folder / "out" / "runs" / name / "report.html" for name in ("base", "grpo.schedule-fixed-gamma")]
    written = [report.stat().st_mtime_ns for report in reports]
    done = reproduce(folder, "--ood", f"again={folder / 'out' / 'data' / 'test.parquet'}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [report.stat().st_mtime_ns for report in reports] == written
    lines = json.loads((folder / "out" / "rows" / "rows.json").read_text())["lines"]
    for line in lines:  # the same images, asked for the second time
        assert line["metrics"]["again.accuracy"]["value"] == line["metrics"]["accuracy"]["value"]
