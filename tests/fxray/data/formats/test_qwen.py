"""Rows as Qwen2.5-VL's fine-tuning page and cookbooks show them."""

import json

import pytest

from fxray.schema import Box, Region, Tag, Verdict

HOUSE = [{"bbox_2d": [135, 14, 186.5, 90], "label": "house"}]


def chat(image, answer, **more):
    human = {
        "from": "human",
        "value": "<image>\nLocate house in this image and output the bbox coordinates in JSON format.",
    }
    return {"image": image, "conversations": [human, {"from": "gpt", "value": answer}]} | more


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_boxes_of_a_conversation_are_read(picture, written, imported):
    picture("demo/a.png")
    rows = [
        chat("demo/a.png", "{\n" + json.dumps(HOUSE)[1:-1][1:-1] + "\n}"),
        chat("demo/a.png", "No house is visible."),
    ]
    found = imported("qwen", written("train.json", rows))
    assert found.samples["demo/a.png"].annotation.regions == (Region(Box(135, 14, 186.5, 90), "house"),)
    assert found.samples["demo/a.png#2"].annotation.regions == ()


def test_a_fenced_answer_with_verdict_and_tags_is_read(picture, written, imported):
    picture("a.png")
    box = '{"bbox_2d": [1, 2, 30, 40], "label": "hand", "caption": "hand fused — 手"}'
    said = f"<think>Two flaws:\n```json\n[{box}]\n```</think>"
    row = {
        "image": ["a.png"],
        "messages": [{"role": "assistant", "content": f"{said}<tag>texture errors</tag><verdict>generated</verdict>"}],
    }
    annotation = imported("qwen", written("a.jsonl", lines(row)), label=None).samples["a.png"].annotation
    assert annotation.regions == (Region(Box(1, 2, 30, 40), "hand fused — 手"),)
    assert (annotation.verdict, annotation.tags) == (Verdict.GENERATED, (Tag.TEXTURE,))


def test_boxes_are_of_the_stored_raster_and_may_count_in_thousands(picture, written, imported):
    picture("a.jpg", orientation=3)  # upside down
    row = {"image": "a.jpg", "objects": [{"bbox_2d": [0, 0, 100, 500], "label": "sky"}], "label": "generated"}
    found = imported("qwen", written("a.jsonl", lines(row)), unit="permille")
    assert found.samples["a.jpg"].annotation.regions == (Region(Box(180, 50, 200, 100), "sky"),)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (chat(["a.png", "b.png"], "[]"), "image"),
        (chat("gone.png", "[]"), "image"),
        (chat("a.png", '[{"bbox_2d": [1, 2'), "conversations[1].value"),
        (chat("a.png", '[{"bbox_2d": [1, 2, 3], "label": "x"}]'), "conversations[1].value[0].bbox_2d"),
        (chat("a.png", '[{"bbox_2d": [1, 2, 3, 4]}]'), "conversations[1].value[0].bbox_2d"),
        ({"image": "a.png", "objects": [[1, 2, 3, 4]]}, "objects[0]"),
    ],
)
def test_what_cannot_be_read_is_named(picture, written, imported, bad, field):
    picture("a.png")
    found = imported("qwen", written("a.jsonl", lines(chat("a.png", json.dumps(HOUSE)), bad)))
    assert [(finding["row"], finding["field"]) for finding in found.findings] == [("line 2", field)]
    assert list(found.samples) == ["a.png"]
