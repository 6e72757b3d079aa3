from dataclasses import replace
from pathlib import Path

import pytest

from fxray.errors import CheckpointError
from fxray.sft.checkpoint import SftState, latest, new_attempt, read_state, write_state
from fxray.sft.settings import SftSettings


def test_a_state_is_read_as_it_was_written(settings: SftSettings, tmp_path: Path) -> None:
    state = SftState(7, 12, {3: "row 3: damaged"})

    write_state(tmp_path, state, settings)

    assert read_state(tmp_path, replace(settings, num_workers=2, max_failures=9)) == state


def test_a_checkpoint_of_other_settings_names_them(settings: SftSettings, tmp_path: Path) -> None:
    write_state(tmp_path, SftState(7, 12, {}), settings)

    with pytest.raises(CheckpointError, match="other values of learning_rate, seed"):
        read_state(tmp_path, replace(settings, learning_rate=1e-5, seed=1))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"step": 1, "num_steps": 2, "corrupt_rows": [], "settings": {}}'])
def test_a_damaged_state_is_refused(settings: SftSettings, tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)

    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(tmp_path, settings)


def test_the_checkpoint_that_reaches_furthest_is_found_over_all_attempts(tmp_path: Path) -> None:
    for name in ("attempt-0/step-000020", "attempt-1/step-000100", "attempt-1/.step-000120.77.tmp", "attempt-2"):
        (tmp_path / name).mkdir(parents=True)

    assert latest(tmp_path) == tmp_path / "attempt-1/step-000100"
    assert latest(tmp_path / "nowhere") is None


def test_a_new_attempt_keeps_nothing_but_the_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    for name in ("attempt-0/step-000020", "attempt-2/step-000040", "attempt-2/.step-000060.77.tmp"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "attempt-2/progress.jsonl").touch()

    assert new_attempt(tmp_path, keep=tmp_path / "attempt-2/step-000040") == "attempt-3"

    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["attempt-2", "attempt-2/step-000040"]
