"""Checkpoints appear whole, know what they belong to, and the old ones go."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fxray.checkpoints import (
    CheckpointState,
    checkpoints,
    latest,
    newest_sound,
    read_state,
    retain,
    save_checkpoint,
    step_dir,
)
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


@pytest.mark.parametrize(("num_saved", "keep_last"), [(1, 2), (2, 2), (3, 2), (2, 4), (0, 1)])
def test_retention_takes_none_of_the_last_ones(tmp_path: Path, num_saved: int, keep_last: int) -> None:
    for step in range(num_saved):
        save(tmp_path, step)
    retain(tmp_path, keep_last)
    kept = range(num_saved)[-keep_last:]
    assert sorted(p.name for p in tmp_path.iterdir()) == [step_dir(tmp_path, step).name for step in kept]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"stage": "alpha"}', "cannot be read"),
        ('{"stage": "a", "step": 1, "policy_version": 1, "base_fingerprint": "f", "format": 9}', "has format 9"),
        ('{"stage": "a", "step": 1, "policy_version": 1, "base_fingerprint": "f", "format": 1}', "has format 1"),
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


def find(stage_dir: Path) -> tuple[tuple[str, int] | None, list[str]]:
    """Name and step of the newest whole checkpoint, and what is told of the damaged ones."""
    told: list[str] = []
    found = newest_sound(checkpoints(stage_dir), lambda path: read_state(path, "f" * 64), told.append)
    return (found[0].name, found[1].step) if found else None, told


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("file", ["weights", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_serves(
    tmp_path: Path, damage: Callable[[Path], None], file: str
) -> None:
    for step in (20, 40):
        save(tmp_path, step)
    damage(step_dir(tmp_path, 40) / file)
    found, told = find(tmp_path)
    assert found == ("step-000020", 20)
    assert len(told) == 1
    assert file in told[0]
    assert told[0].endswith("it lies in damaged-step-000040 now")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged-step-000040", "step-000020"]
    assert find(tmp_path) == (("step-000020", 20), [])


def with_adapter(folder: Path) -> None:
    """What a learner writes: a folder in the folder; a calibration may lie in it already."""
    (folder / "adapter").mkdir()
    (folder / "adapter" / "weights").write_text("whole")
    (folder / "adapter" / "calibration.json").write_text("old")


def test_files_of_a_folder_inside_a_checkpoint_are_looked_at_too(tmp_path: Path) -> None:
    save(tmp_path, 20)
    save_checkpoint(step_dir(tmp_path, 40), replace(STATE, step=40), with_adapter)
    assert find(tmp_path) == (("step-000040", 40), [])
    (step_dir(tmp_path, 40) / "adapter" / "weights").unlink()
    found, told = find(tmp_path)
    assert found == ("step-000020", 20)
    assert "adapter/weights is missing" in told[0]


def test_a_calibration_that_is_fitted_anew_is_no_damage(tmp_path: Path) -> None:
    save_checkpoint(step_dir(tmp_path, 40), replace(STATE, step=40), with_adapter)
    (step_dir(tmp_path, 40) / "adapter" / "calibration.json").write_text("new")
    assert find(tmp_path) == (("step-000040", 40), [])


def test_a_damaged_end_of_a_stage_takes_it_back_to_its_last_steps(tmp_path: Path) -> None:
    save(tmp_path, 20)
    save_checkpoint(tmp_path / "final", STATE, lambda folder: (folder / "weights").write_text("a"))
    (tmp_path / "final" / "weights").write_text("b")
    found, told = find(tmp_path)
    assert found == ("step-000020", 20)
    assert "weights is not what was written" in told[0]


@pytest.mark.parametrize("content", ["{}", "[]", "null", "0", '"a"'])
def test_a_manifest_that_names_nothing_is_damaged(tmp_path: Path, content: str) -> None:
    for step in (20, 40):
        save(tmp_path, step)
    (step_dir(tmp_path, 40) / "manifest.json").write_text(content)
    found, told = find(tmp_path)
    assert found == ("step-000020", 20)
    assert "it names no file" in told[0]


def test_what_somebody_puts_beside_a_checkpoints_files_does_no_harm(tmp_path: Path) -> None:
    save(tmp_path, 20)
    (step_dir(tmp_path, 20) / "README.md").write_text("A model card.")
    assert find(tmp_path) == (("step-000020", 20), [])


def test_a_second_damage_of_one_name_keeps_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        save(tmp_path, 20)
        cut(save(tmp_path, 40) / "weights")
        find(tmp_path)
    assert {path.name for path in tmp_path.glob("damaged*")} == {"damaged-step-000040", "damaged-step-000040-2"}


def test_where_all_are_damaged_the_run_stops_once_and_then_starts_the_stage_anew(tmp_path: Path) -> None:
    for step in (20, 40):
        cut(save(tmp_path, step) / "weights")
    with pytest.raises(CheckpointError, match="no checkpoint is whole, 2 are damaged") as error:
        find(tmp_path)
    assert error.value.where == str(tmp_path)
    assert find(tmp_path) == (None, [])


def test_another_model_is_no_damage(tmp_path: Path) -> None:
    save(tmp_path, 20)
    with pytest.raises(CheckpointError, match="another base model"):
        newest_sound(checkpoints(tmp_path), lambda path: read_state(path, "0" * 64), lambda text: None)
    assert latest(tmp_path) == step_dir(tmp_path, 20)
