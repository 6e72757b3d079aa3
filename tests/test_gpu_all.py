"""What runs all that wants a GPU: where GPUs are lent by the hour, a run that hangs must not keep one."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks/gpu_all.py"
HANGS = "import subprocess; print('up', flush=True); subprocess.run(['sleep', '60'])"


@pytest.fixture
def gpu_all() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_all", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_that_hangs_without_a_word_ends_at_its_deadline_with_its_children(
    gpu_all: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_all, "DEADLINE_S", 2)
    start_s = time.monotonic()
    assert not gpu_all.run("hangs", ["-c", HANGS], tmp_path, dict(os.environ))
    assert 2 <= time.monotonic() - start_s < 20
    assert (tmp_path / "hangs.txt").read_text().startswith("up\nexit code 124, ")


def test_what_a_run_prints_is_kept_with_its_exit_code(gpu_all: ModuleType, tmp_path: Path) -> None:
    assert gpu_all.run("well", ["-c", "print(7)"], tmp_path, dict(os.environ))
    assert not gpu_all.run("badly", ["-c", "raise SystemExit(3)"], tmp_path, dict(os.environ))
    assert (tmp_path / "well.txt").read_text().startswith("7\nexit code 0, ")
    assert "exit code 3" in (tmp_path / "badly.txt").read_text()


def test_a_folder_without_wheels_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, PROGRAM, "--wheels", tmp_path, "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"gpu_all.py: error: --wheels: {tmp_path} is no folder with wheels")
    assert not (tmp_path / "out").exists()
