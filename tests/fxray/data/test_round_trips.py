"""import(export(x)) = x for every format that is written; boxes exact to the bit that datasets keep."""

import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.data.exported import Guess
from fxray.data.exports import export_dataset
from fxray.data.formats.catalogue import FORMATS, find
from fxray.data.images import decode_image
from fxray.data.imports import import_dataset
from fxray.data.orientation import upright_size
from fxray.data.rows import Reading
from fxray.errors import ConfigError, DataError
from fxray.events import ignore
from fxray.grammar.markers import SPECIAL_MARKER
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

WRITTEN = [form.name for form in FORMATS.values() if form.is_written]
MAIN_FILE = {"swift": "data.jsonl", "coco": "annotations.json", "labelstudio": "tasks.json", "huggingface": "."}
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12).filter(str.strip)
CAPTIONS = TEXT.filter(lambda text: not SPECIAL_MARKER.search(text))
"""Hypothesis also tries the constants of the sources, and no dataset holds a caption with a marker in it."""


def picture(size, orientation, shade):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 9, 90)).save(buffer, "JPEG" if shade % 2 else "PNG", exif=exif)
    return buffer.getvalue()


@st.composite
def rows(draw, number):
    stored, orientation = (draw(st.integers(8, 500)), draw(st.integers(8, 400))), draw(st.integers(1, 8))
    width, height = upright_size(*stored, orientation)

    def span(limit):
        ends = st.floats(0, limit, width=32).map(lambda value: value if value > 2**-20 else 0.0)
        return draw(st.tuples(ends, ends).map(sorted).filter(lambda pair: pair[0] < pair[1]))

    regions = []
    for _ in range(draw(st.integers(0, 3))):
        (x_min, x_max), (y_min, y_max) = span(width), span(height)
        regions.append(Region(Box(x_min, y_min, x_max, y_max), draw(CAPTIONS)))
    tags = tuple(draw(st.lists(st.sampled_from(list(Tag)), unique=True)))
    is_real = draw(st.booleans())
    annotation = Annotation(Verdict.REAL) if is_real else Annotation(Verdict.GENERATED, tuple(regions), tags)
    who = draw(st.none() | TEXT)
    sample = Sample(f"{number}-{draw(TEXT)}", width, height, annotation, draw(TEXT), draw(TEXT), draw(TEXT), who)
    return Row(sample, image=picture(stored, orientation, draw(st.integers(0, 255))))


SHARED_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # spares hundreds of waits for the disk
DATASETS = st.integers(1, 4).flatmap(lambda count: st.tuples(*[rows(number) for number in range(count)]))


def bring_back(form, export, dst):
    found, src = find(form), export / MAIN_FILE[form]
    reading = Reading(found.frame)  # no default for anything: all must come from the files
    summary = import_dataset(found, src, dst, images=export, reading=reading, is_strict=True, on_event=ignore)
    assert (summary.num_refused, summary.num_warnings) == (0, 0)
    return Dataset.open(dst / "dataset.parquet")


@pytest.mark.parametrize("form", WRITTEN)
@given(content=DATASETS)
@settings(max_examples=25)
def test_every_field_comes_back(form, content):
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as name:
        folder = Path(name)
        write_dataset(folder / "x.parquet", content)
        assert export_dataset(find(form), folder / "x.parquet", folder / "out", on_event=ignore) == len(content)
        again = bring_back(form, folder / "out", folder / "again")
        assert again.samples == [row.sample for row in content]
        assert [again.image_bytes(n) for n in range(len(content))] == [row.image for row in content]
        export_dataset(find(form), again.path, folder / "twice", on_event=ignore)  # images in files
        assert bring_back(form, folder / "twice", folder / "third").samples == again.samples


FLAWS = (Region(Box(10, 20.25, 60.5, 80), "hand fused — 手"), Region(Box(0, 0, 200, 100), 'sky "torn", <bbox>'))


@pytest.fixture
def dataset(tmp_path):
    """A generated photograph on its side with two flaws, and a real image."""
    flawed = Sample("one", 200, 100, Annotation(Verdict.GENERATED, FLAWS, (Tag.STRUCTURE,)), "sdxl", "cat", "web")
    plain = Sample("two", 60, 40, Annotation(Verdict.REAL), "real", "dog", "home")
    path = tmp_path / "set.parquet"
    write_dataset(path, [Row(flawed, picture((100, 200), 6, 51)), Row(plain, picture((60, 40), 1, 52))])
    return path


@pytest.fixture
def guesses():
    hand = Guess(Verdict.GENERATED, (Region(Box(12, 22, 62, 82), "hand odd"),), (Tag.TEXTURE,))
    return {"one": hand, "two": Guess(None, (), ())}


def test_pycocotools_loads_the_files_and_scores_the_results(dataset, guesses, tmp_path, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    export_dataset(find("coco"), dataset, tmp_path / "out", guesses=guesses, on_event=ignore)
    truth = COCO(str(tmp_path / "out" / "annotations.json"))
    assert [image["file_name"].startswith("images/") for image in truth.loadImgs(truth.getImgIds())] == [True, True]
    loaded = truth.loadAnns(truth.getAnnIds(imgIds=[1]))
    assert [(each["bbox"], each["caption"]) for each in loaded] == [
        ([10, 20.25, 50.5, 59.75], FLAWS[0].caption),
        ([0, 0, 200, 100], FLAWS[1].caption),
    ]
    assert [each["area"] for each in loaded] == [50.5 * 59.75, 200 * 100]
    results = truth.loadRes(str(tmp_path / "out" / "results.json"))
    assert [each["bbox"] for each in results.dataset["annotations"]] == [[12, 22, 50, 60]]
    scored = COCOeval(truth, results, "bbox")
    scored.evaluate(), scored.accumulate(), scored.summarize()
    assert scored.stats[1] == pytest.approx(0.505, abs=0.001)  # at IoU 0.5: one of two found, none wrong
    assert not (tmp_path / "out" / "results.json").read_text().startswith("[]")


def test_datasets_loads_the_parquet_upright(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    export_dataset(find("huggingface"), dataset, tmp_path / "out", on_event=ignore)
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image"].size == (200, 100)
    assert loaded[0]["regions"] == [{"box": list(region.box), "caption": region.caption} for region in FLAWS]
    assert (loaded[1]["label"], loaded[1]["image"].size, loaded[1]["tags"]) == ("real", (60, 40), [])
    ours = decode_image(Dataset.open(dataset).image_bytes(0), "here")
    assert np.array_equal(np.asarray(loaded[0]["image"].convert("RGB")), np.asarray(ours))
    assert "1 generated, 1 real" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "images").exists()


def test_swift_boxes_lie_in_the_raster_that_ms_swift_reads(dataset, tmp_path):
    export_dataset(find("swift"), dataset, tmp_path / "out", on_event=ignore)
    first, second = map(json.loads, (tmp_path / "out" / "data.jsonl").read_text().splitlines())
    with Image.open(tmp_path / "out" / first["images"][0]) as image:
        assert image.size == (100, 200)  # as ms-swift opens it: unturned
    assert first["objects"]["bbox"] == [[20.25, 139.5, 80, 190], [0, 0, 100, 200]]
    assert first["objects"]["ref"] == [region.caption for region in FLAWS]
    answer = first["messages"][-1]["content"]
    assert answer.count("<ref-object><bbox>") == 2
    assert answer.endswith("<tag>structure errors</tag>\n<verdict>generated</verdict>")
    assert first["messages"][1]["content"].startswith("<image>")
    assert second["objects"] == {"ref": [], "bbox": []}


def test_ms_swifts_own_preprocessor_takes_the_rows(dataset, tmp_path, monkeypatch):
    reason = "make test-swift: its pins (peft, trl, datasets) exclude fxray's"
    core = pytest.importorskip("swift.dataset.preprocessor.core", reason=reason)
    import datasets

    export_dataset(find("swift"), dataset, tmp_path / "out", on_event=ignore)
    monkeypatch.chdir(tmp_path / "out")
    rows = datasets.Dataset.from_list([json.loads(line) for line in Path("data.jsonl").read_text().splitlines()])
    first, second = core.AutoPreprocessor()(rows, strict=True, load_from_cache_file=False)
    assert first["objects"]["bbox"] == [[20.25, 139.5, 80, 190], [0, 0, 100, 200]]
    assert (first["objects"]["ref"][0], second["objects"]["bbox"]) == (FLAWS[0].caption, [])


def test_predictions_go_to_people_and_come_back_corrected(dataset, guesses, tmp_path):
    export_dataset(find("labelstudio"), dataset, tmp_path / "out", guesses=guesses, on_event=ignore)
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    result = tasks[0]["predictions"][0]["result"]
    assert result[0]["value"] == {
        "x": 6,
        "y": 22,
        "width": 25,
        "height": 60,
        "rotation": 0,
        "rectanglelabels": ["flaw"],
    }
    assert result[0]["id"] == result[1]["id"]
    config = (tmp_path / "out" / "label_config.xml").read_text()
    names = {mark["from_name"] for mark in result}
    assert all(f'name="{name}"' in config for name in names | {"image"})
    result[0]["value"]["width"] = 50
    tasks[0]["annotations"] = [{"id": 5, "was_cancelled": False, "result": result}]
    (unread,) = tasks[1]["predictions"]
    assert unread["result"] == []
    choice = {"type": "choices", "from_name": "verdict", "to_name": "image", "value": {"choices": ["real"]}}
    tasks[1]["annotations"] = [{"id": 6, "was_cancelled": False, "result": [choice]}]
    (tmp_path / "out" / "tasks.json").write_text(json.dumps(tasks))
    one, two = bring_back("labelstudio", tmp_path / "out", tmp_path / "again").samples
    assert one.annotation == Annotation(Verdict.GENERATED, (Region(Box(12, 22, 112, 82), "hand odd"),), (Tag.TEXTURE,))
    assert (one.sample_id, one.generator, two.annotation.verdict) == ("one", "sdxl", Verdict.REAL)


def test_a_prediction_without_a_verdict_is_real_in_no_format(dataset, guesses, tmp_path):
    guesses["two"] = Guess(None, (), (Tag.OTHER,))
    for form in ("swift", "labelstudio", "huggingface"):
        export_dataset(find(form), dataset, tmp_path / form, guesses=guesses, on_event=ignore)
    (line,) = (tmp_path / "swift" / "data.jsonl").read_text().splitlines()
    assert json.loads(line)["sample_id"] == "one"
    marks = json.loads((tmp_path / "labelstudio" / "tasks.json").read_text())[1]["predictions"][0]["result"]
    assert [mark["value"]["choices"] for mark in marks] == [["other anomalies"]]
    (file,) = (tmp_path / "huggingface" / "data").glob("*.parquet")
    assert pq.read_table(file, columns=["label"])["label"].to_pylist() == ["generated", None]
    assert "2 images: 1 generated, 1 without a label." in (tmp_path / "huggingface" / "README.md").read_text()


@pytest.mark.parametrize("form", ["swift", "labelstudio", "huggingface"])
def test_predictions_come_back_whatever_a_detector_drew(form, dataset, guesses, tmp_path):
    """Boxes over the border and outside of the image, and boxes on an image that it calls real."""
    drawn = [Region(Box(180, -5, 220.5, 40), "hand odd"), Region(Box(500, 500, 600, 600), "foot odd")]
    guesses["one"] = Guess(Verdict.GENERATED, tuple(drawn), (), box_scores=(0.5, 0.25))
    guesses["two"] = Guess(Verdict.REAL, () if form == "labelstudio" else tuple(drawn), ())
    export_dataset(find(form), dataset, tmp_path / "out", guesses=guesses, on_event=ignore)
    one, two = bring_back(form, tmp_path / "out", tmp_path / "again").samples
    assert one.annotation == Annotation(Verdict.GENERATED, (Region(Box(180, 0, 200, 40), "hand odd"),))
    assert two.annotation == Annotation(Verdict.REAL)


def test_a_predicted_box_without_caption_leaves_the_text_area_open(dataset, guesses, tmp_path):
    guesses["one"] = Guess(Verdict.GENERATED, (Region(Box(12, 22, 62, 82), ""),), ())
    export_dataset(find("labelstudio"), dataset, tmp_path / "out", guesses=guesses, on_event=ignore)
    marks = json.loads((tmp_path / "out" / "tasks.json").read_text())[0]["predictions"][0]["result"]
    assert [mark["type"] for mark in marks] == ["rectanglelabels", "choices"]


def test_equal_images_take_room_once_and_are_linked(dataset, tmp_path):
    sample = Dataset.open(dataset).samples[0]
    image = picture((100, 200), 6, 51)
    both = [Row(sample, image), Row(Sample("copy", 200, 100, sample.annotation, "a", "b", "c"), image)]
    write_dataset(tmp_path / "twins.parquet", both)
    export_dataset(find("coco"), tmp_path / "twins.parquet", tmp_path / "out", on_event=ignore)
    (file,) = (tmp_path / "out" / "images").rglob("*.jpg")
    kept = bring_back("coco", tmp_path / "out", tmp_path / "again")
    export_dataset(find("swift"), kept.path, tmp_path / "linked", on_event=ignore)
    (linked,) = (tmp_path / "linked" / "images").rglob("*.jpg")
    assert linked.samefile(kept.image_file(0))
    assert not linked.samefile(file)


@pytest.mark.parametrize("form", ["coco", "huggingface"])
def test_images_that_are_links_are_exported_as_files(form, dataset, tmp_path):
    export_dataset(find("coco"), dataset, tmp_path / "out", on_event=ignore)
    kept = bring_back("coco", tmp_path / "out", tmp_path / "kept")
    (tmp_path / "kept" / "store").mkdir()
    for file in list((tmp_path / "kept" / "images").rglob("*.*")):
        file.rename(tmp_path / "kept" / "store" / file.name)
        file.symlink_to(f"../../store/{file.name}")
    export_dataset(find(form), kept.path, tmp_path / "linked", on_event=ignore)
    assert not [file for file in (tmp_path / "linked").rglob("*") if file.is_symlink()]
    again = bring_back(form, tmp_path / "linked", tmp_path / "again")
    assert [again.image_bytes(n) for n in range(2)] == [kept.image_bytes(n) for n in range(2)]


def test_a_pipe_in_the_place_of_an_image_is_refused(dataset, tmp_path):
    sample = Dataset.open(dataset).samples[0]
    write_dataset(tmp_path / "pipe.parquet", [Row(sample, image_path="pipe.jpg")])
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe\.jpg is missing, or no plain file"):
        export_dataset(find("coco"), tmp_path / "pipe.parquet", tmp_path / "out", on_event=ignore)


def test_what_is_there_stays(dataset, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ConfigError, match="is there already"):
        export_dataset(find("coco"), dataset, tmp_path / "mine", on_event=ignore)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="expected one that is written"):
        find("voc", to_write=True)


@pytest.mark.parametrize("form", WRITTEN)
def test_the_truth_never_passes_for_a_prediction(form, dataset, guesses, tmp_path):
    del guesses["one"]
    with pytest.raises(DataError, match="1 sample has no prediction, such as 'one'"):
        export_dataset(find(form), dataset, tmp_path / "out", guesses=guesses, on_event=ignore)
    assert not (tmp_path / "out").exists()


def test_coco_results_have_the_scores_that_rank_the_boxes(dataset, guesses, tmp_path):
    guesses["one"] = Guess(Verdict.GENERATED, FLAWS, (), box_scores=(0.25, 0.75))
    guesses["two"] = Guess(Verdict.GENERATED, FLAWS[:1], (), score=0.5)
    export_dataset(find("coco"), dataset, tmp_path / "out", guesses=guesses, on_event=ignore)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(each["image_id"], each["score"]) for each in results] == [(1, 0.25), (1, 0.75), (2, 0.5)]


def test_predictions_of_other_samples_and_lost_images_are_refused(dataset, tmp_path):
    strangers = {"stranger": Guess(Verdict.REAL, (), ())}
    with pytest.raises(DataError, match="1 sample is not in the dataset, such as 'stranger'"):
        export_dataset(find("coco"), dataset, tmp_path / "out", guesses=strangers, on_event=ignore)
    sample = Dataset.open(dataset).samples[0]
    write_dataset(tmp_path / "lost.parquet", [Row(sample, image_path="images/gone.jpg")])
    with pytest.raises(DataError, match="row 0"):
        export_dataset(find("swift"), tmp_path / "lost.parquet", tmp_path / "out", on_event=ignore)
    assert not (tmp_path / "out").exists()
