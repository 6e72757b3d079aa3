"""Prediction files: any detector can write one, every mistake in one is named, boxes come out in original pixels."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxray.data.frame import Frame
from fxray.errors import DataError
from fxray.evaluate.predictions import Prediction, from_answer, read_predictions, read_with_fields, write_predictions
from fxray.schema import Box, Region, Tag, Verdict

FULL = Prediction(
    sample_id="a/1",
    verdict=Verdict.GENERATED,
    regions=(Region(Box(0.5, 1, 20.25, 30), "Hand with six fingers"), Region(Box(-3, 2, 7, 9), "<script> \u2028 🙂")),
    tags=(Tag.STRUCTURE, Tag.TEXTURE),
    answer="<think>…\n</think>",
    faults=("missing-block",),
    is_strict=False,
    seconds=0.25,
)
BARE = Prediction("b", None)
SCORED = replace(FULL, sample_id="c", probability=0.75, box_scores=(-2.5, 7.0), is_strict=True)

STRICT = (
    "<think>\n<|object_ref_start|>Leg bent twice<|object_ref_end|><|box_start|>(28,14),(56,84)<|box_end|>\n</think>\n"
    "<tag>structure errors</tag>\n<verdict>generated</verdict><|im_end|>"
)


@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    write_predictions([FULL, BARE, SCORED], tmp_path / name)
    assert read_predictions(tmp_path / name) == [FULL, BARE, SCORED]


@pytest.mark.parametrize("has_boxes", [True, False])
@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl"])
def test_the_file_of_a_detector_that_was_taught_no_boxes_does_not_speak_of_them(
    tmp_path: Path, name: str, has_boxes: bool
) -> None:
    write_predictions([BARE], tmp_path / name, has_boxes=has_boxes)
    predictions, filled = read_with_fields(tmp_path / name)
    assert (predictions, "regions" in filled) == ([BARE], has_boxes)


@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl"])
def test_no_predictions_are_a_file_too(tmp_path: Path, name: str) -> None:
    write_predictions([], tmp_path / name)
    assert read_predictions(tmp_path / name) == []


def test_a_foreign_detector_needs_two_fields(tmp_path: Path) -> None:
    (tmp_path / "foreign.jsonl").write_text(
        '{"sample_id": "x", "verdict": "real"}\n\n{"sample_id":"y","verdict":null}\n'
    )
    assert read_predictions(tmp_path / "foreign.jsonl") == [Prediction("x", Verdict.REAL), Prediction("y", None)]
    table = pa.table({"sample_id": ["x"], "verdict": ["generated"], "regions": pa.array([None], pa.null())})
    pq.write_table(table, tmp_path / "foreign.parquet")
    assert read_predictions(tmp_path / "foreign.parquet") == [Prediction("x", Verdict.GENERATED)]


def test_the_parquet_file_says_what_it_is(tmp_path: Path) -> None:
    write_predictions([FULL], tmp_path / "p.parquet")
    metadata = pq.read_schema(tmp_path / "p.parquet").metadata
    assert metadata[b"fxray.format"] == b"predictions"
    assert metadata[b"fxray.version"] == b"1"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sample_id": None}, "sample_id"),
        ({"sample_id": ""}, "sample_id"),
        ({"sample_id": 7}, "sample_id"),
        ({"verdict": "fake"}, "verdict"),
        ({"verdict": []}, "verdict"),
        ({"region": []}, "region"),
        ({"regions": "none"}, "regions"),
        ({"regions": [{"box": [1, 2, 3], "caption": ""}]}, "regions.0.box.3"),
        ({"regions": [{"caption": "Hand"}]}, "regions.0.box"),
        ({"regions": [{"box": [1, 2, 3, float("nan")]}]}, "regions.0.box.3"),
        ({"regions": [{"box": [1, 2, 3, "4"]}]}, "regions.0.box.3"),
        ({"regions": [{"box": [5, 2, 3, 4]}]}, "regions.0.box"),
        ({"regions": [{"box": [1, 2, 3, 2]}]}, "regions.0.box"),  # no area
        ({"regions": [{"box": [1, 2, 3, 4], "score": 1}, {"box": [1, 2, 3, 4]}]}, "regions"),  # one alone is ranked
        ({"tags": ["ugly"]}, "tags.0"),
        ({"is_strict": "yes"}, "is_strict"),
        ({"seconds": -1}, "seconds"),
        ({"answer": 3}, "answer"),
        ({"probability": 0.9}, "probability"),  # beside a verdict that could not be read
    ],
)
def test_a_wrong_field_is_named_with_its_row(tmp_path: Path, change: dict[str, object], field: str) -> None:
    good = {"sample_id": "a", "verdict": "real"}
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, [good, {"sample_id": "b", "verdict": None} | change])))
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert caught.value.where == f"{path}, line 2"
    assert f"`{field}`" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("line", ["[1]", "{", "3", "[" * 200_000, '{"verdict": "real"}', '{"sample_id": "a"}'])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(DataError, match="line 1"):
        read_predictions(tmp_path / "bad.jsonl")


def test_lines_that_are_no_objects_are_listed_with_the_other_faults(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{}\n[1]\nnot\n{"sample_id": "a", "verdict": "real"}\n')
    with pytest.raises(DataError) as caught:
        read_predictions(tmp_path / "bad.jsonl")
    first, second, third = caught.value.message.split("; ")
    assert first == "3 faults: line 1: field `sample_id`: Field required"
    assert second == "line 2: '[1]' is no object"
    assert third.startswith("line 3: not JSON")


def test_lines_in_another_encoding_are_told_to_be(tmp_path: Path) -> None:
    line = '{"sample_id": "a", "verdict": "real"}\n'
    (tmp_path / "a.jsonl").write_text(line, encoding="utf-8-sig")
    assert [said.sample_id for said in read_predictions(tmp_path / "a.jsonl")] == ["a"]
    (tmp_path / "a.jsonl").write_text(line * 2, encoding="utf-16")
    with pytest.raises(DataError, match=r"line 1: not JSON: 'utf-8' codec(.|\n)*in UTF-8"):
        read_predictions(tmp_path / "a.jsonl")


def test_one_sample_is_predicted_once(tmp_path: Path) -> None:
    write_predictions([BARE, BARE], tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=r"row 1.*'b' was predicted before"):
        read_predictions(tmp_path / "twice.parquet")


def test_files_that_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such"):
        read_predictions(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="not readable as Parquet"):
        read_predictions(tmp_path / "text.parquet")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"row 0: field `sample_id`"):
        read_predictions(tmp_path / "other.parquet")
    newer = pa.table({"sample_id": ["a"], "verdict": ["real"]}).replace_schema_metadata({"fxray.version": "2"})
    pq.write_table(newer, tmp_path / "newer.parquet")
    with pytest.raises(DataError, match="version 2"):
        read_predictions(tmp_path / "newer.parquet")


def test_boxes_of_an_answer_come_out_in_original_pixels() -> None:
    frame = Frame(width_px=100, height_px=300, model_width_px=56, model_height_px=84)
    prediction = from_answer("a", frame, STRICT, seconds=2.0)
    assert prediction.verdict is Verdict.GENERATED
    assert prediction.regions == (Region(Box(50, 50, 100, 300), "Leg bent twice"),)
    assert prediction.tags == (Tag.STRUCTURE,)
    assert (prediction.is_strict, prediction.faults, prediction.seconds) == (True, (), 2.0)
    assert prediction.answer == STRICT


def test_boxes_of_an_answer_are_clipped_before_they_are_scaled() -> None:
    frame = Frame(width_px=100, height_px=300, model_width_px=28, model_height_px=28)
    inside, outside = from_answer("a", frame, STRICT.replace("(28,14)", "(-5,14)")), from_answer("a", frame, STRICT)
    assert inside.regions[0].box == Box(0, 150, 100, 300)
    assert inside.is_strict
    assert outside.regions == ()
    assert outside.faults == ("generated-without-region",)


def test_an_answer_is_read_in_its_view() -> None:
    frame = Frame(width_px=100, height_px=300, model_width_px=56, model_height_px=84)
    bare = "<think><|box_start|>(28,14),(56,84)<|box_end|></think><tag>none</tag><verdict>generated</verdict>"
    prediction = from_answer("a", frame, bare, view="no-caption")
    assert prediction.is_strict
    assert prediction.regions == (Region(Box(50, 50, 100, 300), ""),)
    assert from_answer("a", frame, bare).faults == ("generated-without-region", "box-without-caption")


def test_a_cut_answer_is_a_prediction_with_faults() -> None:
    prediction = from_answer("a", Frame(28, 28, 28, 28), STRICT[:60], is_finished=False)
    assert prediction.verdict is None
    assert not prediction.is_strict
    assert prediction.faults[-1] == "unfinished"


@given(st.text(max_size=200))
def test_any_text_is_a_prediction(text: str) -> None:
    assert from_answer("a", Frame(30, 40, 28, 56), text).answer == text
