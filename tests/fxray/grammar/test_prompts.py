"""The templates, and that a shared draw carries no information about the label."""

import itertools
import math
from collections import Counter

import pytest

from fxray.grammar.markers import SPECIAL_MARKER
from fxray.grammar.prompts import EVALUATION_TEMPLATE, TEMPLATES, draw_template, template_warning
from fxray.schema import Verdict

KEYS = [(seed, f"sample-{k}", epoch) for seed, k, epoch in itertools.product(range(3), range(300), range(4))]


def mutual_information_bits(setting: str) -> float:
    """Between template index and label, over every key asked once under each label."""
    joint = Counter((draw_template(setting, verdict, key).index, verdict) for key in KEYS for verdict in Verdict)
    total = sum(joint.values())
    indices, verdicts = Counter(), Counter()
    for (index, verdict), count in joint.items():
        indices[index] += count
        verdicts[verdict] += count
    return sum(
        count / total * math.log2(count * total / (indices[index] * verdicts[verdict]))
        for (index, verdict), count in joint.items()
    )


def test_nine_distinct_templates():
    assert [template.index for template in TEMPLATES] == list(range(9))
    assert len({template.system for template in TEMPLATES}) == len({template.query for template in TEMPLATES}) == 9


@pytest.mark.parametrize("template", TEMPLATES)
def test_template_tells_the_structure_in_words_and_holds_no_marker(template):
    positions = [template.system.lower().find(word) for word in ("think", "box", "tag", "verdict")]
    assert -1 not in positions
    assert not SPECIAL_MARKER.search(template.system + template.query)
    assert len((template.system + " " + template.query).split()) <= 30


def test_shared_draw_never_looks_at_the_verdict():
    for key in KEYS:
        assert draw_template("shared", Verdict.REAL, key) == draw_template("shared", Verdict.GENERATED, key)
    assert mutual_information_bits("shared") == 0


@pytest.mark.parametrize("setting", ["by-class", "3+2", "1+1"])
def test_the_papers_draw_gives_the_label_away(setting):
    assert mutual_information_bits(setting) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("setting", "real", "generated"),
    [
        ("shared", set(range(9)), set(range(9))),
        ("by-class", {0, 1, 2}, {3, 4, 5, 6, 7, 8}),
        ("3+2", {0, 1, 2}, {3, 4}),
        ("1+1", {0}, {3}),
    ],
)
def test_sets_of_each_setting(setting, real, generated):
    assert {draw_template(setting, Verdict.REAL, key).index for key in KEYS} == real
    assert {draw_template(setting, Verdict.GENERATED, key).index for key in KEYS} == generated


def test_draw_is_uniform_and_depends_on_every_part_of_the_key():
    counts = Counter(draw_template("shared", Verdict.REAL, key).index for key in KEYS)
    expected = len(KEYS) / 9
    chi_squared = sum((counts[index] - expected) ** 2 / expected for index in range(9))
    assert chi_squared < 26.1  # the 0.1 % point of chi-squared with 8 degrees of freedom
    draws = [
        tuple(draw_template("shared", Verdict.REAL, (seed, f"s{k}", epoch)).index for k in range(50))
        for seed, epoch in [(0, 0), (1, 0), (0, 1)]
    ]
    assert len(set(draws)) == 3


def test_draw_is_the_same_on_every_machine():
    keys = [(0, "a", 0), (7, "photo-12", 2), (2**31 - 1, "\ud800", 0)]
    assert [draw_template("shared", Verdict.REAL, key).index for key in keys] == [2, 2, 5]


def test_evaluation_asks_with_the_first_template():
    assert EVALUATION_TEMPLATE is TEMPLATES[0]


@pytest.mark.parametrize("setting", ["by-class", "3+2", "1+1"])
def test_sets_that_ask_the_question_of_detection_about_real_images_alone_are_warned_of(setting):
    assert f"data.templates {setting} shows" in template_warning(setting)
    drawn = {draw_template(setting, Verdict.GENERATED, key) for key in KEYS}
    assert EVALUATION_TEMPLATE not in drawn


def test_shared_templates_are_not_warned_of():
    assert template_warning("shared") is None
