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


@pytest.mark.parametrize("key", ["conversations", "messages"])
@pytest.mark.parametrize(("role", "text"), [("role", "content"), ("from", "value"), ("from", "content")])
@pytest.mark.parametrize("model", ["gpt", "assistant", "model"])
def test_a_conversation_of_any_layout_keeps_its_boxes(picture, written, imported, key, role, text, model):
    picture("a.png")
    turns = [{role: "user", text: "<image>\nWhere?"}, {role: model, text: json.dumps(HOUSE)}]
    found = imported("qwen", written("a.jsonl", lines({"image": "a.png", key: turns})))
    assert found.samples["a.png"].annotation.regions == (Region(Box(135, 14, 186.5, 90), "house"),)


def test_an_answer_of_somebody_unknown_is_refused(picture, written, imported):
    picture("a.png")
    row = {"image": "a.png", "conversations": [{"from": "oracle", "value": json.dumps(HOUSE)}]}
    asked = {"image": "a.png", "conversations": [{"from": "human", "value": "Where?"}], "objects": HOUSE}
    found = imported("qwen", written("a.jsonl", lines(row, asked)))
    assert [sample.annotation.regions for sample in found.samples.values()] == [
        (Region(Box(135, 14, 186.5, 90), "house"),)
    ]
    assert [finding["field"] for finding in found.findings] == ["conversations"]


def test_an_empty_field_hides_no_other(picture, written, imported):
    picture("a.png")
    row = {"image": None, "images": ["a.png"], "verdict": None, "label": "real", "objects": []}
    found = imported("qwen", written("a.jsonl", lines(row)), label=Verdict.GENERATED)
    assert found.samples["a.png"].annotation.verdict is Verdict.REAL


def test_an_earlier_answer_without_boxes_is_passed_over(picture, written, imported):
    picture("a.png")
    answers = [{"from": "gpt", "value": text} for text in ("Shall I look for flaws?", json.dumps(HOUSE))]
    found = imported("qwen", written("a.jsonl", lines({"image": "a.png", "conversations": answers, "source": "s1"})))
    sample = found.samples["a.png"]
    assert (sample.annotation.regions, sample.source) == ((Region(Box(135, 14, 186.5, 90), "house"),), "s1")


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
        (chat("a.png", '[{"bbox_2d": [1, 2, 3, 4], "label": "x"}] {"verdict": "fake"}'), "conversations[1].value[1]"),
        ({"image": "a.png", "objects": [{"bbox": [1, 2, 3, 4], "label": "x"}]}, "objects[0]"),
        ({"image": "a.png", "objects": [[1, 2, 3, 4]]}, "objects[0]"),
    ],
)
def test_what_cannot_be_read_is_named(picture, written, imported, bad, field):
    picture("a.png")
    found = imported("qwen", written("a.jsonl", lines(chat("a.png", json.dumps(HOUSE)), bad)))
    assert [(finding["row"], finding["field"]) for finding in found.findings] == [("line 2", field)]
    assert list(found.samples) == ["a.png"]


HAND, SKY = '{"bbox_2d": [1, 2, 30, 40], "label": "hand"}', '{"bbox_2d": [50, 2, 90, 40], "label": "sky"}'
TWO = (Region(Box(1, 2, 30, 40), "hand"), Region(Box(50, 2, 90, 40), "sky"))
TOKENS = "<|object_ref_start|>{}<|object_ref_end|><|box_start|>({},{}),({},{})<|box_end|>"
HAND_TOKENS, SKY_TOKENS = (TOKENS.format(region.caption, *map(int, region.box)) for region in TWO)


@pytest.mark.parametrize(
    "answer",
    [
        f"{HAND}\n{SKY}",
        f"Two flaws: {HAND}, and {SKY} (the rest [I think] is fine).",
        f"[{HAND}] [{SKY}]",
        f"Flaws [two]:\n```\n[{HAND}, {SKY}]\n```",
        f"First:\n```json\n[{HAND}]\n```\nand\n```json\n{SKY}\n```",
        f"<think>{HAND_TOKENS} and {SKY_TOKENS}</think><tag>none</tag><verdict>generated</verdict>",
        f"{HAND_TOKENS}{SKY_TOKENS}",
    ],
)
def test_every_box_of_an_answer_is_read_in_whatever_layout(picture, written, imported, answer):
    picture("a.png")
    found = imported("qwen", written("a.jsonl", lines(chat("a.png", answer))))
    assert (found.samples["a.png"].annotation.regions, found.findings) == (TWO, [])


@pytest.mark.parametrize("said", ["Two flaws.", f"[{HAND}, {SKY}]", f"{HAND_TOKENS}{SKY_TOKENS}"])
def test_boxes_beside_a_conversation_join_those_in_it(picture, written, imported, said):
    picture("a.png")
    row = chat("a.png", said, objects=[json.loads(HAND), json.loads(SKY)])
    assert imported("qwen", written("a.jsonl", lines(row))).samples["a.png"].annotation.regions == TWO


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (chat("a.png", f"```json\n{HAND}\n```\n{SKY}"), "conversations[1].value", "2 boxes by the marks, of which 1"),
        (chat("a.png", HAND[:-1] + f', "parts": [{SKY}]}}'), "conversations[1].value", "2 boxes by the marks"),
        (chat("a.png", f"{HAND} {SKY[:-1]}"), "conversations[1].value", "no JSON of boxes"),
        (chat("a.png", "<ref>hand</ref><box>(1,2),(30,40)</box>"), "conversations[1].value", "1 box by the marks"),
        (chat("a.png", HAND_TOKENS.replace("30", "x")), "conversations[1].value", "1 box by the marks, of which 0"),
        (chat("a.png", HAND_TOKENS + SKY), "conversations[1].value", "1 box by the marks, of which 2"),
        (chat("a.png", HAND, objects=[json.loads(SKY)]), "objects", "other boxes than the 1 in the answer"),
        (
            {"image": "a.png", "conversations": [{"from": "gpt", "value": said} for said in (HAND, SKY)]},
            "conversations[0].value",
            "not the last",
        ),
    ],
)
def test_a_box_that_is_not_read_refuses_its_row(picture, written, imported, row, field, reason):
    picture("a.png")
    found = imported("qwen", written("a.jsonl", lines(chat("a.png", "[]"), row)))
    assert [(finding["row"], finding["field"]) for finding in found.findings] == [("line 2", field)]
    assert reason in found.findings[0]["reason"]
