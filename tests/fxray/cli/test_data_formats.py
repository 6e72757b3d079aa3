"""`fxray data import` and `export` as a stranger uses them."""

import json
import subprocess
import sys
import time

import pytest
from command_line import run
from PIL import Image

from fxray.data.dataset import Dataset
from fxray.data.formats.catalogue import FORMATS
from fxray.errors import ConfigError, DataError


@pytest.fixture
def photos(tmp_path):
    for name in ("real/1.png", "fake/sdxl/2.png", "fake/3.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (len(name) * 9, 9, 9)).save(path)
    (tmp_path / "photos" / "fake" / "4.jpg").write_bytes(b"<svg/>")
    return tmp_path / "photos"


def test_folders_become_a_dataset_and_go_to_every_tool(photos, tmp_path):
    result = run("data", "import", "folders", photos, tmp_path / "set")
    assert result.stdout == f"{tmp_path / 'set' / 'dataset.parquet'}\n"
    assert "3 rows, 3 images" in result.stderr
    assert "refused: " in result.stderr
    assert "4.jpg" in result.stderr
    assert "SVG" in result.stderr
    assert len(Dataset.open(tmp_path / "set" / "dataset.parquet")) == 3
    for form in ("swift", "coco", "labelstudio", "huggingface"):
        shown = run("data", "export", form, tmp_path / "set" / "dataset.parquet", tmp_path / form)
        assert shown.stdout == f"{tmp_path / form}\n"


def test_what_is_lost_of_predictions_is_said_before(photos, tmp_path):
    run("data", "import", "folders", photos, tmp_path / "set")
    data = tmp_path / "set" / "dataset.parquet"
    region = {"box": [1, 2, 30, 40], "caption": "hand fused", "score": 0.75}
    rows = [{"sample_id": name, "verdict": "real"} for name in ("fake/sdxl/2.png", "real/1.png")]
    rows.append({"sample_id": "fake/3.jpg", "verdict": "generated", "regions": [region]})
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("data", "export", "coco", data, tmp_path / "coco", "--predictions", tmp_path / "said.jsonl")
    assert result.stderr.startswith("note: results.json carries boxes")
    (box,) = json.loads((tmp_path / "coco" / "results.json").read_text())
    images = json.loads((tmp_path / "coco" / "annotations.json").read_text())["images"]
    assert images[box["image_id"] - 1]["sample_id"] == "fake/3.jpg"
    assert (box["bbox"], box["score"]) == ([1, 2, 29, 38], 0.75)


@pytest.mark.parametrize(
    ("form", "unread", "torn"),
    [
        ("coco", "results.json cannot tell that", "results.json has them all the same"),
        ("swift", "their rows are left out", "the boxes are left out"),
        ("labelstudio", "that choice is left to people", "people have to decide"),
        ("huggingface", "their label is null", "the boxes are left out"),
    ],
)
def test_predictions_without_a_verdict_and_real_ones_with_boxes_are_counted(form, unread, torn, photos, tmp_path):
    run("data", "import", "folders", photos, tmp_path / "set")
    names = ("fake/sdxl/2.png", "real/1.png", "fake/3.jpg")
    rows = [{"sample_id": name, "verdict": None if name == "real/1.png" else "generated"} for name in names]
    rows[2] |= {"verdict": "real", "regions": [{"box": [1, 2, 30, 40], "caption": "hand fused"}]}
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data, said_file = tmp_path / "set" / "dataset.parquet", tmp_path / "said.jsonl"
    result = run("data", "export", form, data, tmp_path / form, "--predictions", said_file)
    assert f"note: 1 prediction without a verdict; {unread}" in result.stderr
    assert f"note: 1 prediction says real and has boxes; {torn}" in result.stderr


@pytest.mark.parametrize(
    ("form", "said", "back"),
    [
        ("coco", "", {}),
        ("swift", "their rows are left out", {"real/1.png": "real", "fake/sdxl/2.png": "generated"}),
        ("labelstudio", "the text area of each is left to people", {}),
        ("huggingface", "each caption is blank", {"real/1.png": "real", "fake/sdxl/2.png": "generated"}),
    ],
)
def test_boxes_without_captions_are_told_by_the_export_and_what_it_says_holds_for_the_import(
    form, said, back, photos, tmp_path
):
    run("data", "import", "folders", photos, tmp_path / "set")
    box = {"box": [1, 2, 30, 40]}
    rows = [
        {"sample_id": "real/1.png", "verdict": "real", "regions": [box]},
        {"sample_id": "fake/sdxl/2.png", "verdict": "generated", "regions": [box | {"caption": "hand fused"}]},
        {"sample_id": "fake/3.jpg", "verdict": "generated", "regions": [box]},
    ]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data, said_file = tmp_path / "set" / "dataset.parquet", tmp_path / "said.jsonl"
    result = run("data", "export", form, data, tmp_path / form, "--predictions", said_file)
    told = "prediction has boxes without captions, such as that of 'fake/3.jpg'; "
    assert (f"note: 1 {told}{said}" in result.stderr) == bool(said)
    if back:
        source = tmp_path / form / "data.jsonl" if form == "swift" else tmp_path / form
        result = run("data", "import", form, source, tmp_path / "back")
        found = Dataset.open(tmp_path / "back" / "dataset.parquet").samples
        assert {sample.sample_id: str(sample.annotation.verdict) for sample in found} == back
        assert ("is blank" in result.stderr) == (form == "huggingface")


def test_a_folder_in_place_of_a_file_is_told_the_file_in_it(photos, tmp_path):
    (photos / "instances.json").write_text("{}")
    with pytest.raises(DataError, match=r"is a folder, expected a file\n.*name the file in it: instances\.json$"):
        run("data", "import", "coco", photos, tmp_path / "out")


def test_a_mapping_gives_the_frame_and_options_override_it(photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "rows.json").write_text(json.dumps([{"f": "a.jpg", "r": [{"box": [0, 0, 10, 10], "caption": "sky"}]}]))
    (tmp_path / "layout.yaml").write_text("fields: {image: f, regions: r}\nframe: stored\n")
    common = ["data", "import", "mapping", tmp_path / "rows.json"]
    options = ["--mapping", tmp_path / "layout.yaml", "--label", "generated", "--generator", "sd"]
    run(*common, tmp_path / "one", *options)
    run(*common, tmp_path / "two", *options, "--boxes-frame", "displayed", "--boxes-unit", "percent")
    boxes = {
        name: Dataset.open(tmp_path / name / "dataset.parquet").samples[0].annotation.regions[0].box
        for name in ("one", "two")
    }
    assert boxes == {"one": (50, 30, 60, 40), "two": (0, 0, 6, 4)}


@pytest.mark.parametrize(
    ("box", "is_read"),
    [([0, 0, 0.5, 1], False), ([0.1, 0.2, 0.5, 0.5], False), ([0, 0, 1, 1], True), ([0, 0, 1.5, 2], True)],
)
def test_parts_of_the_sides_are_not_read_as_pixels(photos, tmp_path, box, is_read):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    rows = [{"f": "a.png", "r": [{"box": each, "caption": "sky"}]} for each in (box, [0, 0, 10, 10])]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "layout.yaml").write_text("fields: {image: f, regions: r}\n")
    words = [
        "data",
        "import",
        "mapping",
        tmp_path / "rows.json",
        tmp_path / "out",
        "--mapping",
        tmp_path / "layout.yaml",
    ]
    result = run(*words, "--label", "generated")
    assert len(Dataset.open(tmp_path / "out" / "dataset.parquet")) == 1 + is_read
    assert ("say so: --boxes-unit fraction" in result.stderr) is not is_read


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["import", "yolo", "photos", "out"], ConfigError, "expected one that is read: swift, coco"),
        (["import", "coco", "gone.json", "out"], DataError, "no such file"),
        (["import", "folders", "photos", "out", "--images", "gone"], DataError, "no such folder"),
        (["import", "folders", "photos", "out", "--mapping", "x.yaml"], ConfigError, "--mapping goes with"),
        (["import", "mapping", "photos", "out"], ConfigError, "--mapping goes with"),
        (["import", "folders", "photos", "out", "--strict"], DataError, "1 entry cannot be read, 3 rows can"),
        (["import", "coco", "photos/real/1.png", "out"], DataError, "no JSON"),
        (["import", "coco", "photos", "out"], DataError, r"is a folder(.|\n)*remedy: name the file of annotations$"),
        (["import", "labelstudio", "photos", "out"], DataError, r"no \.json file"),
        (["import", "huggingface", "photos", "out"], DataError, r"no \.parquet file"),
        (["export", "voc", "x.parquet", "out"], ConfigError, "expected one that is written: swift, coco"),
        (["export", "coco", "x.parquet", "out"], DataError, "no such dataset file"),
    ],
)
def test_wrong_arguments_are_one_clear_error(photos, monkeypatch, arguments, error, message):
    monkeypatch.chdir(photos.parent)
    with pytest.raises(error, match=message) as caught:
        run("data", *arguments)
    assert caught.value.remedy


def test_help_shows_every_format_with_its_frame_and_loads_nothing_heavy():
    shown = run("data", "import", "--help").stdout
    for form in FORMATS.values():
        line = next(line for line in shown.splitlines() if line.strip().startswith(form.name))
        assert form.frame in line
    code = (
        "import sys; from fxray.cli.app import app; app(['data', 'import', '--help'], standalone_mode=False);"
        "print([name for name in ('PIL', 'pyarrow', 'numpy', 'ray', 'torch', 'ijson') if name in sys.modules])"
    )
    start_s = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert time.monotonic() - start_s < 10  # about 0.3 s where the machine is free
