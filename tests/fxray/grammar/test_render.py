"""What is written is what `parse` reads: the identity for every annotation that can be said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxray.errors import DataError
from fxray.grammar import parse, render
from fxray.grammar.markers import LINE_BREAK, SPECIAL_MARKER
from fxray.grammar.render import check_caption
from fxray.schema import Annotation, Box, Region, Tag, Verdict

fragments = st.sampled_from(
    ["<", ">", "|", "</", "<|", "|>", "<|object_ref_end|", "(1,2),(3,4)", ";", "think>", "\t", "й"]
)
captions = st.one_of(st.text(min_size=1), st.lists(st.one_of(fragments, st.text(max_size=3)), min_size=1).map("".join))
sayable_captions = captions.filter(
    lambda text: text.strip() and not LINE_BREAK.search(text) and not SPECIAL_MARKER.search(text)
)
lows, sizes = st.integers(0, 5000), st.integers(1, 5000)
boxes = st.builds(lambda x, y, width, height: Box(x, y, x + width, y + height), lows, lows, sizes, sizes)
tag_lists = st.lists(st.sampled_from(list(Tag)), unique=True).map(tuple)
regions = st.lists(st.builds(Region, boxes, sayable_captions), min_size=1, max_size=4).map(tuple)
annotations = st.one_of(
    st.builds(Annotation, st.just(Verdict.GENERATED), regions, tag_lists),
    st.builds(Annotation, st.just(Verdict.REAL), st.just(()), tag_lists),
)


def test_generated_answer_word_for_word():
    annotation = Annotation(
        Verdict.GENERATED,
        (Region(Box(112, 40, 180, 210), "Left hind leg twisted"), Region(Box(0.0, 0.0, 5.0, 6.0), "Sky with seams")),
        (Tag.TEXTURE, Tag.STRUCTURE),
    )
    assert render(annotation) == (
        "<think>\n"
        "<|object_ref_start|>Left hind leg twisted<|object_ref_end|><|box_start|>(112,40),(180,210)<|box_end|>\n"
        "<|object_ref_start|>Sky with seams<|object_ref_end|><|box_start|>(0,0),(5,6)<|box_end|>\n"
        "</think>\n"
        "<tag>texture errors; structure errors</tag>\n"
        "<verdict>generated</verdict>"
    )


def test_real_answer_word_for_word():
    assert render(Annotation(Verdict.REAL)) == (
        "<think>\nNo flaw is visible.\n</think>\n<tag>none</tag>\n<verdict>real</verdict>"
    )


@given(annotations, st.sampled_from(["", "<|im_end|>", "<|endoftext|>", "<|im_end|>\n"]), st.booleans())
def test_parse_undoes_render(annotation, end_token, lenient):
    answer = parse(render(annotation) + end_token, lenient=lenient)
    assert answer.is_strict, answer.faults
    assert Annotation(answer.verdict, answer.regions, answer.tags) == annotation


@given(annotations)
def test_clipping_to_a_frame_that_holds_all_boxes_changes_nothing(annotation):
    answer = parse(render(annotation))
    assert answer.clipped(10_000, 10_000) == answer


def generated(*regions: Region, tags: tuple[Tag, ...] = ()) -> Annotation:
    return Annotation(Verdict.GENERATED, regions, tags)


BOX = Box(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (generated(Region(BOX, "")), "is blank"),
        (generated(Region(BOX, " \t")), "is blank"),
        (generated(Region(BOX, "two\nlines")), "line break"),
        (generated(Region(BOX, "two\u2028lines")), "line break"),
        (generated(Region(BOX, "ends </think> early")), "</think>"),
        (generated(Region(BOX, "a <|box_start|> b")), "box_start"),
        (generated(Region(BOX, "a <|image_pad|> b")), "image_pad"),
        (generated(Region(Box(1.5, 2, 3, 4), "Leg")), "whole pixels"),
        (generated(Region(Box(-1, 2, 3, 4), "Leg")), "whole pixels"),
        (generated(Region(Box(3, 2, 1, 4), "Leg")), "whole pixels"),
        (generated(Region(Box(1, 2, 3, 2), "Leg")), "whole pixels"),
        (generated(Region(Box(1, 2, 1, 4), "Leg")), "whole pixels"),
        (generated(Region(Box(1, -1, 3, 4), "Leg")), "whole pixels"),
        (generated(Region(Box(1, 2, float("nan"), 4), "Leg")), "whole pixels"),
        (generated(Region(Box(1, 2, float("inf"), 4), "Leg")), "whole pixels"),
        (generated(Region(BOX, "Leg"), tags=(Tag.OTHER, Tag.OTHER)), "repeat"),
        (generated(), "'generated' with 0 regions"),
        (Annotation(Verdict.REAL, (Region(BOX, "Leg"),)), "'real' with 1 region\n"),
    ],
)
def test_what_cannot_be_said_is_refused(annotation, message):
    with pytest.raises(DataError) as caught:
        render(annotation)
    assert message in str(caught.value)
    assert caught.value.remedy


@given(captions)
def test_check_caption_refuses_exactly_what_would_not_survive(caption):
    region = f"<|object_ref_start|>{caption}<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
    text = f"<think>{region}</think><tag>none</tag><verdict>generated</verdict>"
    answer = parse(text)
    survives = answer.is_strict and answer.regions == (Region(BOX, caption),)
    try:
        check_caption(caption)
    except DataError:
        # Special tokens that mean nothing to the grammar are refused for the tokenizer's sake.
        assert not survives or SPECIAL_MARKER.search(caption)
    else:
        assert survives
