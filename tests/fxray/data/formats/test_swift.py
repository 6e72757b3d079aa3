"""Rows as ms-swift's "Custom Dataset" page shows them."""

import json

import pytest

from fxray.schema import Box, Region, Tag, Verdict

DOG_AND_WOMAN = {
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "<image>Describe the image."},
        {"role": "assistant", "content": "<ref-object><bbox> and <ref-object><bbox> are playing on the beach"},
    ],
    "images": ["x.png"],
    "objects": {"ref": ["a dog", "a woman"], "bbox": [[31.5, 61.4, 53.5, 94.8], [76.5, 5.8, 199.5, 27.4]]},
}


def rows(*values):
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def test_references_and_boxes_are_filled_in_turn(picture, written, imported):
    picture("x.png")
    sheep = DOG_AND_WOMAN | {
        "messages": [
            {"role": "user", "content": "<image>Find the <ref-object> in the image"},
            {"role": "assistant", "content": "<bbox><bbox>"},
        ],
        "objects": {"ref": ["sheep"], "bbox": [[9, 16, 13.5, 21], [36, 48, 49.5, 53]]},
    }
    found = imported("swift", written("train.jsonl", rows(DOG_AND_WOMAN, sheep)))
    assert found.findings == []
    dogs, flock = found.samples["x.png"], found.samples["x.png#2"]
    assert [region.caption for region in dogs.annotation.regions] == ["a dog", "a woman"]
    assert dogs.annotation.regions[1].box.x_max == 199.5
    assert flock.annotation.regions == (Region(Box(9, 16, 13.5, 21), "sheep"), Region(Box(36, 48, 49.5, 53), "sheep"))


def test_boxes_in_a_question_are_no_regions(picture, written, imported):
    picture("x.png")
    row = DOG_AND_WOMAN | {
        "messages": [
            {"role": "user", "content": "<image>What is wrong at <bbox>?"},
            {"role": "assistant", "content": "<ref-object><bbox>"},
        ],
        "objects": {"ref": ["hand fused"], "bbox": [[0, 0, 20, 20], [1, 2, 3, 4]]},
    }
    found = imported("swift", written("train.jsonl", rows(row)))
    assert found.samples["x.png"].annotation.regions == (Region(Box(1, 2, 3, 4), "hand fused"),)


def test_the_answer_gives_verdict_and_tags(picture, written, imported):
    picture("x.png")
    answer = (
        "<think>\n<ref-object><bbox>\n</think>\n<tag>texture errors; other anomalies</tag>\n<verdict>fake</verdict>"
    )
    row = DOG_AND_WOMAN | {
        "messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": answer}],
        "objects": {"ref": ["Hände verschmolzen 手"], "bbox": [[0.1, 0.2, 0.5, 1.0]], "bbox_type": "norm1"},
    }
    found = imported("swift", written("train.jsonl", rows(row)), label=None)
    annotation = found.samples["x.png"].annotation
    assert (annotation.verdict, annotation.tags) == (Verdict.GENERATED, (Tag.TEXTURE, Tag.OTHER))
    (region,) = annotation.regions
    assert region == Region(Box(20, 20, 100, 100), "Hände verschmolzen 手")


def test_text_with_the_models_own_tokens_is_read_in_thousandths(picture, written, imported):
    picture("x.png")
    text = "<|object_ref_start|>a dog<|object_ref_end|><|box_start|>(221,423),(569,886)<|box_end|> plays"
    row = {
        "messages": [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": text}],
        "images": ["x.png"],
    }
    found = imported("swift", written("train.jsonl", rows(row)), unit="permille")
    (region,) = found.samples["x.png"].annotation.regions
    assert [round(value, 3) for value in region.box] == [44.2, 42.3, 113.8, 88.6]


def test_boxes_lie_in_the_stored_raster(picture, written, imported):
    picture("x.jpg", orientation=6)  # 200x100 as stored, 100x200 upright: the stored left is the top
    row = DOG_AND_WOMAN | {"images": [{"bytes": None, "path": "x.jpg"}]}
    row["objects"] = {"ref": ["a", "b"], "bbox": [[0, 0, 20, 10], [190, 90, 200, 100]]}
    found = imported("swift", written("train.jsonl", rows(row)))
    sample = found.samples["x.jpg"]
    assert (sample.width_px, sample.height_px) == (100, 200)
    assert [region.box for region in sample.annotation.regions] == [Box(90, 0, 100, 20), Box(0, 190, 10, 200)]
    shown = imported(
        "swift",
        written(
            "again.jsonl", rows(row | {"objects": {"ref": ["a", "b"], "bbox": [[0, 0, 20, 10], [90, 190, 100, 200]]}})
        ),
        frame="displayed",
    )
    assert [r.box for r in shown.samples["x.jpg"].annotation.regions] == [Box(0, 0, 20, 10), Box(90, 190, 100, 200)]


@pytest.mark.parametrize(("speaker", "text"), [("from", "value"), ("role", "content")])
@pytest.mark.parametrize("model", ["gpt", "Assistant", "model", "bot"])
def test_answers_count_whatever_the_layout_calls_the_model(speaker, text, model, picture, written, imported):
    picture("x.png")
    turns = [{speaker: "user", text: "<image>?"}, {speaker: model, text: "<ref-object><bbox>, <ref-object><bbox>"}]
    row = DOG_AND_WOMAN | {"messages": turns, "images": None, "image": "x.png"}
    found = imported("swift", written("train.jsonl", rows(row)))
    assert [region.caption for region in found.samples["x.png"].annotation.regions] == ["a dog", "a woman"]


def test_boxes_of_nobody_who_is_known_are_refused(picture, written, imported):
    picture("x.png")
    alone = DOG_AND_WOMAN | {"messages": [{"role": "judge", "content": "<ref-object><bbox>, <ref-object><bbox>"}]}
    turns = [{"role": "judge", "content": "<ref-object><bbox>"}, {"role": "assistant", "content": "<ref-object><bbox>"}]
    text = rows(alone, DOG_AND_WOMAN | {"messages": turns}, DOG_AND_WOMAN)
    found = imported("swift", written("train.jsonl", text))
    assert [(each["field"], each["value"]) for each in found.findings] == [
        ("messages", "judge"),
        ("messages[0].content", "judge"),
    ]
    assert list(found.samples) == ["x.png"]


def test_what_cannot_be_read_is_named(picture, written, imported):
    picture("x.png")
    bad = [
        DOG_AND_WOMAN | {"images": ["x.png", "y.png"]},
        DOG_AND_WOMAN | {"images": ["gone.png"]},
        DOG_AND_WOMAN | {"objects": {"ref": ["a dog", "a woman"], "bbox": [[1, 2, 3, 4]]}},
        DOG_AND_WOMAN | {"objects": {"ref": ["a dog"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}},
        DOG_AND_WOMAN | {"objects": {"ref": ["a", "b"], "bbox": [[1, 2], [5, 6]]}},
        DOG_AND_WOMAN | {"objects": {"ref": ["a", "b"], "bbox": [[1, 2, 3, 4], [9, 6, 7, 8]]}},
        DOG_AND_WOMAN | {"objects": {"ref": ["a", " "], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}},
        DOG_AND_WOMAN | {"messages": []},
    ]
    text = rows(DOG_AND_WOMAN, *bad) + '{"messages": [\n'
    found = imported("swift", written("train.jsonl", text))
    assert list(found.samples) == ["x.png"]
    assert sorted((finding["row"], finding["field"]) for finding in found.findings) == [
        ("line 10", "line"),
        ("line 2", "images"),
        ("line 3", "images"),
        ("line 4", "objects.bbox"),
        ("line 5", "objects.ref"),
        ("line 6", "objects.bbox[0]"),
        ("line 7", "objects.bbox[1]"),
        ("line 8", "objects.ref[1]"),
        ("line 9", "messages"),
    ]
    assert all(finding["file"].endswith("train.jsonl") and finding["reason"] for finding in found.findings)


HAND = "<|object_ref_start|>hand bent<|object_ref_end|><|box_start|>(10,10),(50,60)<|box_end|>"
FACE = "<|object_ref_start|>face melted<|object_ref_end|><|box_start|>({},20),({},60)<|box_end|>"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HAND + FACE.format(90, 70), "2 boxes by the marks, of which 1"),  # swapped corners
        (f"<think>{HAND}{FACE.format('1e2', 150)}</think>", "2 boxes by the marks, of which 1"),
        (f"<think>hands</think>{HAND}", "1 box by the marks, of which 0"),
        ('{"bbox_2d": [1, 2, 3], "label": "x"}', "1 box by the marks, of which 0"),
        ("<ref-object><bbox>", "more <bbox> than there are boxes"),
    ],
)
def test_a_box_in_the_text_that_is_not_read_refuses_its_row(picture, written, imported, text, reason):
    picture("x.png")
    row = {
        "messages": [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": text}],
        "images": ["x.png"],
        "objects": {"ref": ["hand bent"], "bbox": []},
    }
    found = imported("swift", written("train.jsonl", rows(DOG_AND_WOMAN, row)))
    assert list(found.samples) == ["x.png"]
    assert [finding["row"] for finding in found.findings] == ["line 2"]
    assert reason in found.findings[0]["reason"]


@pytest.mark.parametrize(
    "beside", [HAND, ' [{"bbox_2d": [10, 20, 13, 60], "label": "ear"}]', ' {"bbox": [1, 2, 3, 4]}', " [1, 2, 30, 40]"]
)
def test_boxes_written_out_beside_boxes_of_objects_refuse_their_row(picture, written, imported, beside):
    picture("x.png")
    messages = [{"role": "assistant", "content": f"<ref-object><bbox>{beside}"}]
    row = DOG_AND_WOMAN | {"messages": messages, "objects": {"ref": ["a dog"], "bbox": [[1, 2, 3, 4]]}}
    found = imported("swift", written("train.jsonl", rows(DOG_AND_WOMAN, row)))
    assert [(finding["row"], finding["field"]) for finding in found.findings] == [("line 2", "messages")]


def test_placeholders_within_json_are_filled_in(picture, written, imported):
    picture("x.png")
    messages = [{"role": "assistant", "content": '[{"label": "<ref-object>", "bbox_2d": <bbox>}]'}]
    row = DOG_AND_WOMAN | {"messages": messages, "objects": {"ref": ["a dog"], "bbox": [[1, 2, 3, 4]]}}
    found = imported("swift", written("train.jsonl", rows(row)))
    assert [region.box for region in found.samples["x.png"].annotation.regions] == [Box(1, 2, 3, 4)]
