"""A run rests on one base model, from SFT to its last answer."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fxray.config.load import load_config
from fxray.errors import CheckpointError, ConfigError, FxrayError
from fxray.events import ignore
from fxray.experiments.work import take_over_sft
from fxray.launch.base_model import keep_base
from fxray.launch.lease import LEASE_FILE
from fxray.launch.run import BASE_FILE, RunDirectory, open_finished, open_run
from fxray.launch.session import open_session
from fxray.model.folder import base_fingerprint


@pytest.fixture
def base(tmp_path: Path, random_model_dir: Path) -> Path:
    return shutil.copytree(random_model_dir, tmp_path / "base")


@pytest.fixture
def run_dir(base: Path, tmp_path: Path) -> Path:
    """A run that has done SFT."""
    config = load_config("tiny", [f"model.path={base}"])
    with open_run(tmp_path / "runs" / "first", config) as run:
        keep_base(run, base)
        run.sft_adapter.mkdir(parents=True)
    return run.root


def merge(base: Path) -> None:
    """Changes layers between the first and the last tensors, as an adapter does that is merged into them."""
    before = base_fingerprint(base)
    weights = {
        name: tensor + 1 if ".layers." in name and name.endswith("proj.weight") else tensor
        for name, tensor in load_file(base / "model.safetensors").items()
    }
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert base_fingerprint(base) == before  # which checkpoints of stages are compared by


def test_a_run_does_not_go_on_with_a_base_that_was_merged_anew_under_its_name(base: Path, run_dir: Path) -> None:
    config = load_config("tiny", [f"model.path={base}"])
    keep_base(RunDirectory(run_dir), base)
    merge(base)
    with (
        pytest.raises(CheckpointError, match="are not those that the run was begun with") as caught,
        open_session(config, run_dir, ignore),
    ):
        pass
    assert str(base) in caught.value.where
    assert str(run_dir) in caught.value.remedy


def test_the_policy_of_a_run_does_not_answer_on_another_base(base: Path, run_dir: Path) -> None:
    with open_finished(run_dir, ()):
        pass
    merge(base)
    with pytest.raises(CheckpointError, match="are not those that the run was begun with"), open_finished(run_dir, ()):
        pass
    shutil.rmtree(base)  # what needs no model goes on without it
    with open_finished(run_dir, ()):
        pass


def test_a_base_that_was_moved_is_the_same(base: Path, run_dir: Path) -> None:
    moved = base.rename(base.parent / "elsewhere")
    setting = f"model.path={moved}"
    with open_finished(run_dir, [setting]) as (config, _):
        assert config.model.path == str(moved)
    with open_run(run_dir, load_config("tiny", [setting])):
        assert load_config(run_dir / "config.yaml").model.path == str(moved)
    merge(shutil.copytree(moved, base))
    for other in (base, base / "nothing"):
        config = load_config("tiny", [f"model.path={other}"])
        with pytest.raises(ConfigError, match=r"other values of model\.path\n"), open_run(run_dir, config):
            pass


def test_a_run_of_an_earlier_version_is_not_refused_and_says_its_base_from_now_on(base: Path, run_dir: Path) -> None:
    (run_dir / BASE_FILE).unlink()
    merge(base)
    keep_base(RunDirectory(run_dir), base)
    merge(base)
    with pytest.raises(CheckpointError):
        keep_base(RunDirectory(run_dir), base)


def test_a_driver_that_was_overtaken_does_not_say_what_another_ones_run_rests_on(base: Path, tmp_path: Path) -> None:
    with open_run(tmp_path / "run", load_config("tiny", [f"model.path={base}"])) as run:
        lease = run.root / LEASE_FILE
        lease.write_text(json.dumps(json.loads(lease.read_text()) | {"token": "another", "text": "pid 1 on a node"}))
        with pytest.raises(FxrayError, match="pid 1 on a node took this run over"):
            keep_base(run, base)
        assert not (run.root / BASE_FILE).exists()


def test_an_sft_on_another_base_is_not_taken_over(base: Path, run_dir: Path) -> None:
    second = run_dir.with_name("second")
    config = load_config("tiny", [f"model.path={base}", "grpo.learning_rate=0.5"])
    merge(base)
    take_over_sft(second, config, ignore)
    assert not (second / "sft").exists()
    (run_dir / BASE_FILE).unlink()
    take_over_sft(second, config, ignore)
    assert (second / "sft" / "taken-from").read_text() == "first\n"
