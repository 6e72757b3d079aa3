"""Checkpoints appear whole, know what they belong to, and the old ones go."""

from dataclasses import replace
from pathlib import Path

import pytest

from fxray.checkpoints import CheckpointState, latest, read_state, retain, save_checkpoint, step_dir
from fxray.errors import CheckpointError

STATE = CheckpointState("alpha", 20, 20, "f" * 64)


def save(stage_dir: Path, step: int) -> Path:
    path = step_dir(stage_dir, step)
    save_checkpoint(path, replace(STATE, step=step), lambda folder: (folder / "weights").write_text(str(step)))
    return path


def test_a_checkpoint_reads_back(tmp_path: Path) -> None:
    path = save(tmp_path, 20)
    assert read_state(path, "f" * 64) == STATE
    assert (path / "weights").read_text() == "20"


def test_a_learner_that_dies_while_saving_leaves_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 20)

    def die(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        save_checkpoint(step_dir(tmp_path, 40), replace(STATE, step=40), die)
    assert latest(tmp_path) == step_dir(tmp_path, 20)


def test_the_furthest_is_the_latest_and_final_beats_all(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent") is None
    for step in (20, 100, 40):
        save(tmp_path, step)
    assert latest(tmp_path) == step_dir(tmp_path, 100)
    save_checkpoint(tmp_path / "final", STATE, lambda folder: None)
    assert latest(tmp_path) == tmp_path / "final"


def test_retention_keeps_the_last_ones_and_final(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    save_checkpoint(tmp_path / "final", STATE, lambda folder: None)
    retain(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final", "step-000003", "step-000004"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"stage": "alpha"}', "cannot be read"),
        ('{"stage": "a", "step": 1, "policy_version": 1, "base_fingerprint": "f", "format": 9}', "has format 9"),
    ],
)
def test_a_damaged_checkpoint_names_itself_and_the_remedy(tmp_path: Path, content: str, message: str) -> None:
    path = save(tmp_path, 20)
    (path / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match=message) as error:
        read_state(path, "f" * 64)
    assert error.value.where == str(path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another base model"):
        read_state(save(tmp_path, 20), "0" * 64)
