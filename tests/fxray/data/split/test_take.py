"""A fold's datasets hold exactly its rows, and a split whose data changed is refused."""

import dataclasses
import json
from pathlib import Path

import pytest
from small_datasets import balanced, encoded, picture, row, write
from split_settings import USUAL

from fxray.data.check.check import check
from fxray.data.check.lookup import rows_at
from fxray.data.dataset import Dataset
from fxray.data.split.plan import read_plan, write_plan
from fxray.data.split.schemes import TEST, TRAIN
from fxray.data.split.settings import Scheme
from fxray.data.split.split import split
from fxray.data.split.take import take
from fxray.errors import DataError
from fxray.events import Step


def planned(tmp_path: Path, rows: list[dict], **changes: object) -> Path:
    path = write(tmp_path / "a.parquet", rows)
    write_plan(tmp_path / "split.json", split([path], dataclasses.replace(USUAL, **changes)).plan)
    return tmp_path / "split.json"


def test_the_parts_hold_their_rows_in_order_with_their_images(tmp_path: Path) -> None:
    rows = balanced(40)
    path = planned(tmp_path, rows)
    written = take(path, tmp_path / "f1", "1")
    assert [p.name for p in written] == ["train.parquet", "test.parquet"]
    fold = read_plan(path).folds[1]
    for target, part in zip(written, (TRAIN, TEST), strict=True):
        expected = [r for r, p in zip(rows, fold.parts_N, strict=True) if p == part]
        opened = Dataset.open(target)
        assert [sample.sample_id for sample in opened.samples] == [r["sample_id"] for r in expected]
        assert [opened.image_bytes(i) for i in range(len(opened))] == [r["image"] for r in expected]
        whole = {s.sample_id: s for s in Dataset.open(tmp_path / "a.parquet").samples}
        assert all(sample == whole[sample.sample_id] for sample in opened.samples)


def test_images_beside_the_dataset_stay_there(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rows = []
    for i in range(16):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(encoded(picture(i)))
        rows.append(row(i, is_generated=i % 2 == 1, image_path=f"images/{i}.jpg") | {"image": None})
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    _, test = take(planned(tmp_path, rows), tmp_path / "link" / "f0", "0")
    opened = Dataset.open(test)
    for i, sample in enumerate(opened.samples):
        assert opened.image_bytes(i) == encoded(picture(int(sample.sample_id[1:])))
        beside = opened.image_file(i)
        assert beside is not None
        assert beside.samefile(tmp_path / "images" / f"{sample.sample_id[1:]}.jpg")
    assert [p.name for p in (tmp_path / "link" / "f0").iterdir() if p.suffix != ".parquet"] == []


def test_a_dataset_behind_a_link_is_checked_and_split_with_its_images(tmp_path: Path) -> None:
    rows = []
    (tmp_path / "set").mkdir()
    for i in range(16):
        (tmp_path / "set" / f"{i}.jpg").write_bytes(encoded(picture(i)))
        rows.append(row(i, is_generated=i % 2 == 1, image_path=f"{i}.jpg") | {"image": None})
    write(tmp_path / "set" / "a.parquet", rows)
    (tmp_path / "a.parquet").symlink_to("set/a.parquet")
    assert not {finding.rule for finding in check([tmp_path / "a.parquet"]).findings} & {"image-missing", "image-path"}
    assert rows_at(tmp_path / "a.parquet", [3])[3]["image"] == encoded(picture(3))
    write_plan(tmp_path / "split.json", split([tmp_path / "a.parquet"], USUAL).plan)
    for path in take(tmp_path / "split.json", tmp_path / "f0", "0"):
        opened = Dataset.open(path)
        found = [opened.image_bytes(i) for i in range(len(opened))]
        assert found == [encoded(picture(int(sample.sample_id[1:]))) for sample in opened.samples]


def test_the_split_may_move_with_its_data(tmp_path: Path) -> None:
    planned(tmp_path, balanced(40))
    (tmp_path / "moved").mkdir()
    for name in ("a.parquet", "split.json"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert len(take(tmp_path / "moved" / "split.json", tmp_path / "f", "0")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[5].update(image=encoded(picture(99))), "the data changed"),
        (lambda rows: rows[5].update(generator="other"), "the data changed"),
        (lambda rows: rows[5].update(source="other"), "the data changed"),
        (lambda rows: rows[6].update(label="generated"), "the data changed"),
        (lambda rows: rows.pop(), "40 rows|39 rows"),
        (lambda rows: rows.reverse(), "another order"),
        (lambda rows: rows[0].update(sample_id="new"), "'new' is new"),
    ],
)
def test_changed_data_are_refused_and_nothing_is_written(tmp_path: Path, change, message: str) -> None:
    rows = balanced(40)
    path = planned(tmp_path, rows)
    change(rows)
    write(tmp_path / "a.parquet", rows)
    with pytest.raises(DataError, match=message) as caught:
        take(path, tmp_path / "f", "0")
    assert caught.value.remedy == "split again: fxray data split"
    assert not (tmp_path / "f").exists()


def test_what_is_no_split_file_is_refused(tmp_path: Path) -> None:
    for text in ("[" * 200_000, "{}", "[]", "1", "no"):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(DataError, match="no split file"):
            take(tmp_path / "split.json", tmp_path / "f", None)


def test_a_fold_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    path = planned(tmp_path, balanced(40))
    for name in (None, "7"):
        with pytest.raises(DataError) as caught:
            take(path, tmp_path / "f", name)
        assert caught.value.remedy == "give --fold, one of: 0, 1, 2, 3"
    planned(tmp_path, balanced(40), scheme=Scheme.FIXED)
    assert len(take(path, tmp_path / "f", None)) == 3


def test_no_part_of_an_earlier_split_stays_beside_the_new_ones(tmp_path: Path) -> None:
    path = planned(tmp_path, balanced(40), scheme=Scheme.FIXED)
    assert len(take(path, tmp_path / "f", None)) == 3
    planned(tmp_path, balanced(40))
    written = take(path, tmp_path / "f", "0")
    assert sorted(file.name for file in (tmp_path / "f").iterdir()) == sorted(file.name for file in written)
    assert len(written) == 2


def test_a_take_that_ends_early_leaves_every_earlier_part(tmp_path: Path) -> None:
    path = planned(tmp_path, balanced(40), scheme=Scheme.FIXED)
    before = {file: file.read_bytes() for file in take(path, tmp_path / "f", None)}
    planned(tmp_path, balanced(40))

    def interrupt(event: object) -> None:
        if isinstance(event, Step) and event.phase == "write test":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(path, tmp_path / "f", "0", interrupt)
    assert {file: file.read_bytes() for file in (tmp_path / "f").iterdir()} == before


def test_the_data_are_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", balanced(40))
    write_plan(tmp_path / "split.json", split([path], USUAL).plan)
    with pytest.raises(DataError, match="is a dataset of the split"):
        take(tmp_path / "split.json", tmp_path, "0")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(fxray_split=2),
        lambda c: c.pop("folds"),
        lambda c: c.update(folds=["0"]),
        lambda c: c.update(folds=[]),
        lambda c: c["assignment"].update(s1="ttxt"),
        lambda c: c["assignment"].update(s1="tt"),
        lambda c: c.update(assignment=[]),
        lambda c: c.update(seed="x"),
    ],
)
def test_a_damaged_split_file_is_named(tmp_path: Path, change) -> None:
    path = planned(tmp_path, balanced(40))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"split\.json"):
        read_plan(path)


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    for content in (b"", b"[]", b"{", b"\xff\xfe"):
        (tmp_path / "s.json").write_bytes(content)
        with pytest.raises(DataError, match="no split file"):
            read_plan(tmp_path / "s.json")
