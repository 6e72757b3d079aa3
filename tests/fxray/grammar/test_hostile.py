"""Any string has a reading, quickly: random texts, mutated answers, and megabytes made to be slow."""

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxray.grammar import FaultKind, ParsedAnswer, parse
from fxray.grammar.markers import BLOCK_OPENING, END_TOKENS
from fxray.schema import Verdict

REGION = "<|object_ref_start|>Leg<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
GOOD = f"<think>{REGION}</think><tag>texture errors</tag><verdict>generated</verdict>"
PIECES = [
    "<think>", "</think>", "<tag>", "</tag>", "<verdict>", "</verdict>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|im_end|>", "(1,2),(3,4)", "(nan,-1),(99999999999999999999,1e9)", "(9,9),(0,0)",
    "generated", "real", "none", "texture errors", ";", "\n", " ", "Leg", REGION, "\ud800", "\x00", "\u2028", "<", "|>",
    '{"bbox_2d": [1, 2, 3, 4], "label": "\\u12"}', "[1,2,3,4]", "(", ",", "-", "٣",
]  # fmt: skip


def check(answer: ParsedAnswer) -> None:
    """What holds of every reading whatever the text."""
    assert answer.is_strict == (not answer.faults)
    assert len({(fault.kind, fault.detail) for fault in answer.faults}) == len(answer.faults) <= 60
    assert len(set(answer.tags)) == len(answer.tags)
    for region in answer.regions:
        assert region.box.x_min < region.box.x_max
        assert region.box.y_min < region.box.y_max
    clipped = answer.clipped(100, 50)
    for region in clipped.regions:
        assert 0 <= region.box.x_min < region.box.x_max <= 100
        assert 0 <= region.box.y_min < region.box.y_max <= 50
    if clipped.is_strict:
        assert (clipped.verdict is Verdict.GENERATED) == bool(clipped.regions)
    assert clipped.clipped(100, 50) == clipped


def test_ten_thousand_random_and_hostile_strings():
    rng = random.Random(0)
    num_strict = 0
    for k in range(10_000):
        if k % 3 == 0:
            text = "".join(rng.choices(PIECES, k=rng.randrange(30)))
        elif k % 3 == 1:
            text = "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(60)))
        else:  # a good answer with a few characters or pieces cut, doubled or put in
            text = GOOD
            for _ in range(rng.randrange(4)):
                at, length = rng.randrange(len(text) + 1), rng.randrange(8)
                text = text[:at] + rng.choice(["", *PIECES, text[at : at + length] * 2]) + text[at + length :]
        strict, lenient = parse(text), parse(text, lenient=True)
        check(strict)
        check(lenient)
        assert not lenient.is_strict or lenient == strict
        num_strict += strict.is_strict
    assert 500 < num_strict < 5000  # the mutated answers reach both sides


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(st.characters(), max_size=5)), max_size=25).map("".join))
def test_any_sequence_of_pieces(text):
    check(parse(text))
    check(parse(text, lenient=True))


@given(st.text(st.characters()).map(str.rstrip).filter(lambda text: not text.endswith(END_TOKENS)))
def test_reading_ignores_one_end_token(text):
    assert parse(text + "<|im_end|>") == parse(text)


def test_a_second_end_token_is_text():
    assert parse(GOOD + "<|im_end|>").is_strict
    assert [fault.kind for fault in parse(GOOD + "<|endoftext|><|im_end|>").faults] == [FaultKind.TEXT_OUTSIDE]


def filled(piece: str) -> str:
    return piece * (1_000_000 // len(piece))


OPEN_BOX = "<think><|object_ref_start|>a<|object_ref_end|><|box_start|>"
MEGABYTES = {
    "nested tags": "<tag>" * 100_000 + "</tag>" * 100_000,
    "tags": filled("<tag></tag>"),
    "open thinks": filled("<think>"),
    "open verdicts then tags": filled("<verdict>")[:500_000] + filled("<tag>")[:500_000],
    "alternating openings": filled("<verdict><tag><think>"),
    "closings": filled("</tag>"),
    "verdicts": filled("<verdict>real</verdict>"),
    "box starts": "<think>" + filled("<|box_start|>"),
    "box ends": "<think>" + filled("<|box_end|>") + "</think>",
    "caption starts": "<think>" + filled("<|object_ref_start|>"),
    "captions": "<think>" + filled("<|object_ref_start|><|object_ref_end|>"),
    "regions": "<think>" + filled(REGION),
    "regions outside think": filled(REGION),
    "digits": OPEN_BOX + "(" + filled("9") + ",1),(2,2)<|box_end|>",
    "zeros": OPEN_BOX + "(" + filled("0") + "1,1),(2,2)<|box_end|>",
    "blank box": OPEN_BOX + filled(" ") + "<|box_end|>",
    "blank corners": OPEN_BOX + "(" + filled(" ") + "1,1),(2,2)<|box_end|>",
    "minus signs": OPEN_BOX + "(" + filled("-") + "1,1),(2,2)<|box_end|>",
    "semicolons": "<tag>" + filled(";") + "</tag>",
    "different tags": "<tag>" + ";".join(map(str, range(145_000))) + "</tag>",
    "angle brackets": filled("<"),
    "half markers": filled("<|box_start|"),
    "blank": filled(" \n"),
    "line breaks in a caption": OPEN_BOX.replace(">a<", ">" + filled("\n") + "<"),
    "surrogates": filled("\ud800"),
    "lists": "<think>" + filled("[1,2,3,4]"),
    "broken lists": "<think>" + filled("[1,"),
    "labels": "<think>[1,2,3,4]" + filled('"label":"'),
    "backslashes": '<think>[1,2,3,4]"label":"' + filled("\\"),
    "braces": "<think>" + filled("{[1,2,3,4]"),
}


def seconds_of(work: Callable[[], object]) -> float:
    """Processor time: other processes may be busy."""
    start = time.process_time()
    work()
    return time.process_time() - start


def look_at_openings(text: str) -> None:
    """The least that Python can do with a text full of markers."""
    first_at: dict[str, int] = {}
    end = 0
    for opening in BLOCK_OPENING.finditer(text):
        at, start = opening.span()
        if at >= end:
            end = text.find("<", start)
        first_at.setdefault(opening[1], at)


@pytest.mark.parametrize("lenient", [False, True], ids=["strict", "lenient"])
@pytest.mark.parametrize("name", MEGABYTES)
@pytest.mark.alone
def test_a_megabyte_takes_less_than_a_tenth_of_a_second(name, lenient):
    """On a processor that looks at a megabyte of openings in 50 ms; in proportion on a slower one."""
    text = MEGABYTES[name]
    assert len(text) > 900_000
    answers: list[ParsedAnswer] = []
    for _ in range(3):  # the first quick enough one of three
        seconds = seconds_of(lambda: answers.append(parse(text, lenient=lenient)))
        if seconds < 0.1 or seconds < 2 * seconds_of(lambda: look_at_openings(MEGABYTES["alternating openings"])):
            break
    else:
        pytest.fail(f"{seconds:.3f} s")
    assert not answers[-1].is_strict
