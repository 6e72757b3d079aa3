"""Files of a configuration are looked at before anything is trained on them."""

import json
from pathlib import Path

import pytest

from fxray.config.load import load_config
from fxray.config.tree import Config
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import CheckpointError, ConfigError, DataError, FxrayError
from fxray.events import Event, Note, Step, ignore
from fxray.launch import data
from fxray.launch.calibration import recorded_splits
from fxray.launch.contents import SPLITS
from fxray.launch.data import Splits, check_splits, prepare_data, refuse_missing_images, refuse_shared_samples
from fxray.launch.lease import LEASE_FILE
from fxray.launch.run import open_run
from fxray.schema import Annotation, Sample, Verdict


def splits_of(folder: Path, train: str, validation: str, test: str) -> Splits:
    """A dataset each, one row per letter."""
    paths = []
    for name, ids in (("train", train), ("validation", validation), ("test", test)):
        rows = [Row(Sample(i, 56, 56, Annotation(Verdict.REAL), "real", "cat", i), b"-") for i in ids]
        paths.append(folder / f"{name}.parquet")
        write_dataset(paths[-1], rows)
    return Splits(*paths, is_synthetic=False)


def refuse_shared(splits: Splits) -> None:
    refuse_shared_samples(*map(splits.open, splits.paths))


def test_what_trains_is_not_what_is_scored(tmp_path: Path) -> None:
    refuse_shared(splits_of(tmp_path, "abc", "de", "fgd"))
    with pytest.raises(
        DataError, match=r"validation.parquet row 1: .* 1 sample is in .*train.parquet too, such as 'c' in its row 2"
    ):
        refuse_shared(splits_of(tmp_path, "abc", "dc", "e"))
    with pytest.raises(
        DataError, match=r"test.parquet row 0: .* 2 samples .*train.parquet too, such as 'b' in its row 1"
    ):
        refuse_shared(splits_of(tmp_path, "abc", "d", "ba"))


def test_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = splits_of(tmp_path, "abc", "d", "e")
    config = load_config("tiny", ["data.synth=null", *(f"data.{path.stem}={path}" for path in splits.paths)])
    opened, open_file = list[Path](), Dataset.open
    monkeypatch.setattr(Dataset, "open", lambda path: opened.append(path) or open_file(path))
    with open_run(tmp_path / "run", config) as run:
        again = prepare_data(config, run, ignore)
    assert [len(again.open(path)) for path in again.paths] == [3, 1, 1]
    assert sorted(opened) == sorted(splits.paths)


def test_a_look_for_images_that_takes_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits, told = splits_of(tmp_path, "abcde", "fg", "hi"), list[Event]()
    dataset = splits.open(splits.train)
    monkeypatch.setattr(data, "_LOOKED_AT", 2)
    refuse_missing_images(dataset, range(5), told.append)
    assert told == []
    monkeypatch.setattr(data, "SILENT_S", -1.0)
    refuse_missing_images(dataset, range(5), told.append)
    assert told == [Step("data looks for images of train.parquet", done, 5) for done in (2, 4)]


def test_a_run_does_not_go_on_with_other_rows(tmp_path: Path) -> None:
    splits = splits_of(tmp_path, "abc", "d", "e")
    files = [f"data.{name}={getattr(splits, name)}" for name in ("train", "validation", "test")]
    config = load_config("tiny", ["data.synth=null", *files])
    for _ in range(2):
        with open_run(tmp_path / "run", config) as run:
            prepare_data(config, run, ignore)
    splits_of(tmp_path, "abc", "d", "ef")
    with open_run(tmp_path / "run", config) as run:  # no phase has begun: rows may have been put right
        prepare_data(config, run, ignore)
        run.sft_adapter.mkdir(parents=True)
    splits_of(tmp_path, "abx", "d", "ef")
    with (
        open_run(tmp_path / "run", config) as run,
        pytest.raises(DataError, match=r"train.parquet: changed since this run began with it"),
    ):
        prepare_data(config, run, ignore)
    splits_of(tmp_path, "abc", "d", "ef")
    with open_run(tmp_path / "run", config) as run:
        prepare_data(config, run, ignore)


def test_a_run_goes_on_with_files_that_were_moved_and_with_no_others(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    splits_of(old, "abc", "d", "e")

    def config_of(folder: Path, *others: str) -> Config:
        files = [f"data.{name}={folder / name}.parquet" for name in SPLITS]
        return load_config("tiny", ["data.synth=null", *files, *others])

    with open_run(tmp_path / "run", config_of(old)) as run:
        prepare_data(config_of(old), run, ignore)
        run.sft_adapter.mkdir(parents=True)
    with pytest.raises(DataError, match="no such dataset file"), open_run(tmp_path / "run", config_of(new)):
        pass
    old.rename(new)
    with open_run(tmp_path / "run", config_of(new)) as run:
        prepare_data(config_of(new), run, ignore)
        assert load_config(run.root / "config.yaml").data.test == recorded_splits(run.root).test == new / "test.parquet"
    message = r"other values of seed\n"
    with pytest.raises(ConfigError, match=message), open_run(tmp_path / "run", config_of(new, "seed=9")):
        pass
    old.mkdir()
    splits_of(old, "abc", "d", "x")
    message = r"other values of data\.train, data\.validation, data\.test\n"
    with pytest.raises(ConfigError, match=message), open_run(tmp_path / "run", config_of(old)):
        pass
    (tmp_path / "run/data.json").write_text("{}")
    with pytest.raises(ConfigError, match=message), open_run(tmp_path / "run", config_of(old)):
        pass


@pytest.mark.parametrize(("num_validation", "told"), [(38, ["19 real + 19 generated images"]), (40, [])])
def test_a_validation_part_that_is_too_small_to_calibrate_is_told_until_sft_is_done(
    tmp_path: Path, num_validation: int, told: list[str]
) -> None:
    synth = f"{{num_train: 2, num_validation: {num_validation}, num_test: 2, size_px: 56}}"
    config = load_config("tiny", [f"data.synth={synth}"])

    def notes() -> list[str]:
        events = []
        with open_run(tmp_path / "run", config) as run:
            prepare_data(config, run, events.append)
        return [event.text for event in events if isinstance(event, Note)]

    found = notes()
    assert [text.partition(" for validation are too few to calibrate")[0] for text in found] == told
    assert all("data.synth.num_validation" in text for text in found)
    (tmp_path / "run/sft/adapter").mkdir(parents=True)
    assert notes() == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["evaluate.num_samples=10"], "20 of each at least; a larger evaluate.num_samples would do"),
        (
            ["evaluate.num_samples=10", "evaluate.max_fpr=0.01"],
            "a larger data.validation and evaluate.num_samples would",
        ),
        (
            ["evaluate.max_fpr=0.01"],
            "takes 100 real and 20 generated ones at least for evaluate.max_fpr 0.01; a larger",
        ),
        (["evaluate.max_fpr=0.05"], None),
    ],
)
def test_what_is_too_small_for_the_settings_to_calibrate_is_told(
    tmp_path: Path, settings: list[str], told: str | None
) -> None:
    files = splits_of(tmp_path, "a", "v", "z")
    rows = [Sample(f"v{i}", 56, 56, Annotation(list(Verdict)[i % 2]), "real", "cat", f"v{i}") for i in range(40)]
    write_dataset(files.validation, [Row(sample, b"-") for sample in rows])
    (note,) = check_splits(load_config("tiny", settings), files) or [None]
    assert note is None if told is None else told in note


def test_images_that_are_missing_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    splits = splits_of(tmp_path, "ab", "c", "d")
    sample = Sample("d", 56, 56, Annotation(Verdict.REAL), "real", "cat", "d")
    write_dataset(splits.test, [Row(sample, None, "images/d.png")])
    files = [f"data.{name}={getattr(splits, name)}" for name in ("train", "validation", "test")]

    def prepare(*overrides: str) -> None:
        config = load_config("tiny", ["data.synth=null", *files, *overrides])
        with open_run(tmp_path / "run", config) as run:
            prepare_data(config, run, ignore)

    with pytest.raises(DataError, match=r"test.parquet row 0 field image_path: .*d.png is not there; 1 image is"):
        prepare()
    prepare("data.on_corrupt_image=skip")
    with pytest.raises(DataError, match="1 image is missing"):
        prepare()
    (tmp_path / "run/sft/adapter").mkdir(parents=True)  # what is trained needs no images
    prepare()


def test_a_driver_that_was_overtaken_does_not_say_what_another_ones_run_rests_on(tmp_path: Path) -> None:
    splits = splits_of(tmp_path, "abc", "d", "e")
    files = [f"data.{name}={getattr(splits, name)}" for name in ("train", "validation", "test")]
    config = load_config("tiny", ["data.synth=null", *files])
    with open_run(tmp_path / "run", config) as run:
        lease = run.root / LEASE_FILE
        lease.write_text(json.dumps(json.loads(lease.read_text()) | {"token": "another", "text": "pid 1 on a node"}))
        with pytest.raises(FxrayError, match="pid 1 on a node took this run over"):
            prepare_data(config, run, ignore)
        assert not (run.root / "data.json").exists()


def test_a_runs_own_data_move_with_it(tmp_path: Path) -> None:
    config = load_config("tiny", ["data.synth={num_train: 8, num_validation: 8, num_test: 8, size_px: 56}"])
    with open_run(tmp_path / "run", config) as run:
        made = prepare_data(config, run, ignore)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert recorded_splits(tmp_path / "moved").test == tmp_path / "moved" / made.test.relative_to(tmp_path / "run")
    with open_run(tmp_path / "moved", config) as run:
        prepare_data(config, run, ignore)


def test_all_three_must_be_there(tmp_path: Path) -> None:
    splits = splits_of(tmp_path, "a", "b", "c")
    splits.test.unlink()
    with pytest.raises(DataError, match="no such dataset file"):
        refuse_shared(splits)


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        (None, "is missing, so the splits of this run are not known", "an adapter alone is enough"),
        ("{}", "says nothing of the run's splits", "go on"),
    ],
)
def test_splits_that_are_not_recorded_are_told(tmp_path: Path, text: str | None, said: str, remedy: str) -> None:
    if text is not None:
        (tmp_path / "data.json").write_text(text)
    with pytest.raises(CheckpointError, match=said) as caught:
        recorded_splits(tmp_path)
    assert remedy in caught.value.remedy
