"""A run directory belongs to one configuration and one driver at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fxray.config.load import load_config
from fxray.errors import ConfigError, FxrayError
from fxray.launch.run import open_run


def test_a_run_is_continued_with_the_same_configuration(tmp_path: Path) -> None:
    config = load_config("tiny", [])
    with open_run(tmp_path, config):
        pass
    with open_run(tmp_path, config) as run:
        assert load_config(run.root / "config.yaml", []) == config
        assert json.loads((run.root / "versions.json").read_text())["packages"]["ray"] == "2.58.1"


def test_another_learning_rate_is_refused_by_name(tmp_path: Path) -> None:
    with open_run(tmp_path, load_config("tiny", [])):
        pass
    other = load_config("tiny", ["grpo.learning_rate=0.5", "seed=9"])
    message = r"other values of seed, grpo\.learning_rate"
    with pytest.raises(ConfigError, match=message), open_run(tmp_path, other):
        pass


def test_more_workers_do_not_change_what_a_run_is(tmp_path: Path) -> None:
    with open_run(tmp_path, load_config("tiny", [])):
        pass
    with open_run(tmp_path, load_config("tiny", ["rollout.num_workers=3"])) as run:
        assert load_config(run.root / "config.yaml", []).rollout.num_workers == 3


def test_a_second_driver_is_told_who_holds_the_run(tmp_path: Path) -> None:
    config = load_config("tiny", [])
    code = (
        "import sys; from pathlib import Path; from fxray.launch.run import open_run;"
        "from fxray.config.load import load_config\n"
        "with open_run(Path(sys.argv[1]), load_config('tiny', [])): pass"
    )
    with open_run(tmp_path, config):
        second = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )
    assert "another process (pid " in second.stderr
    with open_run(tmp_path, config):
        pass


def test_leftovers_of_a_killed_driver_are_cleared(tmp_path: Path) -> None:
    config = load_config("tiny", [])
    with open_run(tmp_path, config):
        pass
    half = tmp_path / "grpo" / "alpha" / ".step-000020.123.tmp"
    half.mkdir(parents=True)
    (half / "x").write_text("half")
    with open_run(tmp_path, config):
        assert not half.exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FxrayError, match="not a run directory"), open_run(tmp_path, load_config("tiny", [])):
        pass
    assert {p.name for p in tmp_path.iterdir()} <= {"thesis.tex", ".lock"}
