"""Each settled reading of the grammar: one small answer, the faults it has, and the parts that are still found."""

import pytest

from fxray.grammar import Fault, FaultKind, parse
from fxray.schema import Box, Region, Tag, Verdict

LEG = "<|object_ref_start|>Leg twisted<|object_ref_end|>"
BOX = "<|box_start|>(1,2),(30,40)<|box_end|>"
REGION = Region(Box(1, 2, 30, 40), "Leg twisted")
GOOD = f"<think>\n{LEG}{BOX}\n</think>\n<tag>texture errors</tag>\n<verdict>generated</verdict>"


def kinds(text: str) -> list[str]:
    return [fault.kind.value for fault in parse(text).faults]


def generated(think: str, tag: str = "none") -> str:
    return f"<think>{think}</think><tag>{tag}</tag><verdict>generated</verdict>"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  \n{GOOD}\n\t",
        GOOD.replace("\n", ""),
        GOOD.replace("\n", " \u3000\r\n"),
        f"{GOOD}<|im_end|>",
        f"{GOOD}<|im_end|>\n",
        f"{GOOD}\n<|endoftext|>",
        GOOD.replace(LEG, f"The hind part looks odd. {LEG}"),
        GOOD.replace(BOX, f"\n {BOX} as one can see"),
        GOOD.replace(">generated<", "> \nGENERATED\n <"),
        GOOD.replace("texture errors", " Texture ERRORS\n"),
        GOOD.replace("(1,2),(30,40)", " ( 1 ,\n2 ) , ( 30 , 040 ) "),
    ],
)
def test_strict_answers(text):
    answer = parse(text)
    assert answer.is_strict, answer.faults
    assert (answer.verdict, answer.regions, answer.tags) == (Verdict.GENERATED, (REGION,), (Tag.TEXTURE,))


@pytest.mark.parametrize("sentence", ["", "\n", "No flaw is visible.", "Two (1,2),(3,4) lines\nof <b>prose</b>."])
def test_real_answer_needs_no_sentence(sentence):
    answer = parse(f"<think>{sentence}</think><tag>none</tag><verdict>real</verdict>")
    assert answer.is_strict, answer.faults
    assert answer.verdict is Verdict.REAL
    assert answer.regions == answer.tags == ()


# Every fault leaves the parts of GOOD readable, save those named.
WHOLE = (Verdict.GENERATED, (REGION,), (Tag.TEXTURE,))
THINK = f"<think>{LEG}{BOX}</think>"
TAG = "<tag>texture errors</tag>"
VERDICT = "<verdict>generated</verdict>"


@pytest.mark.parametrize(
    ("text", "faults", "parts"),
    [
        (TAG + VERDICT, ["generated-without-region", "missing-block"], (Verdict.GENERATED, (), (Tag.TEXTURE,))),
        (THINK + VERDICT, ["missing-block"], (Verdict.GENERATED, (REGION,), ())),
        (THINK + TAG, ["missing-block"], (None, (REGION,), (Tag.TEXTURE,))),
        ("", ["missing-block"] * 3, (None, (), ())),
        (TAG + THINK + VERDICT, ["misordered-block"], WHOLE),
        (VERDICT + THINK + TAG, ["misordered-block"], WHOLE),
        ("Sure! " + GOOD, ["text-outside"], WHOLE),
        (THINK + "so" + TAG + VERDICT, ["text-outside"], WHOLE),
        (GOOD + "Done.", ["text-outside"], WHOLE),
        (GOOD + ".", ["text-outside"], WHOLE),
        (GOOD + "</think>", ["text-outside"], WHOLE),
        (GOOD + "<|im_end|><|im_end|>", ["text-outside"], WHOLE),
        (GOOD + "<|vision_end|>", ["text-outside"], WHOLE),
        # Unclosed blocks reach to the next opening marker.
        (f"<think>{LEG}{BOX}{TAG}{VERDICT}", ["unclosed-block"], WHOLE),
        (f"{THINK}<tag>texture errors{VERDICT}", ["unclosed-block"], WHOLE),
        (f"{THINK}{TAG}<verdict>generated", ["unclosed-block"], (None, (REGION,), (Tag.TEXTURE,))),
        (f"<think>{LEG}{BOX}", ["unclosed-block", "missing-block", "missing-block"], (None, (REGION,), ())),
        (
            f"<think><tag>texture errors{VERDICT}",
            ["unclosed-block"] * 2 + ["generated-without-region"],
            (Verdict.GENERATED, (), (Tag.TEXTURE,)),
        ),
        # Of repeated blocks, the first think and tag and the last verdict count.
        (f"{THINK}<think>{LEG}{BOX}</think>{TAG}{VERDICT}", ["repeated-block"], WHOLE),
        (f"{THINK}{TAG}<tag>other anomalies</tag>{VERDICT}", ["repeated-block"], WHOLE),
        (f"{THINK}{TAG}<verdict>real</verdict>{VERDICT}", ["repeated-block"], WHOLE),
        (f"{THINK}{TAG}{VERDICT}<verdict>real", ["repeated-block"], WHOLE),
        (f"{THINK}{TAG}<verdict>generated{VERDICT}", ["nested-block", "unknown-verdict"], (None, *WHOLE[1:])),
        # What is nested in another block counts for nothing.
        (f"<think>{LEG}{BOX}{TAG}</think>{VERDICT}", ["nested-block", "missing-block"], (*WHOLE[:2], ())),
        (f"<think>{LEG}{BOX}{VERDICT}</think>{TAG}", ["nested-block", "missing-block"], (None, *WHOLE[1:])),
        (f"<think><think>{LEG}{BOX}</think>{TAG}{VERDICT}", ["nested-block"], WHOLE),
        (f"<think>{LEG}{BOX}</think></think>{TAG}{VERDICT}", ["text-outside"], WHOLE),
        (f"<think>{LEG}{BOX}</verdict></think>{TAG}{VERDICT}", ["nested-block"], WHOLE),
        # Marker names are exact.
        (GOOD.replace("verdict>", "Verdict>"), ["text-outside", "missing-block"], (None, *WHOLE[1:])),
        (GOOD.replace("<tag>", "<tag >"), ["text-outside", "missing-block"], (*WHOLE[:2], ())),
    ],
)
def test_broken_blocks(text, faults, parts):
    answer = parse(text)
    assert sorted(kinds(text)) == sorted(faults)
    assert (answer.verdict, answer.regions, answer.tags) == parts


@pytest.mark.parametrize(
    ("think", "faults", "num_regions"),
    [
        (LEG, ["caption-without-box", "generated-without-region"], 0),
        (BOX, ["box-without-caption", "generated-without-region"], 0),
        (f"{LEG}{BOX}{LEG}", ["caption-without-box"], 1),
        (f"{LEG}{BOX}{BOX}", ["box-without-caption"], 1),
        (f"{LEG}, at {BOX}", ["caption-without-box", "box-without-caption", "generated-without-region"], 0),
        (f"{LEG}{LEG}{BOX}", ["caption-without-box"], 1),
        (f"{BOX}{LEG}{BOX}", ["box-without-caption"], 1),
        (f"<|object_ref_start|><|object_ref_end|>{BOX}", ["empty-caption"], 1),
        (f"<|object_ref_start|> \t<|object_ref_end|>{BOX}", ["empty-caption"], 1),
        (f"<|object_ref_start|>Leg\ntwisted<|object_ref_end|>{BOX}", ["broken-caption"], 1),
        (f"<|object_ref_start|>Leg <tag> x<|object_ref_end|>{BOX}", ["nested-block", "broken-caption"], 1),
        (f"<|object_ref_start|>{LEG}{BOX}", ["unpaired-marker"], 1),
        (f"{LEG}{BOX}<|object_ref_end|>", ["unpaired-marker"], 1),
        (f"{LEG}{BOX}<|box_end|><|box_end|>", ["unpaired-marker"], 1),
        (f"{LEG}<|box_start|>{BOX}", ["caption-without-box", "unpaired-marker", "box-without-caption"], 0),
        (f"{LEG}<|box_start|>(1,2),(3,4)", ["caption-without-box", "unpaired-marker"], 0),
        (f"{LEG}<|box_start|>(1,2),(3,4)<|object_ref_end|>", ["caption-without-box", "unpaired-marker"], 0),
        (f"{LEG}<|box_end|>(1,2),(3,4)<|box_end|>", ["caption-without-box", "unpaired-marker"], 0),
    ],
)
def test_regions(think, faults, num_regions):
    text = generated(think)
    if num_regions == 0 and "generated-without-region" not in faults:
        faults = [*faults, "generated-without-region"]
    assert sorted(set(kinds(text))) == sorted(faults)
    assert len(parse(text).regions) == num_regions


@pytest.mark.parametrize(
    "corners",
    [
        "", "1,2,30,40", "[1,2,30,40]", "(1,2)(30,40)", "(1,2),(30,40),", "(1,2),(30,40),(5,6)", "(1,2),(30)",
        "(1.0,2),(30,40)", "(1e0,2),(30,40)", "(+1,2),(30,40)", "(- 1,2),(30,40)", "(--1,2),(30,40)", "(1 0,2),(30,40)",
        "(nan,2),(30,40)", "(1,2),(inf,40)", "(0x1,2),(30,40)", "(1_0,2),(30,40)", "(١,2),(30,40)", "(１,2),(30,40)",
        "（1,2）,（30,40）", "(1，2),(30,40)", "(1,2),(30,40)(", "box (1,2),(30,40)", "(1,2);(30,40)", "(²,2),(30,40)",
    ],
)  # fmt: skip
def test_malformed_coordinates(corners):
    text = generated(f"{LEG}<|box_start|>{corners}<|box_end|>")
    assert kinds(text) == ["generated-without-region", "malformed-box"]
    assert parse(text).regions == ()


@pytest.mark.parametrize("corners", ["(30,2),(1,40)", "(1,40),(30,2)", "(30,40),(1,2)", "(1,2),(1,40)", "(1,2),(30,2)"])
def test_swapped_and_empty_boxes_are_dropped(corners):
    text = generated(f"{LEG}<|box_start|>{corners}<|box_end|>")
    assert kinds(text) == ["generated-without-region", "degenerate-box"]
    assert parse(text).regions == ()


@pytest.mark.parametrize(
    ("corners", "clipped"),
    [
        ("(-5,-6),(30,40)", Box(0, 0, 30, 40)),
        ("(1,2),(300,400)", Box(1, 2, 100, 80)),
        (f"(1,2),({'9' * 5000},{'9' * 5000})", Box(1, 2, 100, 80)),
        (f"(-{'9' * 5000},2),(30,{'0' * 5000}40)", Box(0, 2, 30, 40)),
        ("(-0,00),(0000000000030,40)", Box(0, 0, 30, 40)),
        ("(0000000000,-0000000000),(30,40)", Box(0, 0, 30, 40)),
    ],
)
def test_boxes_outside_the_image_are_clipped_without_fault(corners, clipped):
    answer = parse(generated(f"{LEG}<|box_start|>{corners}<|box_end|>")).clipped(100, 80)
    assert answer.is_strict
    assert answer.regions == (Region(clipped, "Leg twisted"),)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("999999999", 999_999_999),
        ("0999999999", 999_999_999),
        ("1000000001", 10**9),
        ("-1000000001", -(10**9)),
        ("-0000000000005", -5),
    ],
)
def test_a_coordinate_is_read_to_the_last_digit_up_to_the_limit(written, read):
    corners = f"(-9999999999,2),({written},4)" if read > 0 else f"({written},2),(3,4)"
    (region,) = parse(generated(f"{LEG}<|box_start|>{corners}<|box_end|>")).regions
    assert region.box == (Box(-(10**9), 2, read, 4) if read > 0 else Box(read, 2, 3, 4))


def test_emptiness_is_judged_after_clipping():
    outside = f"{LEG}<|box_start|>(100,2),(130,40)<|box_end|>"
    answer = parse(generated(outside))
    assert answer.is_strict  # not clipped yet
    assert answer.clipped(100, 80).faults == (Fault(FaultKind.GENERATED_WITHOUT_REGION, 0),)
    assert parse(generated(outside + LEG + BOX)).clipped(100, 80).is_strict

    real = parse(f"<think>{outside}</think><tag>none</tag><verdict>real</verdict>")
    assert [fault.kind for fault in real.faults] == [FaultKind.REAL_WITH_REGION]
    assert real.clipped(100, 80).is_strict
    assert not real.clipped(101, 80).is_strict


@pytest.mark.parametrize(
    ("written", "tags", "faults"),
    [
        ("none", (), []),
        (" NONE ", (), []),
        ("other anomalies; texture errors", (Tag.OTHER, Tag.TEXTURE), []),
        ("texture errors;TEXTURE errors", (Tag.TEXTURE,), []),
        ("; ".join(Tag), tuple(Tag), []),
        ("", (), ["empty-tag"]),
        (" \n", (), ["empty-tag"]),
        ("texture errors;", (Tag.TEXTURE,), ["empty-tag"]),
        (";;texture errors", (Tag.TEXTURE,), ["empty-tag"]),
        ("none; texture errors", (Tag.TEXTURE,), ["none-beside-tags"]),
        ("none;", (), ["empty-tag", "none-beside-tags"]),
        ("blurry; texture errors", (Tag.TEXTURE,), ["unknown-tag"]),
        ("texture errors, other anomalies", (), ["unknown-tag"]),
        ("texture error", (), ["unknown-tag"]),
        ("artistic style; other anomalies", (Tag.OTHER,), ["unknown-tag"]),
        ("texture  errors", (), ["unknown-tag"]),
    ],
)
def test_tags(written, tags, faults):
    text = generated(LEG + BOX, written)
    assert parse(text).tags == tags
    assert sorted(kinds(text)) == faults


@pytest.mark.parametrize("word", ["", "fake", "authentic", "generated.", "real generated", "g e n", "reаl", "None"])
def test_unknown_verdicts(word):
    text = f"{THINK}{TAG}<verdict>{word}</verdict>"
    assert parse(text).verdict is None
    assert kinds(text) == ["unknown-verdict"]


def test_the_last_verdict_counts_even_where_it_says_neither_word():
    assert parse(f"{THINK}{TAG}{VERDICT}<verdict>perhaps</verdict>").verdict is None


def test_faults_name_place_and_part_once():
    text = "hm " + GOOD + GOOD
    assert parse(text).faults == (
        Fault(FaultKind.TEXT_OUTSIDE, 0),
        *(Fault(FaultKind.REPEATED_BLOCK, text.rindex(f"<{name}>"), name) for name in ("think", "tag", "verdict")),
    )
    boxes = generated("x" + 3 * (LEG + "<|box_start|>(1)<|box_end|>") + LEG + BOX)
    assert parse(boxes).faults == (Fault(FaultKind.MALFORMED_BOX, len("<think>x")),)


def test_each_fault_stands_where_its_marker_does_whatever_comes_before():
    end = "<|object_ref_end|>"
    think = f"Prose. {LEG}{BOX} more, {LEG} {BOX}\n{end} then {LEG}<|box_start|>(1)<|box_end|>, <|box_end|>{BOX} {LEG}"
    text = generated(think)
    assert parse(text).faults == (
        Fault(FaultKind.UNPAIRED_MARKER, text.index(f"\n{end}") + 1, end),
        Fault(FaultKind.MALFORMED_BOX, text.index(f"{LEG}<|box_start|>(1)")),
        Fault(FaultKind.UNPAIRED_MARKER, text.index("<|box_end|><|box_start|>"), "<|box_end|>"),
        Fault(FaultKind.BOX_WITHOUT_CAPTION, text.rindex(BOX)),
        Fault(FaultKind.CAPTION_WITHOUT_BOX, text.rindex(LEG)),
    )


def test_a_fault_of_a_block_names_the_block():
    text = f"<verdict>generated</verdict><tag>none<think>{LEG}{BOX}"
    assert parse(text).faults == (
        Fault(FaultKind.MISORDERED_BLOCK, 0),
        *(Fault(FaultKind.UNCLOSED_BLOCK, text.index(f"<{name}>"), name) for name in ("tag", "think")),
    )
    text = f"<think>{LEG}{BOX}</tag></think><tag>none</tag><verdict>generated</think></verdict>"
    assert [fault for fault in parse(text).faults if fault.kind is FaultKind.NESTED_BLOCK] == [
        Fault(FaultKind.NESTED_BLOCK, text.index("</tag>"), "think"),
        Fault(FaultKind.NESTED_BLOCK, text.rindex("</think>"), "verdict"),
    ]


def test_a_caption_may_be_broken_in_two_ways():
    caption = "<|object_ref_start|>Leg\n<tag><|object_ref_end|>"
    faults = parse(generated(caption + BOX)).faults
    assert [fault.detail for fault in faults if fault.kind is FaultKind.BROKEN_CAPTION] == [
        "line break",
        "block marker",
    ]


@pytest.mark.parametrize(
    ("think", "verdict", "kind"),
    [("", "generated", FaultKind.GENERATED_WITHOUT_REGION), (LEG + BOX, "real", FaultKind.REAL_WITH_REGION)],
)
def test_a_contradiction_is_a_fault_of_the_whole_answer_and_comes_first(think, verdict, kind):
    answer = parse(f"<think>{think}</think><verdict>{verdict}</verdict><tag>none</tag>")
    assert answer.faults == (Fault(kind, 0), Fault(FaultKind.MISORDERED_BLOCK, 0))
