"""The Parquet format: what is written is read back, and what is wrong is named."""

import io
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fxray.data import dataset
from fxray.data.dataset import SCHEMA, Dataset, Row, join_datasets, write_dataset
from fxray.errors import DataError
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict


def _picture(shade: int, size: tuple[int, int] = (60, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def _row(number: int, **changes: Any) -> Row:
    flaw = Region(Box(5, 6, 30, 35.5), "fingers fused")
    annotation = (
        Annotation(Verdict.GENERATED, (flaw,), (Tag.STRUCTURE, Tag.OTHER)) if number % 2 else Annotation(Verdict.REAL)
    )
    fields = {
        "sample_id": f"s{number}",
        "width_px": 60,
        "height_px": 40,
        "annotation": annotation,
        "generator": "sdxl" if number % 2 else "real",
        "category": "dog",
        "source": "web",
    }
    return Row(Sample(**(fields | changes)), image=_picture(number % 256))


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [_row(number) for number in range(50)]
    write_dataset(tmp_path / "a.parquet", rows)
    opened = Dataset.open(tmp_path / "a.parquet")
    assert len(opened) == 50
    assert opened.samples == [row.sample for row in rows]
    for number in (49, 0, 17, 16, 15):
        assert opened.image_bytes(number) == rows[number].image
    assert pickle.loads(pickle.dumps(opened)).image_bytes(33) == rows[33].image


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dataset(tmp_path / name, [_row(number) for number in range(20)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_opening_reads_no_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "a.parquet", [_row(number) for number in range(40)])
    read, batches = list[tuple[int, list[str]]](), pq.ParquetFile.iter_batches

    def note(*arguments: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        for batch in batches(*arguments, **options):
            read.append((batch.num_rows, batch.schema.names))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", note)
    monkeypatch.setattr(pq, "read_table", lambda *_, **__: pytest.fail("a file is read row group by row group"))
    Dataset.open(tmp_path / "a.parquet")
    assert read == [(40, [name for name in SCHEMA.names if name != "image"])]  # three row groups at once


def test_an_image_costs_one_small_row_group(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a.parquet", [_row(number) for number in range(100)])
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.num_row_groups == 7


def test_images_are_in_no_dictionary_and_captions_are(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a.parquet", [_row(number) for number in range(20)])
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i).has_dictionary_page for i in range(group.num_columns)}
    assert {name for name, has_one in columns.items() if not has_one} == {
        *("image", "width_px", "height_px"),
        *(f"regions.list.element.{side}" for side in ("x_min", "y_min", "x_max", "y_max")),
    }


def test_rows_whose_images_are_files_share_large_row_groups(tmp_path: Path) -> None:
    rows = [Row(_row(number).sample, image_path=f"images/{number}.png") for number in range(5000)]
    write_dataset(tmp_path / "a.parquet", rows)
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.num_row_groups == 2
    mixed = [*rows[:20], *(_row(number) for number in range(5000, 5032)), *rows[20:40]]
    write_dataset(tmp_path / "b.parquet", mixed)
    assert pq.ParquetFile(tmp_path / "b.parquet").metadata.num_row_groups == 3
    opened = Dataset.open(tmp_path / "b.parquet")
    assert opened.image_bytes(20) == mixed[20].image
    assert opened.image_bytes(51) == mixed[51].image
    assert (opened.image_file(0), opened.image_file(20)) == (tmp_path / "images" / "0.png", None)


def test_files_are_laid_end_to_end(tmp_path: Path) -> None:
    parts = [tmp_path / f"{number}.parquet" for number in range(3)]
    for number, part in enumerate(parts):
        write_dataset(part, [_row(10 * number + row) for row in range(number + 1)])
    join_datasets(tmp_path / "all.parquet", parts)
    opened = Dataset.open(tmp_path / "all.parquet")
    assert [sample.sample_id for sample in opened.samples] == ["s0", "s10", "s11", "s20", "s21", "s22"]
    assert opened.image_bytes(4) == _row(21).image
    with pytest.raises(DataError, match="without rows"):
        join_datasets(tmp_path / "none.parquet", [])
    assert not (tmp_path / "none.parquet").exists()


def test_images_may_lie_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(_picture(7))
    row = Row(_row(1).sample, image_path="images/one.png")
    write_dataset(tmp_path / "a.parquet", [row, Row(_row(2).sample, image_path="images/two.png")])
    opened = Dataset.open(tmp_path / "a.parquet")
    assert opened.image_bytes(0) == _picture(7)
    with pytest.raises(DataError, match=r"row 1.*image_path.*images/two.png"):
        opened.image_bytes(1)


def test_images_lie_beside_the_file_that_a_link_leads_to_unless_they_lie_beside_the_link(tmp_path: Path) -> None:
    for folder, number in (("set", 7), ("mine", 8)):
        (tmp_path / folder / "images").mkdir(parents=True)
        (tmp_path / folder / "images" / f"{number}.png").write_bytes(_picture(number))
    rows = [Row(_row(i).sample, image_path=f"images/{number}.png") for i, number in enumerate((7, 8, 9))]
    write_dataset(tmp_path / "set" / "a.parquet", rows)
    (tmp_path / "mine" / "link.parquet").symlink_to("../set/a.parquet")
    opened = Dataset.open(tmp_path / "mine" / "link.parquet")
    assert [opened.image_bytes(row) for row in range(2)] == [_picture(7), _picture(8)]
    with pytest.raises(DataError, match=r"row 2.*image_path.*set/images/9\.png"):
        opened.image_bytes(2)


def test_a_row_without_image_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "c.parquet", [Row(_row(0).sample)])
    with pytest.raises(DataError, match=r"row 0.*both empty"):
        Dataset.open(tmp_path / "c.parquet").image_bytes(0)


def test_missing_foreign_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such dataset(.|\n)*check the path, or make one: fxray data import makes"):
        Dataset.open(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("PAR1 no")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        Dataset.open(tmp_path / "text.parquet")
    write_dataset(tmp_path / "a.parquet", [_row(0)])
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-30])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        Dataset.open(tmp_path / "cut.parquet")
    with pytest.raises(DataError, match="without rows"):
        write_dataset(tmp_path / "empty.parquet", [])
    assert not (tmp_path / "empty.parquet").exists()
    pq.write_table(pa.Table.from_pylist([], schema=SCHEMA), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="without rows"):
        Dataset.open(tmp_path / "empty.parquet")


def test_a_file_whose_name_is_no_text_is_refused_in_words(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a.parquet", [_row(0)])
    for name in (b"\xff.parquet", b"\xff/a.parquet"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "a.parquet", path)
        with pytest.raises(DataError, match=r"its path is no UTF-8(.|\n)*rename it"):
            Dataset.open(path)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([], schema=SCHEMA)
    pq.write_table(table.replace_schema_metadata({b"fxray.schema_version": b"9"}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"version '9'.*expected '2'"):
        Dataset.open(tmp_path / "a.parquet")
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="version 'none'"):
        Dataset.open(tmp_path / "b.parquet")
    pq.write_table(table.drop_columns(["tags"]), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="column 'tags' is None"):
        Dataset.open(tmp_path / "c.parquet")


def test_a_file_of_version_1_is_read_and_knows_no_annotator(tmp_path: Path) -> None:
    rows = [_row(number) for number in range(3)]
    records = [{k: v for k, v in dataset._write_record(row).items() if k != "annotator"} for row in rows]
    schema = SCHEMA.remove(SCHEMA.get_field_index("annotator")).with_metadata({b"fxray.schema_version": b"1"})
    pq.write_table(pa.Table.from_pylist(records, schema=schema), tmp_path / "old.parquet")
    opened = Dataset.open(tmp_path / "old.parquet")
    assert opened.samples == [row.sample for row in rows]
    assert [sample.annotator for sample in opened.samples] == [None, None, None]
    assert opened.image_bytes(2) == rows[2].image
    lacking = pa.Table.from_pylist(records, schema=schema).replace_schema_metadata(SCHEMA.metadata)
    pq.write_table(lacking, tmp_path / "lacking.parquet")
    with pytest.raises(DataError, match="column 'annotator' is None, expected string"):
        Dataset.open(tmp_path / "lacking.parquet")


def test_the_annotator_is_kept_and_may_be_unknown(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a.parquet", [_row(0, annotator="Ana B."), _row(1)])
    assert pq.read_schema(tmp_path / "a.parquet").metadata[b"fxray.schema_version"] == b"2"
    assert [sample.annotator for sample in Dataset.open(tmp_path / "a.parquet").samples] == ["Ana B.", None]
    with pytest.raises(DataError, match="field annotator: '', expected a name"):
        write_dataset(tmp_path / "b.parquet", [_row(0, annotator="")])


_FLAW = {"x_min": 1.0, "y_min": 1.0, "x_max": 9.0, "y_max": 9.0, "caption": "hand fused"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "fake"}, "field label: 'fake', expected real or generated"),
        ({"label": None}, "field label: None"),
        ({"sample_id": ""}, "field sample_id: ''"),
        ({"width_px": 0}, "field width_px: 0"),
        ({"tags": ["texture"]}, "field tags.*'texture'.*perspective errors"),
        ({"tags": ["texture errors", "texture errors"]}, "each once"),
        ({"tags": [None]}, "field tags"),
        ({"label": "real"}, "field regions.*label is real"),
        ({"regions": [_FLAW | {"x_max": 61.0}]}, "inside the 60x40 px image"),
        ({"regions": [_FLAW | {"x_min": -1.0}]}, "inside the 60x40 px image"),
        ({"regions": [_FLAW | {"x_max": 0.5}]}, "boxes with an area"),
        ({"regions": [_FLAW | {"y_max": float("nan")}]}, "boxes with an area"),
        ({"regions": [_FLAW | {"caption": None}]}, "four numbers and a caption"),
        ({"regions": [None]}, "four numbers and a caption"),
        ({"regions": [_FLAW | {"caption": " "}]}, "field regions: caption.*blank"),
        ({"regions": [_FLAW | {"caption": "a\nb"}]}, "line break"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    good = dataset._write_record(_row(1))
    bad = dataset._write_record(_row(3)) | {"regions": [_FLAW]} | changes
    pq.write_table(pa.Table.from_pylist([good, bad], schema=SCHEMA), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message) as caught:
        Dataset.open(tmp_path / "a.parquet")
    assert caught.value.where == f"{tmp_path / 'a.parquet'} row 1"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"annotation": Annotation(Verdict.GENERATED, (Region(Box(5, 0, 5 + 1e-7, 4), "Eye"),))},
            "row 1.*with an area",
        ),
        (
            {"annotation": Annotation(Verdict.GENERATED, (Region(Box(5, 0, 1e39, 4), "Eye"),))},
            "row 1.*with an area inside",
        ),
        (
            {"annotation": Annotation(Verdict.GENERATED, (Region(Box(0, 0, 4, 4), "Eye \ud800"),))},
            "rows 0 to 1.*broken",
        ),
        ({"source": "\udcff"}, "rows 0 to 1.*broken characters"),
    ],
)
def test_what_a_file_cannot_hold_is_not_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """A box whose area is lost in 32 bits would be refused when the file is opened."""
    with pytest.raises(DataError, match=message):
        write_dataset(tmp_path / "a.parquet", [_row(0), _row(1, **changes)])
    assert not list(tmp_path.iterdir())


def test_a_repeated_id_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a.parquet", [_row(0), _row(1), _row(0)])
    with pytest.raises(DataError, match=r"row 2.*'s0' also names row 0"):
        Dataset.open(tmp_path / "a.parquet")


def test_a_bad_row_leaves_the_old_file_whole(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a.parquet", [_row(0)])
    before = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(DataError, match="row 1"):
        write_dataset(tmp_path / "a.parquet", [_row(0), _row(1, width_px=-3)])
    assert (tmp_path / "a.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_an_image_of_a_file_that_is_gone_is_one_error(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a.parquet", [_row(0)])
    dataset = Dataset.open(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(DataError, match=r"a\.parquet row 0: its part of the file cannot be read"):
        dataset.image_bytes(0)
