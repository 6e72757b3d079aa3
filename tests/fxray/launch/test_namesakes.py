"""Ray's processes look for modules in the current folder first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fxray.config.load import load_config
from fxray.errors import ConfigError
from fxray.events import ignore
from fxray.launch.namesakes import refuse_namesakes
from fxray.launch.session import open_session


@pytest.mark.parametrize("name", ["rewards.py", "actors.py", "actors/__init__.py"])
def test_a_module_with_the_name_of_one_of_fxrays_is_refused(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "actors").mkdir()  # of anything else, which Python passes over
    (tmp_path / "mine.py").touch()
    refuse_namesakes()
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=f"{name}: has the name of a module of fxray's"):
        open_session(load_config("tiny"), tmp_path / "run", ignore).__enter__()
    assert not (tmp_path / "run").exists()
    for module in ("fxray", "actors", "rewards"):
        (tmp_path / module).mkdir(exist_ok=True)
        (tmp_path / module / "__init__.py").touch()
    refuse_namesakes()


@pytest.mark.parametrize(
    ("module", "command", "status"),
    [("rewards", "sft", 2), ("rewards", "config check", 2), ("mine", "config check", 0)],
)
def test_python_m_fxray_finds_its_own_modules_first(module: str, command: str, status: int, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("def brevity(answer_text, annotation, frame): return -len(answer_text)")
    settings = ["--config", "smoke", "--set", f"reward.functions=[{{path: '{module}:brevity', weight: 0.1}}]"]
    done = subprocess.run(
        [sys.executable, "-m", "fxray", *command.split(), *settings],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert status == 0 or "has the name of a module of fxray's" in done.stderr
