import importlib
import json
import sys
from pathlib import Path

import pytest

from fxray.checkpoints import step_dir
from fxray.config.load import load_config
from fxray.config.tree import Config
from fxray.launch.run import RunDirectory
from fxray.launch.user_modules import keep_rewards


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Of a reward in a module of a package, which imports another module beside it."""
    (tmp_path / "of_mine").mkdir()
    (tmp_path / "of_mine" / "score.py").write_text("import words_of_mine\ndef one(a, b, c): return 1\n")
    (tmp_path / "words_of_mine.py").write_text("LIMIT = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("of_mine", "of_mine.score", "words_of_mine"):  # of another test's folder
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.import_module("of_mine.score")
    return load_config("smoke", ["reward.functions=[{path: 'of_mine.score:one'}]"])


def run_in(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.root.mkdir()
    return run


@pytest.mark.parametrize("edited", ["of_mine/score.py", "words_of_mine.py"])
def test_a_run_that_goes_on_with_edited_rewards_says_so_once(tmp_path, config, edited):
    run = run_in(tmp_path)
    assert keep_rewards(run, config) == ""
    step_dir(run.stage_dir("alpha"), 1).mkdir(parents=True)
    assert keep_rewards(run, config) == ""
    with (tmp_path / edited).open("a") as file:
        file.write("# another\n")
    assert keep_rewards(run, config).startswith(f"{edited} has been edited since GRPO began")
    assert keep_rewards(run, config) == ""


def test_before_a_stage_has_kept_anything_rewards_may_change(tmp_path, config):
    run = run_in(tmp_path)
    keep_rewards(run, config)
    (tmp_path / "words_of_mine.py").write_text("LIMIT = 2\n")
    assert keep_rewards(run, config) == ""
    step_dir(run.stage_dir("alpha"), 1).mkdir(parents=True)
    assert keep_rewards(run, config) == ""


def test_a_finished_run_has_no_more_answers_to_score(tmp_path, config):
    run = run_in(tmp_path)
    keep_rewards(run, config)
    for stage in ("alpha", "beta", "gamma"):
        run.stage_adapter(stage).mkdir(parents=True)
    (tmp_path / "words_of_mine.py").unlink()
    assert keep_rewards(run, config) == ""


def test_a_run_of_an_earlier_version_and_one_without_functions_have_nothing_to_compare(tmp_path, config):
    run = run_in(tmp_path)
    step_dir(run.stage_dir("alpha"), 1).mkdir(parents=True)
    assert keep_rewards(run, load_config("smoke", [])) == ""
    assert not (run.root / "rewards.json").exists()
    assert keep_rewards(run, config) == ""
    (run.root / "rewards.json").write_text("[]")
    assert keep_rewards(run, config) == ""


def test_modules_found_through_a_link_and_locks_of_editors_are_no_trouble(tmp_path, monkeypatch):
    real, link = tmp_path / "real", tmp_path / "link"
    (real / "linked_of_mine").mkdir(parents=True)
    (real / "linked_of_mine" / "score.py").write_text("def one(a, b, c): return 1\n")
    for name in (".#score.py", "gone.py"):
        (real / "linked_of_mine" / name).symlink_to("someone@somewhere.1234")
    link.symlink_to(real)
    monkeypatch.syspath_prepend(link)
    importlib.import_module("linked_of_mine.score")
    run = run_in(tmp_path)
    assert keep_rewards(run, load_config("smoke", ["reward.functions=[{path: 'linked_of_mine.score:one'}]"])) == ""
    assert list(json.loads((run.root / "rewards.json").read_text())) == ["linked_of_mine/score.py"]
