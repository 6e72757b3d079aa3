"""Parquet as `datasets` itself writes it, and files that only look like it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fxray.errors import DataError
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
