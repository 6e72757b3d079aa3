import json
from dataclasses import replace
from pathlib import Path

import pytest

from fxray.errors import CheckpointError, ResourceError
from fxray.sft.checkpoint import SftState, check_mark, checkpoints, mark, new_attempt, newest, read_state, write_state
from fxray.sft.settings import SftSettings


def test_a_state_is_read_as_it_was_written(settings: SftSettings, tmp_path: Path) -> None:
    state = SftState(7, 12, {3: "row 3: damaged"})

    write_state(tmp_path, state, settings)

    assert read_state(tmp_path, replace(settings, num_workers=2, max_failures=9)) == state


def test_a_checkpoint_of_other_settings_names_them(settings: SftSettings, tmp_path: Path) -> None:
    write_state(tmp_path, SftState(7, 12, {}), settings)

    with pytest.raises(CheckpointError, match="other values of learning_rate, seed"):
        read_state(tmp_path, replace(settings, learning_rate=1e-5, seed=1))


def test_a_checkpoint_from_before_images_were_changed_goes_on_without(settings: SftSettings, tmp_path: Path) -> None:
    state = SftState(7, 12, {})
    write_state(tmp_path, state, settings)
    content = json.loads((tmp_path / "state.json").read_text())
    assert content["settings"].pop("augment_share") == 0.0
    (tmp_path / "state.json").write_text(json.dumps(content))
    assert read_state(tmp_path, settings) == state
    with pytest.raises(CheckpointError, match="other values of augment_share"):
        read_state(tmp_path, replace(settings, augment_share=0.5))


def test_a_job_that_met_an_image_that_cannot_be_read_goes_on_without_it(settings: SftSettings, tmp_path: Path) -> None:
    state = SftState(7, 12, {})
    write_state(tmp_path, state, settings)
    content = json.loads((tmp_path / "state.json").read_text())
    skipping = replace(settings, on_corrupt_image="skip")
    assert settings.on_corrupt_image == "error"
    assert read_state(tmp_path, skipping) == state
    content["settings"]["on_corrupt_image"] = "error"  # which checkpoints from before it was free hold
    (tmp_path / "state.json").write_text(json.dumps(content))
    assert read_state(tmp_path, skipping) == state


def test_a_checkpoint_of_settings_of_other_names_is_refused(settings: SftSettings, tmp_path: Path) -> None:
    write_state(tmp_path, SftState(7, 12, {}), settings)
    content = json.loads((tmp_path / "state.json").read_text())
    fewer = {name: value for name, value in content["settings"].items() if name != "view"}
    for named, odd in ((fewer, "view"), (content["settings"] | {"older": 1}, "older")):
        (tmp_path / "state.json").write_text(json.dumps(content | {"settings": named}))
        with pytest.raises(CheckpointError, match=f"other values of {odd}"):
            read_state(tmp_path, settings)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}", "[]"),
        '{"step": 1, "num_steps": 2, "corrupt_rows": [], "settings": {}}',
        '{"step": 1, "num_steps": 2, "corrupt_rows": {}, "settings": [1]}',
    ],
)
def test_a_damaged_state_is_refused(settings: SftSettings, tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)

    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(tmp_path, settings)


def test_the_checkpoint_that_reaches_furthest_comes_first_over_all_attempts(tmp_path: Path) -> None:
    steps = ["attempt-1/step-1000000", "attempt-1/step-000100", "attempt-2/step-000040", "attempt-0/step-000020"]
    for name in (*steps, "attempt-1/.step-000120.77.tmp", "attempt-1/step-000140-old", "attempt-3"):
        (tmp_path / name).mkdir(parents=True)

    assert checkpoints(tmp_path) == [tmp_path / name for name in steps]
    assert checkpoints(tmp_path / "nowhere") == []


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_and_is_kept(settings: SftSettings, tmp_path: Path) -> None:
    for step in (20, 40):
        folder = tmp_path / "attempt-0" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "optimizer.safetensors").write_bytes(bytes(100))
        write_state(folder, SftState(step, 60, {}), settings)
    (tmp_path / "attempt-0" / "step-000040" / "optimizer.safetensors").write_bytes(bytes(99))
    told: list[str] = []

    found = newest(tmp_path, settings, told.append)

    assert found == (tmp_path / "attempt-0" / "step-000020", SftState(20, 60, {}))
    assert len(told) == 1
    assert "optimizer.safetensors is not what was written; it lies in damaged-step-000040 now" in told[0]
    assert new_attempt(tmp_path, keep=None) == "attempt-1"
    assert [path.name for path in (tmp_path / "attempt-0").iterdir()] == ["damaged-step-000040"]


def test_the_first_attempt_has_number_0(tmp_path: Path) -> None:
    assert new_attempt(tmp_path, keep=None) == "attempt-0"


def test_a_new_attempt_keeps_nothing_but_the_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    for name in ("attempt-0/step-000020", "attempt-2/step-000040", "attempt-2/.step-000060.77.tmp"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "attempt-2/progress.jsonl").touch()

    assert new_attempt(tmp_path, keep=tmp_path / "attempt-2/step-000040") == "attempt-3"

    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["attempt-2", "attempt-2/step-000040"]


def test_a_worker_that_does_not_see_the_drivers_folders_says_which(tmp_path: Path) -> None:
    dataset, attempt = tmp_path / "train.parquet", tmp_path / "attempt-0"
    dataset.touch()
    text = mark(attempt)
    check_mark(attempt, text, dataset)
    with pytest.raises(ResourceError, match=r"elsewhere: node .* does not see this path.*\n.*a disk that every node"):
        check_mark(tmp_path / "elsewhere", text, dataset)
    mark(attempt)  # another driver's folder of the same name
    with pytest.raises(ResourceError, match="attempt-0: node"):
        check_mark(attempt, text, dataset)
    with pytest.raises(ResourceError, match=r"test\.parquet: node"):
        check_mark(attempt, mark(attempt), tmp_path / "test.parquet")
