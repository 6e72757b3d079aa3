"""Files of other tools become predictions by stated rules, and every fault in one is listed."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fxray.data.dataset import Row, write_dataset
from fxray.data.exported import Guess
from fxray.data.exports import export_dataset
from fxray.data.formats.catalogue import find
from fxray.errors import DataError
from fxray.evaluate.foreign import boxes_of_mask, read_any
from fxray.evaluate.predictions import Prediction, write_predictions
from fxray.events import ignore
from fxray.schema import Annotation, Box, Region, Sample, Verdict

REAL, GENERATED = Verdict.REAL, Verdict.GENERATED
SAMPLES = [Sample(name, 20, 10, Annotation(REAL), "g", "c", "s") for name in ("a/1", "b", "c")]


def read(path: Path) -> list[Prediction]:
    return read_any(path, SAMPLES, threshold=0.5).predictions


def told(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize("name", ["no.csv", "no.json", "no.jsonl", "no.parquet", "no"])
def test_a_file_that_is_missing_is_said_to_be(tmp_path: Path, name: str) -> None:
    message = told(tmp_path / name)
    assert "no such predictions file or folder" in message
    assert "UTF-8" not in message


def test_a_csv_file_of_labels_or_scores(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("\ufeffsample_id,score,label,other\na/1,0.5,,x\nb,0.49,,\nc,0.9,Real,\n", encoding="utf-8")
    assert read(file) == [
        Prediction("a/1", GENERATED, probability=0.5),
        Prediction("b", REAL, probability=0.49),
        Prediction("c", REAL, probability=0.9),
    ]
    assert not read_any(file, SAMPLES, threshold=0.5).has_boxes
    file.write_text("sample_id,label\na/1,1\nb,fake\n")
    assert read(file) == [Prediction("a/1", GENERATED), Prediction("b", GENERATED)]
    file.write_text("sample_id,label\na/1,1.0\nb,0.0\n")  # as pandas writes them where one is missing
    assert read(file) == [Prediction("a/1", GENERATED), Prediction("b", REAL)]


def test_a_threshold_that_no_score_can_be_on_both_sides_of_is_refused_where_it_decides(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    for threshold in (7.0, -0.1):
        file.write_text("sample_id,score,label\na/1,0.5,real\nb,0.49,\n")
        with pytest.raises(DataError, match="decides about rows without a label, and scores lie in"):
            read_any(file, SAMPLES, threshold=threshold)
        file.write_text("sample_id,score,label\na/1,0.5,real\n")
        assert len(read_any(file, SAMPLES, threshold=threshold).predictions) == 1


def test_every_fault_of_a_csv_file_is_listed(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("sample_id,score,label\na,nan,\nb,1.5,\nc,,\nd,,maybe\n,1,\ne,0,\ne,0,\nf,-0.1,\n")
    message = told(file)
    assert "7 faults: line 2: score 'nan' is no finite number; line 3: score 1.5 lies outside [0, 1]" in message
    assert "line 4: neither label nor score; line 5: label 'maybe', expected one of real" in message
    assert "line 6: no sample_id; line 8: sample 'e' was predicted before; line 9: score -0.1 lies outside" in message
    file.write_text("sample_id,verdict\n" + "a,1\n")
    assert "expected sample_id, and label or score" in told(file)
    file.write_text("sample_id,score,score,note,note\na/1,0.9,0.1,,\n")
    assert "several columns score\n" in told(file)
    file.write_text("sample_id,score\n" + "a,inf\n" * 30)
    assert "and 20 more" in told(file)


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_a_csv_file_that_is_separated_by_something_else_is_told_so(tmp_path: Path, separator: str, word: str) -> None:
    file = tmp_path / "p.csv"
    file.write_text(f"sample_id{separator}score\na{separator}0.5\n")
    assert f"separate columns by commas: these seem to be separated by {word}" in told(file)
    file.write_text("name\na\n")
    assert "name the columns so in the first line" in told(file)


def test_a_file_of_no_known_ending_names_all_forms_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a real\n")
    message = told(tmp_path / "p.txt")
    for form in ("Parquet", "*.jsonl", "*.csv", "*.json and", "folders of masks"):
        assert form in message


@pytest.mark.parametrize("regions", [{}, {"regions": None}])
def test_a_file_that_never_speaks_of_regions_holds_no_boxes(tmp_path: Path, regions: dict[str, None]) -> None:
    rows = [{"sample_id": name, "verdict": "generated"} | regions for name in ("a/1", "b")]
    file, table = tmp_path / "p.jsonl", tmp_path / "p.parquet"
    file.write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), table)
    assert [read_any(each, SAMPLES, threshold=0.5).has_boxes for each in (file, table)] == [False, False]
    file.write_text("\n".join(map(json.dumps, [*rows, {"sample_id": "c", "verdict": "real", "regions": []}])))
    write_predictions([Prediction("b", REAL)], table)
    assert [read_any(each, SAMPLES, threshold=0.5).has_boxes for each in (file, table)] == [True, True]


def test_boxes_in_parts_of_the_sides_are_refused(tmp_path: Path) -> None:
    file, coco = tmp_path / "p.jsonl", tmp_path / "p.json"
    rows = [{"sample_id": n, "verdict": "generated", "regions": [{"box": [0.1, 0.2, 0.5, 1.0]}]} for n in ("b", "c")]
    file.write_text("\n".join(map(json.dumps, rows)))
    coco.write_text(json.dumps([{"image_id": "b", "bbox": [0.1, 0.2, 0.4, 0.8], "score": 0.9}]))
    assert "none of 2 boxes ends beyond 1, as if they were parts of the sides" in told(file)
    assert "none of 1 box ends beyond 1" in told(coco)
    for more in ({"regions": [{"box": [0, 0, 1, 1]}, {"box": [0, 0, 1.5, 1]}]}, {"answer": "a policy that gave up"}):
        file.write_text(json.dumps(rows[0] | more))  # pixels, and what a model of ours says in whole numbers
        assert len(read(file)) == 1


IMAGES = [{"id": 7, "sample_id": "a/1", "file_name": "images/00.png"}, {"id": 1, "file_name": "c"}, {"id": 2}]


def test_coco_results_by_sample_id_or_by_the_images_of_the_file_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    results = [
        {"image_id": "a/1", "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.4},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.7},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.2},
    ]
    file.write_text(json.dumps(results))
    (tmp_path / "annotations.json").write_text(json.dumps({"images": IMAGES, "annotations": []}))
    first, second, third = read(file)
    assert read_any(file, SAMPLES, threshold=0.5).has_boxes
    assert [region.box for region in first.regions] == [Box(1, 2, 4, 6), Box(0, 0, 5, 5)]
    assert (first.verdict, first.probability, first.box_scores) == (GENERATED, 0.7, (0.4, 0.7))
    assert second == Prediction("b", REAL, probability=0.0)
    assert (third.sample_id, third.verdict, third.probability) == ("c", REAL, 0.2)
    (tmp_path / "annotations.json").unlink()
    for score in (7.0, -0.1):  # no probabilities, though they rank boxes
        file.write_text(json.dumps([results[0], results[0] | {"score": score}]))
        assert [p.probability for p in read(file)] == [None, None, None]
    file.write_text(json.dumps([results[0] | {"score": 0.5}, results[0] | {"image_id": "b", "score": 0}]))
    assert [(p.verdict, p.probability) for p in read(file)] == [(GENERATED, 0.5), (REAL, 0), (REAL, 0)]


def test_coco_results_by_images_whose_ids_are_texts(tmp_path: Path) -> None:
    file, box = tmp_path / "p.json", {"bbox": [1, 2, 3, 4], "score": 0.9}
    images = [{"id": "seven", "sample_id": "a/1"}, {"id": "b", "sample_id": "c"}]
    (tmp_path / "annotations.json").write_text(json.dumps({"images": images}))
    file.write_text(json.dumps([box | {"image_id": "seven"}, box | {"image_id": "b"}]))
    assert [len(p.regions) for p in read(file)] == [1, 1, 0]  # b is the sample, not the image of that id


def test_a_number_is_no_place_in_the_dataset(tmp_path: Path) -> None:
    file, images = tmp_path / "p.json", tmp_path / "annotations.json"
    one = {"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.4}
    file.write_text(json.dumps([one | {"image_id": "b"}, one | {"image_id": 0}]))
    message = told(file)
    assert "image_id 0 is a number, and no file says of which image" in message
    assert "beside it as annotations.json, or write sample ids" in message
    file.write_text(json.dumps([one | {"image_id": "b"}, one]))
    images.write_text(json.dumps({"images": [*IMAGES, {"id": 9, "file_name": "c"}]}))
    assert "result 1: image_id 1 is not in the dataset" in told(file)  # two images are called c
    images.write_text(json.dumps({"images": IMAGES}))
    file.write_text(json.dumps([one, one | {"image_id": True}]))
    assert "1 fault: result 1: image_id True is not in the dataset" in told(file)
    images.write_text(json.dumps({"images": IMAGES})[:-3])
    assert "JSON breaks after" in told(file)


def test_predictions_go_out_as_coco_and_come_back(tmp_path: Path) -> None:
    rows = []
    for sample in reversed(SAMPLES):  # the numbers of the export are not places in what is scored
        buffer = io.BytesIO()
        Image.new("RGB", (20, 10)).save(buffer, "PNG")
        rows.append(Row(sample, buffer.getvalue()))
    write_dataset(tmp_path / "set.parquet", rows)
    box = Region(Box(1, 2, 4, 6), "flaw")
    said = {"a/1": Guess(GENERATED, (box,), (), box_scores=(0.75,)), "b": Guess(REAL, (), ())}
    said["c"] = Guess(GENERATED, (box, box), (), box_scores=(0.25, 0.5))
    export_dataset(find("coco"), tmp_path / "set.parquet", tmp_path / "out", on_event=ignore, guesses=said)
    again = {prediction.sample_id: prediction for prediction in read(tmp_path / "out" / "results.json")}
    assert {name: (len(each.regions), each.box_scores) for name, each in again.items()} == {
        "a/1": (1, (0.75,)),
        "b": (0, ()),
        "c": (2, (0.25, 0.5)),
    }


def test_every_fault_of_coco_results_is_listed(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    good = {"image_id": 7, "bbox": [1, 2, 3, 4], "score": 0.4}
    (tmp_path / "annotations.json").write_text(json.dumps({"images": IMAGES}))
    bad = [good | {"image_id": 4}, good | {"bbox": [1, 2, 0, 4]}, good | {"score": float("nan")}, {"image_id": 7}, 7]
    file.write_text(json.dumps([good, *bad]))
    message = told(file)
    assert "5 faults: result 1: image_id 4 is not in the dataset; result 2: bbox [1, 2, 0, 4] has no area" in message
    assert "result 3: score nan is no finite number; result 4: field 'bbox' is missing; result 5:" in message
    file.write_text(json.dumps([good | {"bbox": [1, 2, 3, 0]}, good | {"bbox": [1, 2, 3, -4]}]))
    assert "2 faults: result 0: bbox [1, 2, 3, 0] has no area; result 1: bbox [1, 2, 3, -4] has no area" in told(file)
    file.write_text(json.dumps([good | {"score": 10**400}]))
    assert "no finite number" in told(file)
    file.write_text("{}")
    assert "holds no list" in told(file)
    file.write_text("[" * 100_000)
    assert "not JSON" in told(file)


def save_mask(folder: Path, name: str, *boxes: tuple[int, int, int, int], size: tuple[int, int] = (20, 10)) -> None:
    pixels = np.zeros(size[::-1], np.uint8)
    for x_min, y_min, x_max, y_max in boxes:
        pixels[y_min:y_max, x_min:x_max] = 200
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


def class_mask(folder: Path, name: str, color: tuple[int, int, int]) -> None:
    """A mask of classes by number, as annotation tools write them, whose colours a viewer looks up."""
    image = Image.fromarray(np.eye(10, 20, dtype=np.uint8), "P")
    image.putpalette([0, 0, 0, *color])
    image.save(folder / name)


def test_masks_become_boxes(tmp_path: Path) -> None:
    save_mask(tmp_path, "a/1.png", (0, 0, 3, 4), (10, 5, 20, 10))
    save_mask(tmp_path, "b.png")
    save_mask(tmp_path, "c.png", (0, 0, 2, 2), (2, 2, 4, 4))  # they touch at a corner
    first, second, third = read(tmp_path)
    assert read_any(tmp_path, SAMPLES, threshold=0.5).has_boxes
    assert [region.box for region in first.regions] == [Box(0, 0, 3, 4), Box(10, 5, 20, 10)]
    assert (first.verdict, second) == (GENERATED, Prediction("b", REAL))
    assert [region.box for region in third.regions] == [Box(0, 0, 4, 4)]


def test_masks_of_other_sizes_missing_ones_and_surplus_ones_are_listed(tmp_path: Path) -> None:
    save_mask(tmp_path, "a/1.png", size=(10, 20))
    save_mask(tmp_path, "d.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    message = told(tmp_path)
    assert "4 faults: a/1.png: 10x20 px, expected 20x10; b.png: 8 bytes that are no image" in message
    assert "c.png: there is no such mask; d.png is of no sample" in message


def test_masks_of_zeros_and_ones_and_of_class_colours_are_refused(tmp_path: Path) -> None:
    """Read as grey they are all black, and every image would be scored as real."""
    for name in ("a/1.png", "b.png", "c.png"):
        save_mask(tmp_path, name)
    Image.fromarray(np.eye(10, 20, dtype=np.uint8)).save(tmp_path / "b.png")
    assert "the brightest pixel of all masks is 1 of 255, and only pixels from 128 up are masked" in told(tmp_path)
    class_mask(tmp_path, "b.png", (128, 0, 0))
    assert "the brightest pixel of all masks is 38 of 255" in told(tmp_path)
    save_mask(tmp_path, "c.png", (0, 0, 3, 4))
    assert [prediction.verdict for prediction in read(tmp_path)] == [REAL, REAL, GENERATED]


def test_masks_that_say_where_in_what_is_not_read_are_refused(tmp_path: Path) -> None:
    """Read as grey of 8 bits they are all black, or all white."""
    for name in ("a/1.png", "b.png", "c.png"):
        save_mask(tmp_path, name)
    assert [prediction.verdict for prediction in read(tmp_path)] == [REAL] * 3  # nothing is found anywhere
    found = np.zeros((10, 20), np.uint8)
    found[2:4, 3:6] = 255
    Image.fromarray(found.astype(np.uint16)).save(tmp_path / "b.png")  # 255 of 65535
    assert "the brightest pixel of all masks is 0 of 255" in told(tmp_path)
    Image.fromarray(np.dstack([found * 0, found * 0, found * 0, found])).save(tmp_path / "b.png")
    assert "the brightest pixel of all masks is 0 of 255" in told(tmp_path)
    Image.fromarray(np.dstack([found * 0 + 255] * 3 + [found])).save(tmp_path / "b.png")
    assert "1 fault: b.png: white where it is transparent" in told(tmp_path)
    for mask in (np.dstack([found] * 4), found.astype(np.uint16) * 257, found > 0):  # these say the same in all ways
        Image.fromarray(mask).save(tmp_path / "b.png")
        _, second, _ = read(tmp_path)
        assert [region.box for region in second.regions] == [Box(3, 2, 6, 4)]


def test_a_grey_of_128_is_masked_and_one_of_127_is_not(tmp_path: Path) -> None:
    for name in ("a/1.png", "b.png", "c.png"):
        save_mask(tmp_path, name)
    Image.fromarray(np.where(np.arange(20) < 5, 128, 127).astype(np.uint8)[None].repeat(10, 0)).save(tmp_path / "b.png")
    assert [region.box for region in read(tmp_path)[1].regions] == [Box(0, 0, 5, 10)]


def test_a_folder_without_masks_says_which_file_of_it_may_be_meant(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no PNG in this one\n  remedy: write <sample_id>.png"):
        read_any(tmp_path, SAMPLES, threshold=0.5)
    (tmp_path / "results.json").write_text("[]")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=rf"remedy: give the file itself: {tmp_path}/results.json$"):
        read_any(tmp_path, SAMPLES, threshold=0.5)


def test_boxes_of_masks_are_those_of_scikit_image() -> None:
    from skimage.measure import label, regionprops

    for seed in range(5):
        mask = np.random.default_rng(seed).random((40, 60)) < 0.3
        theirs = {region.bbox for region in regionprops(label(mask, connectivity=2))}
        ours = {(box.y_min, box.x_min, box.y_max, box.x_max) for box in boxes_of_mask(mask)}
        assert ours == theirs
        assert len(ours) > 5
