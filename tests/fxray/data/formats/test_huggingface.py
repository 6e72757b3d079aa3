"""Parquet as `datasets` itself writes it, and files that only look like it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fxray.data.exports import export_dataset
from fxray.data.formats import huggingface
from fxray.data.formats.catalogue import find
from fxray.data.formats.embedded import image_bytes
from fxray.data.formats.record import Place, Record
from fxray.errors import DataError
from fxray.events import ignore
from fxray.schema import Box, Region, Tag, Verdict

FEATURE = {"bytes": None, "path": "gone.png"}


def test_what_datasets_writes_is_read(tmp_path, imported):
    import datasets

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (50, 60, 3), dtype=np.uint8)) for _ in range(250)]
    regions = [[{"box": [1.0, 2.0, 3.5, 4.0 + n], "caption": f"Hand {n} — 手"}] if n % 2 else [] for n in range(40)]
    rows = {
        "image": pictures,
        "label": ["generated" if n % 2 else "real" for n in range(250)],
        "regions": regions + [[]] * 210,
        "tags": [["texture errors"]] * 250,
        "note": ["a column of somebody's own"] * 250,
    }
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", batch_size=100)
    found = imported("huggingface", tmp_path / "hub", label=None)
    assert (len(found.samples), found.findings) == (250, [])
    third = found.samples["train-00000-of-00001-3"]
    assert third.annotation.verdict is Verdict.GENERATED
    assert third.annotation.regions == (Region(Box(1, 2, 3.5, 7), "Hand 3 — 手"),)
    assert third.annotation.tags == (Tag.TEXTURE,)
    for number in (0, 99, 100, 249):  # on both sides of the row groups' borders
        with Image.open(found.dataset.image_file(number)) as image:
            assert np.array_equal(np.asarray(image), np.asarray(pictures[number]))


def write(path, rows):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    box = pa.list_(pa.struct([("box", pa.list_(pa.float32())), ("caption", pa.string())]))
    schema = pa.schema([("image", image), ("regions", box), ("label", pa.string())])
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def test_what_cannot_be_read_is_named(picture, tmp_path, imported):
    content = picture("a.jpg", orientation=6).read_bytes()
    good = {"image": {"bytes": content, "path": "a.jpg"}, "label": "generated", "regions": []}
    region = {"box": [0, 0, 100, 200], "caption": "all"}
    rows = [
        good | {"regions": [region]},
        good | {"image": FEATURE},
        good | {"regions": [region | {"box": [1, 2]}]},
        good | {"regions": [region | {"caption": None}]},
        good | {"image": {"bytes": b"no image", "path": "b.png"}},
        good | {"image": None},
    ]
    write(tmp_path / "set" / "train.parquet", rows)
    (tmp_path / "set" / "torn.parquet").write_bytes((tmp_path / "set" / "train.parquet").read_bytes()[:-50])
    found = imported("huggingface", tmp_path / "set")
    assert found.samples["a.jpg"].annotation.regions == (Region(Box(0, 0, 100, 200), "all"),)
    assert sorted((finding["row"], finding["field"]) for finding in found.findings) == [
        ("", "file"),
        ("row 1", "image"),
        ("row 2", "regions[0].box"),
        ("row 3", "regions[0].box"),
        ("row 4", "image"),
        ("row 5", "image"),
    ]


def test_parquet_without_images_is_refused(tmp_path, imported):
    pq.write_table(pa.table({"text": ["hello"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column image is None"):
        imported("huggingface", tmp_path / "x.parquet")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no rows were found"):
        imported("manifest", tmp_path / "empty.jsonl")


def test_equal_names_in_several_files_are_sources_of_their_own(picture, tmp_path, imported):
    for name in ("flux", "sdxl"):
        content = picture(f"{name}.png").read_bytes()
        rows = [{"image": {"bytes": content, "path": "0000.png"}, "label": "generated", "regions": []}]
        write(tmp_path / "set" / f"{name}.parquet", rows)
    found = imported("huggingface", tmp_path / "set")
    assert [sample.source for sample in found.dataset.samples] == ["0000.png", "0000.png#2"]


def test_an_image_without_bytes_is_the_file_at_its_path(picture, tmp_path, imported):
    inside, beside = picture("a.png").read_bytes(), picture("set/b.png").read_bytes()
    rows = [
        {"image": {"bytes": inside, "path": "a.png"}, "label": "real", "regions": []},
        {"image": {"bytes": None, "path": "b.png"}, "label": "real", "regions": []},
    ]
    write(tmp_path / "set" / "mixed.parquet", rows)
    write(tmp_path / "set" / "paths.parquet", rows[1:])
    found = imported("huggingface", tmp_path / "set")
    assert [found.dataset.image_bytes(row) for row in range(3)] == [inside, beside, beside]
    assert found.findings == []


def test_a_damaged_page_of_images_refuses_its_rows_alone(picture, tmp_path, imported):
    content = picture("a.png").read_bytes()
    rows = [{"image": {"bytes": content, "path": f"{n}.png"}, "label": "real", "regions": []} for n in range(5)]
    write(tmp_path / "set" / "sound.parquet", rows)
    write(tmp_path / "set" / "torn.parquet", rows)
    page = pq.read_metadata(tmp_path / "set" / "torn.parquet").row_group(0).column(0).dictionary_page_offset
    torn = bytearray((tmp_path / "set" / "torn.parquet").read_bytes())
    torn[page : page + 40] = b"\xff" * 40
    (tmp_path / "set" / "torn.parquet").write_bytes(torn)
    found = imported("huggingface", tmp_path / "set")
    assert len(found.samples) == 5
    assert [finding["row"] for finding in found.findings] == [f"row {n}" for n in range(5)]
    assert {finding["field"] for finding in found.findings} == {"image"}
    assert "cannot be read at this row" in found.findings[4]["reason"]


def test_images_of_a_large_row_group_are_held_a_few_at_a_time(tmp_path):
    rng = np.random.default_rng(0)
    contents = [rng.bytes(2**17) for _ in range(400)]
    path = tmp_path / "large.parquet"
    table = pa.table({"image": [{"bytes": content, "path": "x"} for content in contents]})
    pq.write_table(table, path, write_batch_size=8)  # pages of 8 images or more, which are read whole
    before = pa.total_allocated_bytes()
    for row in (0, 1, 200, 399, 3):
        assert image_bytes(Record(Place(str(path)), str(path), "image", "x", member=row)) == contents[row]
        assert pa.total_allocated_bytes() - before < 2**23 < sum(map(len, contents)) / 6


def test_an_export_closes_a_row_group_before_it_is_large(picture, tmp_path, imported, monkeypatch):
    monkeypatch.setattr(huggingface, "MAX_GROUP_BYTES", 1)
    content = picture("a.png").read_bytes()
    rows = [{"image": {"bytes": content, "path": f"{n}.png"}, "label": "real", "regions": []} for n in range(3)]
    write(tmp_path / "set" / "a.parquet", rows)
    dataset = imported("huggingface", tmp_path / "set").dataset
    export_dataset(find("huggingface"), dataset.path, tmp_path / "out", on_event=ignore)
    (file,) = (tmp_path / "out" / "data").iterdir()
    assert pq.read_metadata(file).num_row_groups == 3


@pytest.mark.parametrize(("num_images", "per_file"), [(0.5, [1, 1, 1, 1]), (1.5, [2, 2]), (9, [4])])
def test_an_export_of_several_files_holds_every_row_once(
    picture, tmp_path, imported, monkeypatch, num_images, per_file
):
    content = [picture(name).read_bytes() for name in ("a.png", "a.png", "b.png", "a.png")]  # equal ones lie there once
    monkeypatch.setattr(huggingface, "MAX_FILE_BYTES", num_images * len(content[0]))
    rows = [
        {"image": {"bytes": each, "path": f"{n}.png"}, "label": "real", "regions": []} for n, each in enumerate(content)
    ]
    write(tmp_path / "set" / "a.parquet", rows)
    dataset = imported("huggingface", tmp_path / "set").dataset
    export_dataset(find("huggingface"), dataset.path, tmp_path / "out", on_event=ignore)
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [pq.read_metadata(file).num_rows for file in files] == per_file
    assert [file.name for file in files] == [f"train-{k:05d}-of-{len(files):05d}.parquet" for k in range(len(files))]
    again = imported("huggingface", tmp_path / "out").dataset
    assert [sample.sample_id for sample in again.samples] == [sample.sample_id for sample in dataset.samples]
    assert [again.image_bytes(row) for row in range(4)] == content
    assert "4 images: 4 real" in (tmp_path / "out" / "README.md").read_text()
