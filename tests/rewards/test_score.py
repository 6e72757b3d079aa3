"""Rewards of hand-made answers under every shipped stage, against totals worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fxray.data.frame import Frame
from fxray.grammar.views import VIEWS
from fxray.schema import Annotation, Box, Region, Tag, Verdict
from rewards.score import score
from rewards.stage import RightWrong, StageRewards, parts_off, weights_at

SCHEDULES = Path(__file__).parents[2] / "configs" / "schedules"

# The original image is 200x100 px; the model sees 112x28: factors 0.56 and 0.28.
FRAME = Frame(200, 100, 112, 28)
# In the model's frame: (28,7),(84,21), an area of 56 x 14 = 784.
GENERATED = Annotation(Verdict.GENERATED, (Region(Box(50, 25, 150, 75), "Leg twisted"),), (Tag.STRUCTURE,))
REAL = Annotation(Verdict.REAL)


def load_stages(preset: str) -> list[StageRewards]:
    stages = yaml.safe_load((SCHEDULES / f"{preset}.yaml").read_text())["stages"]
    return [
        StageRewards(
            stage["name"],
            **{key: RightWrong(**v) if isinstance(v, dict) else v for key, v in stage["rewards"].items()},
        )
        for stage in stages
    ]


STAGES = {stage.name: stage for stage in load_stages("paper") + load_stages("linear")}


def answer(*corners: str, verdict: str = "generated", tag: str = "structure errors") -> str:
    regions = "".join(f"<|object_ref_start|>Leg<|object_ref_end|><|box_start|>{c}<|box_end|>\n" for c in corners)
    return f"<think>\n{regions}</think>\n<tag>{tag}</tag>\n<verdict>{verdict}</verdict><|im_end|>"


EXACT = "(28,7),(84,21)"
HALF = "(28,7),(56,21)"  # IoU 1/2, relaxed 0.55
REAL_ANSWER = answer(verdict="real", tag="none")

# Totals: alpha = iou + label(1, -1) + format(2, -1); beta = -0.5 + 1.5 iou + label(2, -2) + format(1, -1.5);
# gamma = -1 + 2 iou + label(0.5, -1) + format(0.5, -1); linear at half way = 0.75 iou + label(1, -1) + format(1, -1).
CASES = {
    # name: (answer, truth, relaxed iou, right, strict, (alpha, beta, gamma, linear))
    "all right": (answer(EXACT), GENERATED, 1.0, True, True, (4.0, 4.0, 2.0, 2.75)),
    "all right on a real image": (REAL_ANSWER, REAL, 1.0, True, True, (4.0, 4.0, 2.0, 2.75)),
    "half of the box": (answer(HALF), GENERATED, 0.55, True, True, (3.55, 3.325, 1.1, 2.4125)),
    "box beside the flaw": (answer("(0,0),(28,28)"), GENERATED, 0.0, True, True, (3.0, 2.5, 0.0, 2.0)),
    "whole image": (answer("(-9,-9),(999,999)"), GENERATED, 0.275, True, True, (3.275, 2.9125, 0.55, 2.20625)),
    "exact box, wrong form": (answer(EXACT, tag=""), GENERATED, 1.0, True, False, (1.0, 1.5, 0.5, 0.75)),
    "text behind": (answer(HALF) + "!", GENERATED, 0.55, True, False, (0.55, 0.825, -0.4, 0.4125)),
    "flaw overlooked": (REAL_ANSWER, GENERATED, 0.0, False, True, (1.0, -1.5, -1.5, 0.0)),
    "flaw invented": (answer(EXACT), REAL, 0.0, False, True, (1.0, -1.5, -1.5, 0.0)),
    "generated without region": (answer(), GENERATED, 0.0, True, False, (0.0, 0.0, -1.5, 0.0)),
    "real with a region": (answer(EXACT, verdict="real"), GENERATED, 1.0, False, False, (-1.0, -2.5, -1.0, -1.25)),
    "only an outside box": (answer("(112,0),(140,28)"), GENERATED, 0.0, True, False, (0.0, 0.0, -1.5, 0.0)),
    "real, outside box": (answer("(112,0),(140,28)", verdict="real"), REAL, 1.0, True, True, (4.0, 4.0, 2.0, 2.75)),
    "swapped box beside": (answer("(9,9),(2,2)", EXACT), GENERATED, 1.0, True, False, (1.0, 1.5, 0.5, 0.75)),
    "no verdict": (answer(EXACT).split("<tag>")[0], GENERATED, 1.0, False, False, (-1.0, -2.5, -1.0, -1.25)),
    "nothing said": ("", GENERATED, 0.0, False, False, (-2.0, -4.0, -3.0, -2.0)),
    "nothing said of a real image": ("", REAL, 1.0, False, False, (-1.0, -2.5, -1.0, -1.25)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_totals_worked_out_by_hand(name):
    text, truth, iou, is_right, is_strict, totals = CASES[name]
    for stage_name, total in zip(("alpha", "beta", "gamma", "linear"), totals, strict=True):
        stage = weights_at(STAGES[stage_name], 0.5)
        scored = score(text, truth, FRAME, stage)
        assert scored.total == pytest.approx(total), stage_name
        assert scored.iou == pytest.approx(iou)
        assert (scored.is_right, scored.is_strict) == (is_right, is_strict)
        assert scored.label == (stage.label.right if is_right else stage.label.wrong)
        assert scored.format == (stage.format.right if is_strict else stage.format.wrong)


def test_shipped_weights_are_those_of_the_method():
    alpha, beta, gamma = load_stages("paper")
    one_two = (RightWrong(1, -1), RightWrong(2, -1))
    assert (alpha.r_base, alpha.w_iou, alpha.label, alpha.format) == (0, 1.0, *one_two)
    assert (beta.r_base, beta.w_iou, beta.label, beta.format) == (-0.5, 1.5, RightWrong(2, -2), RightWrong(1, -1.5))
    assert (gamma.r_base, gamma.w_iou) == (-1, 2.0)
    assert gamma.label == gamma.format == RightWrong(0.5, -1)
    (linear,) = load_stages("linear")
    assert (linear.r_base, linear.w_iou, linear.w_iou_final) == (0, 0.5, 1.0)
    assert linear.label == linear.format == RightWrong(1, -1)
    for stage in (alpha, beta, gamma, linear):
        assert (stage.w_label, stage.w_format, stage.eta, stage.matching, stage.custom) == (1, 1, 1.1, "union", ())


def test_gamma_gives_nothing_for_a_right_label_in_the_right_form():
    assert score(answer("(0,0),(28,28)"), GENERATED, FRAME, STAGES["gamma"]).total == 0


@pytest.mark.parametrize("stage_name", ["alpha", "beta", "gamma"])
def test_fixed_presets_repeat_one_stage(stage_name):
    for k, stage in enumerate(load_stages(f"fixed-{stage_name}"), start=1):
        assert stage.name == f"{stage_name}-{k}"
        for text, truth, *_ in CASES.values():
            assert score(text, truth, FRAME, stage) == score(text, truth, FRAME, STAGES[stage_name])
    assert k == 3


def test_every_weight_scales_its_part():
    stage = StageRewards("own", 0.5, 3.0, RightWrong(1, -1), RightWrong(1, -1), w_label=10.0, w_format=100.0)
    assert score(answer(HALF), GENERATED, FRAME, stage).total == pytest.approx(0.5 + 3 * 0.55 + 10 + 100)
    assert score(answer(HALF, verdict="real"), GENERATED, FRAME, stage).total == pytest.approx(0.5 + 1.65 - 10 - 100)


def test_boxes_are_compared_in_original_pixels_whose_sides_scale_differently():
    # 28x14 model pixels are 50x50 of the original: two truth boxes of 50x50, one hit.
    truth = Annotation(Verdict.GENERATED, (Region(Box(0, 0, 50, 50), "Leg"), Region(Box(100, 50, 150, 100), "Sky")), ())
    scored = score(answer("(0,0),(28,14)"), truth, FRAME, STAGES["alpha"])
    assert scored.union_iou == pytest.approx(0.5)
    assert scored.iou == pytest.approx(0.55)
    assert scored.num_boxes == 1


def test_truth_that_sticks_out_of_the_image_is_clipped():
    truth = Annotation(Verdict.GENERATED, (Region(Box(150, 0, 400, 300), "Leg"),), ())
    assert score(answer("(84,0),(112,28)"), truth, FRAME, STAGES["alpha"]).union_iou == pytest.approx(1)


def test_nearest_matching_pays_per_truth_box():
    nearest = StageRewards("code", 0.0, 1.0, RightWrong(1, -1), RightWrong(2, -1), matching="nearest")
    text = answer(EXACT, "(0,0),(10,10)")
    assert score(text, GENERATED, FRAME, nearest).iou == 1  # the box too many is not matched
    assert score(text, GENERATED, FRAME, STAGES["alpha"]).iou == pytest.approx(1.1 * 784 / 884)


def test_facts_that_are_logged():
    scored = score(answer(HALF, "(9,9),(2,2)", tag="blurry"), GENERATED, FRAME, STAGES["beta"])
    assert scored.union_iou == pytest.approx(0.5)
    assert scored.num_boxes == 1
    assert sorted(scored.faults) == ["degenerate-box", "unknown-tag"]


def advantages(rewards: list[float]) -> list[float]:
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
    return [(reward - mean) / (std + 1e-4) for reward in rewards]


@pytest.mark.parametrize("stage_name", ["alpha", "beta", "gamma"])
def test_r_base_cancels_in_the_group_advantage(stage_name):
    stage = STAGES[stage_name]
    shifted = StageRewards("shifted", stage.r_base + 7.5, stage.w_iou, stage.label, stage.format)
    texts = [answer(EXACT), answer(HALF), answer("(0,0),(9,9)"), REAL_ANSWER, ""]
    plain = [score(text, GENERATED, FRAME, stage).total for text in texts]
    moved = [score(text, GENERATED, FRAME, shifted).total for text in texts]
    assert [b - a for a, b in zip(plain, moved, strict=True)] == pytest.approx([7.5] * 5)
    assert advantages(moved) == pytest.approx(advantages(plain), abs=1e-12)


def test_advantages_of_a_group_by_hand():
    # alpha: 4, 3, 1, -2: mean 1.5, deviations 2.5, 1.5, -0.5, -3.5, sum of squares 21, std sqrt(7).
    texts = [answer(EXACT), answer("(0,0),(28,28)"), REAL_ANSWER, ""]
    totals = [score(text, GENERATED, FRAME, STAGES["alpha"]).total for text in texts]
    assert totals == [4, 3, 1, -2]
    expected = [deviation / (math.sqrt(7) + 1e-4) for deviation in (2.5, 1.5, -0.5, -3.5)]
    assert advantages(totals) == pytest.approx(expected)


BARE = f"<|box_start|>{HALF}<|box_end|>"
TAGS = "<tag>structure errors</tag>"
VERDICT = "<verdict>generated</verdict>"


@pytest.mark.parametrize(
    ("view", "text", "iou", "is_strict", "total"),
    [
        # alpha: iou + label (1, -1) + format (2, -1); without boxes the iou earns nothing, right or wrong.
        ("no-bbox", f"{TAGS}{VERDICT}", 0.0, True, 3.0),
        ("no-bbox", answer(EXACT), 0.0, False, 0.0),
        ("label-only", VERDICT, 0.0, True, 3.0),
        ("label-only", f"{TAGS}{VERDICT}", 0.0, False, 0.0),
        ("no-tags", answer(HALF).replace("<tag>structure errors</tag>\n", ""), 0.55, True, 3.55),
        ("no-tags", answer(HALF), 0.55, False, 0.55),
        ("no-caption", f"<think>{BARE}</think>{TAGS}{VERDICT}", 0.55, True, 3.55),
        ("no-caption", answer(HALF), 0.55, False, 0.55),
    ],
)
def test_totals_in_a_view_worked_out_by_hand(view, text, iou, is_strict, total):
    scored = score(text, GENERATED, FRAME, replace(STAGES["alpha"], view=view))
    assert scored.total == pytest.approx(total)
    assert scored.iou == pytest.approx(iou)
    assert (scored.is_right, scored.is_strict) == (True, is_strict)


@pytest.mark.parametrize("view", ["no-bbox", "label-only"])
def test_without_boxes_a_real_image_earns_no_iou_either(view):
    text = {"no-bbox": "<tag>none</tag><verdict>real</verdict>", "label-only": "<verdict>real</verdict>"}[view]
    scored = score(text, REAL, FRAME, replace(STAGES["gamma"], view=view))
    assert (scored.total, scored.iou) == (0.0, 0.0)  # -1 + 0.5 + 0.5


def test_each_view_tells_which_parts_it_switches_off():
    assert {view: parts_off(view) for view in VIEWS} == {
        "full": (),
        "no-bbox": ("iou",),
        "no-caption": (),
        "no-tags": (),
        "label-only": ("iou",),
    }
