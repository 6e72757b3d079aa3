"""Views: each says its own parts, reads back what it says, and takes the other parts as faults."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxray.errors import DataError
from fxray.grammar import FaultKind, parse, render
from fxray.grammar.prompts import EVALUATION_TEMPLATE, TEMPLATES, templates_of
from fxray.grammar.views import VIEWS, in_order
from fxray.schema import Annotation, Box, Region, Tag, Verdict

HEAD = "<|object_ref_start|>Leg twisted<|object_ref_end|>"
BOX = "<|box_start|>(1,2),(30,40)<|box_end|>"
SECOND = "<|box_start|>(5,6),(7,8)<|box_end|>"
FLAWED = Annotation(
    Verdict.GENERATED,
    (Region(Box(1, 2, 30, 40), "Leg twisted"), Region(Box(5, 6, 7, 8), "Sky with seams")),
    (Tag.TEXTURE, Tag.OTHER),
)
ANSWERS = {
    "full": f"<think>\n{HEAD}{BOX}\n<|object_ref_start|>Sky with seams<|object_ref_end|>{SECOND}\n</think>\n"
    "<tag>texture errors; other anomalies</tag>\n<verdict>generated</verdict>",
    "no-bbox": "<tag>texture errors; other anomalies</tag>\n<verdict>generated</verdict>",
    "no-caption": f"<think>\n{BOX}\n{SECOND}\n</think>\n"
    "<tag>texture errors; other anomalies</tag>\n<verdict>generated</verdict>",
    "no-tags": f"<think>\n{HEAD}{BOX}\n<|object_ref_start|>Sky with seams<|object_ref_end|>{SECOND}\n</think>\n"
    "<verdict>generated</verdict>",
    "label-only": "<verdict>generated</verdict>",
}
REAL_ANSWERS = {
    "full": "<think>\nNo flaw is visible.\n</think>\n<tag>none</tag>\n<verdict>real</verdict>",
    "no-bbox": "<tag>none</tag>\n<verdict>real</verdict>",
    "no-caption": "<think>\nNo flaw is visible.\n</think>\n<tag>none</tag>\n<verdict>real</verdict>",
    "no-tags": "<think>\nNo flaw is visible.\n</think>\n<verdict>real</verdict>",
    "label-only": "<verdict>real</verdict>",
}

captions = st.text("abc é<|;", min_size=1).filter(str.strip)
lows, sizes = st.integers(0, 900), st.integers(1, 900)
boxes = st.builds(lambda x, y, width, height: Box(x, y, x + width, y + height), lows, lows, sizes, sizes)
annotations = st.one_of(
    st.builds(
        Annotation,
        st.just(Verdict.GENERATED),
        st.lists(st.builds(Region, boxes, captions), min_size=1, max_size=4).map(tuple),
        st.lists(st.sampled_from(list(Tag)), unique=True).map(tuple),
    ),
    st.just(Annotation(Verdict.REAL)),
)


def seen_through(annotation, name):
    view = VIEWS[name]
    regions = annotation.regions if view.has_regions else ()
    if not view.has_captions:
        regions = tuple(replace(region, caption="") for region in regions)
    return Annotation(annotation.verdict, regions, annotation.tags if view.has_tags else ())


@pytest.mark.parametrize("view", VIEWS)
def test_answers_word_for_word(view):
    assert render(FLAWED, view) == ANSWERS[view]
    assert render(Annotation(Verdict.REAL), view) == REAL_ANSWERS[view]


def test_without_a_view_the_answer_is_the_full_one():
    assert render(FLAWED) == ANSWERS["full"]
    assert parse(ANSWERS["full"]) == parse(ANSWERS["full"], view="full")


@pytest.mark.parametrize("view", VIEWS)
@given(annotation=annotations)
def test_parse_undoes_render_in_every_view(view, annotation):
    answer = parse(render(annotation, view) + "<|im_end|>", view=view).clipped(2000, 2000)
    assert answer.is_strict, answer.faults
    assert Annotation(answer.verdict, answer.regions, answer.tags) == seen_through(annotation, view)


@pytest.mark.parametrize(("said", "read"), permutations(VIEWS, 2))
def test_an_answer_of_another_view_is_never_well_formed(said, read):
    answer = parse(ANSWERS[said], view=read)
    assert not answer.is_strict
    assert answer.verdict is Verdict.GENERATED


@pytest.mark.parametrize(
    ("text", "view", "kinds", "num_regions"),
    [
        (ANSWERS["full"], "no-bbox", [FaultKind.UNEXPECTED_BLOCK], 0),
        (ANSWERS["full"], "no-caption", [FaultKind.UNEXPECTED_CAPTION], 2),
        (ANSWERS["full"], "no-tags", [FaultKind.UNEXPECTED_BLOCK], 2),
        (ANSWERS["full"], "label-only", [FaultKind.UNEXPECTED_BLOCK] * 2, 0),
        (ANSWERS["no-caption"], "full", [FaultKind.GENERATED_WITHOUT_REGION, FaultKind.BOX_WITHOUT_CAPTION], 0),
        (ANSWERS["no-bbox"], "full", [FaultKind.GENERATED_WITHOUT_REGION, FaultKind.MISSING_BLOCK], 0),
        (ANSWERS["label-only"], "no-bbox", [FaultKind.MISSING_BLOCK], 0),
        (f"{BOX}<verdict>real</verdict>", "label-only", [FaultKind.TEXT_OUTSIDE], 0),
        (f"<think>{BOX}</think><tag>none</tag><verdict>real</verdict>", "no-caption", [FaultKind.REAL_WITH_REGION], 1),
        ("<think></think><verdict>generated</verdict>", "no-tags", [FaultKind.GENERATED_WITHOUT_REGION], 0),
        ("<think><|box_start|>(9,9),(2,2)<|box_end|></think><tag>none</tag><verdict>real</verdict>", "no-caption",
         [FaultKind.DEGENERATE_BOX], 0),
        ("<think><|box_start|>(1,1)<|box_end|></think><tag>none</tag><verdict>real</verdict>", "no-caption",
         [FaultKind.MALFORMED_BOX], 0),
        ("<think><|box_start|>(1,1)</think><tag>none</tag><verdict>real</verdict>", "no-caption",
         [FaultKind.UNPAIRED_MARKER], 0),
        # A caption is refused wherever it stands, and no marker without its counterpart passes for a pair.
        (f"<think>{BOX}{HEAD}{SECOND}</think><tag>none</tag><verdict>generated</verdict>", "no-caption",
         [FaultKind.UNEXPECTED_CAPTION], 2),
        (f"<think><|object_ref_start|>{BOX}</think><tag>none</tag><verdict>generated</verdict>", "no-caption",
         [FaultKind.UNPAIRED_MARKER], 1),
        ("<think><|box_start|>Leg<|object_ref_end|></think><tag>none</tag><verdict>real</verdict>", "no-caption",
         [FaultKind.UNPAIRED_MARKER] * 2, 0),
        ("<think><|box_end|>(1,2),(3,4)<|box_end|></think><tag>none</tag><verdict>real</verdict>", "no-caption",
         [FaultKind.UNPAIRED_MARKER], 0),
        ("<tag>none</tag><verdict>fake</verdict>", "no-bbox", [FaultKind.UNKNOWN_VERDICT], 0),
        ("", "label-only", [FaultKind.MISSING_BLOCK], 0),
    ],
)  # fmt: skip
def test_faults_by_hand(text, view, kinds, num_regions):
    answer = parse(text, view=view)
    assert [fault.kind for fault in answer.faults] == kinds
    assert len(answer.regions) == num_regions


def test_a_view_without_regions_has_no_contradiction_to_find_after_clipping():
    answer = parse(ANSWERS["no-bbox"], view="no-bbox").clipped(10, 10)
    assert answer.is_strict
    outside = parse(ANSWERS["no-caption"].replace("(1,2),(30,40)", "(90,90),(99,99)"), view="no-caption")
    assert [region.box for region in outside.clipped(10, 10).regions] == [Box(5, 6, 7, 8)]


@pytest.mark.parametrize("view", VIEWS)
@given(text=st.lists(st.sampled_from([*"<>/|(), 9a\n", HEAD, BOX, "<think>", "</think>", "<tag>", "</verdict>"])))
def test_any_text_is_read_in_every_view(view, text):
    for lenient in (False, True):
        answer = parse("".join(text), view=view, lenient=lenient)
        assert VIEWS[view].has_regions or not answer.regions
        assert VIEWS[view].has_tags or not answer.tags


@pytest.mark.parametrize(("view", "wanted"), [("full", True), ("no-tags", True), ("no-bbox", False)])
def test_what_a_view_leaves_out_need_not_be_sayable(view, wanted):
    unsayable = Annotation(Verdict.GENERATED, (Region(Box(0.5, 0, 3, 3), ""),))
    twice = replace(FLAWED, tags=(Tag.OTHER, Tag.OTHER))
    assert render(twice, "no-tags") == ANSWERS["no-tags"]
    if wanted:
        with pytest.raises(DataError, match="whole pixels"):
            render(unsayable, view)
    else:
        assert render(unsayable, view) == "<tag>none</tag>\n<verdict>generated</verdict>"
    assert render(replace(unsayable, regions=(Region(Box(0, 0, 3, 3), ""),)), "no-caption").count("box_start") == 1


@pytest.mark.parametrize("view", VIEWS)
def test_nine_templates_ask_for_the_parts_of_the_view_and_no_others(view):
    asked = {"think": VIEWS[view].has_regions, "box": VIEWS[view].has_regions, "tag": VIEWS[view].has_tags}
    templates = templates_of(view)
    assert [template.index for template in templates] == list(range(9))
    assert len({(template.system, template.query) for template in templates}) == 9
    for template in templates:
        words = f"{template.system} {template.query}".lower()
        assert "real" in words or "verdict" in words
        assert {part: part in words for part in asked} == asked
        assert "flaw" not in words or VIEWS[view].has_regions
    assert templates_of("full") == TEMPLATES
    assert templates_of(view)[EVALUATION_TEMPLATE.index].query == EVALUATION_TEMPLATE.query


def test_the_lenient_reading_finds_no_part_that_the_view_leaves_out():
    foreign = '<think>[{"bbox_2d": [1, 2, 14, 28], "label": "Hand"}] <tag>texture error</tag></think>'
    text = f"{foreign}<verdict>fake</verdict>"
    full, plain = parse(text, lenient=True), parse(text, lenient=True, view="label-only")
    assert (len(full.regions), full.tags) == (1, (Tag.TEXTURE,))
    assert (plain.regions, plain.tags, plain.verdict) == ((), (), Verdict.GENERATED)
    assert not plain.is_strict


def test_regions_by_position_go_down_and_then_to_the_right():
    low, left, right = (Region(Box(*box), name) for box, name in [
        ((0, 50, 9, 60), "low"), ((1, 10, 9, 90), "left"), ((30, 10, 40, 20), "right")])  # fmt: skip
    assert in_order([low, right, left], "annotation") == (low, right, left)
    assert in_order([low, right, left], "position") == (left, right, low)
    twins = [Region(left.box, name) for name in "ba"]
    assert in_order(twins, "position") == tuple(twins)
