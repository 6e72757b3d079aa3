"""What the lenient reading takes from foreign models, and that it never makes an answer strict."""

import pytest

from fxray.grammar import FaultKind, parse
from fxray.schema import Box, Region, Tag, Verdict


def answer(think: str, tag: str = "none", verdict: str = "generated") -> str:
    return f"<think>{think}</think><tag>{tag}</tag><verdict>{verdict}</verdict>"


FOREIGN = answer(
    '```json\n[\n\t{"bbox_2d": [10, 20, 110.5, 220], "label": "leg of the \\"dog\\""},\n'
    '\t{"label": "sky", "bbox_2d": [0, 0, 50, 40]}\n]\n```'
)


def test_bbox_2d_json_with_labels():
    assert parse(FOREIGN).regions == ()
    lenient = parse(FOREIGN, lenient=True)
    assert lenient.regions == (
        Region(Box(10, 20, 110.5, 220), 'leg of the "dog"'),
        Region(Box(0, 0, 50, 40), "sky"),
    )
    assert [fault.kind for fault in lenient.faults] == [FaultKind.READ_LENIENTLY]


def test_lists_in_prose_without_any_think_block():
    text = "The flaws:\n- Leg twisted: [1, 2, 30, 40]\n- Sky with seams [5,6,7,8].\n<verdict>Fake</verdict>"
    lenient = parse(text, lenient=True)
    assert lenient.verdict is Verdict.GENERATED
    assert lenient.regions == (Region(Box(1, 2, 30, 40), "Leg twisted"), Region(Box(5, 6, 7, 8), "Sky with seams"))


def test_decimals_and_lists_between_the_markers():
    region = "<|object_ref_start|>{}<|object_ref_end|><|box_start|>{}<|box_end|>"
    think = "\n".join(
        region.format(caption, box)
        for caption, box in [("A", "(1,2),(3,4)"), ("B", "(1.5,2.25),(3,4)"), ("C", "[1,2,3,4]"), ("D", "(9,9),(1,1)")]
    )
    assert [region.caption for region in parse(answer(think)).regions] == ["A"]
    assert parse(answer(think), lenient=True).regions == (
        Region(Box(1, 2, 3, 4), "A"),
        Region(Box(1.5, 2.25, 3, 4), "B"),
        Region(Box(1, 2, 3, 4), "C"),
    )


@pytest.mark.parametrize(
    ("word", "verdict"),
    [
        ("Fake", Verdict.GENERATED),
        ("AI-generated", Verdict.GENERATED),
        ("synthetic.", Verdict.GENERATED),
        ("Authentic", Verdict.REAL),
        ("perhaps", None),
    ],
)
def test_near_words_of_the_verdict(word, verdict):
    text = answer("", verdict=word)
    assert parse(text).verdict is None
    assert parse(text, lenient=True).verdict is verdict


def test_near_names_of_tags():
    text = answer("", "Structure/attribute errors, artistic style, texture errors, blurry", "real")
    assert parse(text).tags == ()
    assert parse(text, lenient=True).tags == (Tag.STRUCTURE, Tag.ARTISTIC, Tag.TEXTURE)


def test_tag_block_nested_in_the_think_block():
    text = "<think>Fine. <tag>texture errors</tag></think><verdict>real</verdict>"
    assert parse(text).tags == ()
    assert parse(text, lenient=True).tags == (Tag.TEXTURE,)


@pytest.mark.parametrize(
    "text",
    [
        FOREIGN,
        answer("", verdict="fake"),
        answer("", "texture error", "real"),
        "<think>[1,2,3,4]</think><tag>none</tag><verdict>generated</verdict>",
    ],
)
def test_lenient_reading_is_never_strict(text):
    lenient = parse(text, lenient=True)
    assert not lenient.is_strict
    assert not lenient.clipped(1000, 1000).is_strict


def test_lenient_reading_of_a_strict_answer_is_the_strict_one():
    text = answer("<|object_ref_start|>Leg<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>", "texture errors")
    assert parse(text, lenient=True) == parse(text)
    assert parse(text).is_strict
