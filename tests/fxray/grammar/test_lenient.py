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
        (" fake\n", Verdict.GENERATED),
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


def lenient_captions(think: str) -> list[str]:
    return [region.caption for region in parse(answer(think), lenient=True).regions]


@pytest.mark.parametrize(
    ("think", "captions"),
    [
        # Each box has its own caption and none of its neighbours'.
        ('{"bbox_2d": [1, 2, 3, 4], "label": "sky"}, {"bbox_2d": [5, 6, 7, 8], "label": "leg"}', ["sky", "leg"]),
        ('{"label": "fake", "flaws": [{"bbox_2d": [1, 2, 3, 4], "label": "sky"}]}', ["sky"]),
        ('[1, 2, 3, 4] [5, 6, 7, 8], "label": "sky"}', ["", "sky"]),
        ('[1, 2, 3, 4], {"box": [5, 6, 7, 8], "label": "leg"}, [9, 9, 10, 10]', ["", "leg", ""]),
        ('[1, 2, 3, 4], {"label": "leg", "box": [5, 6, 7, 8]}, [9, 9, 10, 10]', ["", "leg", ""]),
        ("Leg twisted[1, 2, 3, 4] [5, 6, 7, 8]", ["Leg twisted", ""]),
        ("Odd: <|object_ref_start|>Leg<|object_ref_end|> [1, 2, 3, 4][5, 6, 7, 8]", ["Leg", ""]),
        ("<|object_ref_start|>Sky<|object_ref_end|> <|object_ref_start|>Leg<|object_ref_end|> [1, 2, 3, 4]", ["Leg"]),
        ("<|object_ref_start|>Leg<|object_ref_end|> odd<|object_ref_end|> [1, 2, 3, 4]", ["Leg"]),
        # An escape that JSON does not know stands as it is written.
        (r'{"bbox_2d": [1, 2, 3, 4], "label": "leg \q \"left\""}', [r"leg \q \"left\""]),
        # The syntax around a box is no caption.
        ('[{"bbox_2d": [1, 2, 3, 4]}, {"note": "a", "bbox_2d": [5, 6, 7, 8]}]', ["", ""]),
        ('[{"bbox_2d": [1, 2, 3, 4]}, {"label": "sky"}]', [""]),
        ('Two flaws:\n[\n  {"bbox_2d": [1, 2, 3, 4], "text": "sky"}\n]', [""]),
        ("[[1, 2, 3, 4], [5, 6, 7, 8]]", ["", ""]),
    ],
)
def test_a_caption_is_what_is_said_of_its_own_box(think, captions):
    assert lenient_captions(think) == captions


@pytest.mark.parametrize("box", ["[9,2,1,4]", "[1,4,9,2]", "[1,2,1,4]", "[1,2,9,2]"])
def test_four_numbers_without_an_area_are_no_box(box):
    assert parse(answer(f"Leg: {box}"), lenient=True).regions == ()


def test_boxes_are_read_in_the_think_block_and_in_the_whole_text_only_where_there_is_none():
    assert parse(f"Sky [1,2,3,4] {answer('Leg: [5,6,7,8]')} Arm [9,9,10,10]", lenient=True).regions == (
        Region(Box(5, 6, 7, 8), "Leg"),
    )
    assert parse("[1,2,3,4]", lenient=True).regions == (Region(Box(1, 2, 3, 4), ""),)


STRICT_REGION = "<|object_ref_start|>Leg<|object_ref_end|><|box_start|>(1,2),(9999999999,4)<|box_end|>"


@pytest.mark.parametrize("more", ["", "Sky: [1,2,3,4]"])
def test_as_many_regions_as_the_strict_reading_found_are_no_better(more):
    text = f"{answer(STRICT_REGION + more, 'blurry')}"
    assert parse(text, lenient=True) == parse(text)
    assert parse(text).regions == (Region(Box(1, 2, 10**9, 4), "Leg"),)


def test_of_as_many_tags_those_of_the_strict_reading_count():
    text = answer(STRICT_REGION, "texture error; other anomalies; texture errors")
    assert parse(text, lenient=True).tags == parse(text).tags == (Tag.OTHER, Tag.TEXTURE)


@pytest.mark.parametrize("view", ["label-only", "no-bbox"])
def test_a_lenient_reading_is_judged_in_its_view(view):
    lenient = parse("<verdict>fake</verdict>", lenient=True, view=view)
    assert lenient.view == view
    assert FaultKind.GENERATED_WITHOUT_REGION not in {fault.kind for fault in lenient.faults}


@pytest.mark.parametrize(
    ("think", "tags"),
    [
        ("Odd, texture errors, and more.", ()),  # prose is no tag block
        ("<tag>texture errors", ()),
        ("</tag><tag>texture errors</tag> odd </tag>", (Tag.TEXTURE,)),
        ("<tag>texture errors</tag><tag>other anomalies</tag>", (Tag.TEXTURE,)),
    ],
)
def test_nested_tags_are_those_of_the_first_closed_block(think, tags):
    assert parse(f"<think>{think}</think><verdict>real</verdict>", lenient=True).tags == tags
