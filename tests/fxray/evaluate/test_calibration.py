"""Calibration on made-up log-odds whose true probabilities are known."""

import json
import math
import time

import numpy as np
import pytest

from fxray.errors import CheckpointError, DataError
from fxray.evaluate.calibration import (
    Calibration,
    FittedFor,
    judge,
    logit,
    open_calibration,
    read_calibration,
    sigmoid,
    write_calibration,
)  # fmt: skip
from fxray.evaluate.decisions import score_calibrated
from fxray.evaluate.fitting import (
    NEVER,
    choose_balanced_threshold,
    choose_band,
    choose_threshold,
    fit_calibration,
    fit_platt,
)
from fxray.evaluate.predictions import Prediction
from fxray.evaluate.table import decision_table
from fxray.schema import Verdict

USED_FOR = FittedFor(adapter_sha256="ab" * 32, base="tiny", view="full", min_pixels=1, max_pixels=2)


def overconfident(size: int, seed: int, factor: float = 3.0, shift: float = 1.5):
    """Raw probabilities whose log-odds are `factor` times too large and off by `shift`, and the truth."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1.5, size)
    truth = rng.random(size) < 1 / (1 + np.exp(-odds))
    return 1 / (1 + np.exp(-(factor * odds + shift))), truth


def fitted(raw, truth, **changes) -> Calibration:
    values = {
        "max_fpr": 0.05, "max_error": 0.1, "num_sources": 7, "data": "validation.parquet", "data_sha256": "",
        "is_synthetic": False,
        "fitted_for": USED_FOR,
    }  # fmt: skip
    return fit_calibration(raw, truth, **(values | changes))


def test_what_is_three_times_too_sure_is_put_right():
    slope, intercept = fit_platt(*overconfident(20_000, seed=0))
    assert slope == pytest.approx(1 / 3, rel=0.05)
    assert intercept == pytest.approx(-0.5, abs=0.05)


def test_the_error_shrinks_on_images_that_were_not_fitted():
    calibration = fitted(*overconfident(512, seed=1))
    raw, truth = overconfident(4000, seed=2)
    before = score_calibrated(
        calibration.model_copy(update={"slope": 1.0, "intercept": 0.0}), raw, truth, num_bootstrap=50, seed=0
    )
    after = score_calibrated(calibration, raw, truth, num_bootstrap=50, seed=0)
    assert before.probabilities.metrics["ece"].value > 0.1
    assert after.probabilities.metrics["ece"].value < 0.04
    assert after.probabilities.metrics["auroc"].value == before.probabilities.metrics["auroc"].value
    assert after.decisions["fpr"].value == pytest.approx(0.05, abs=0.03)
    assert after.decisions["error_decided"].value == pytest.approx(0.1, abs=0.03)
    assert after.decisions["error_unsure"].value > after.decisions["error_decided"].value
    held_out = np.array([calibration.assess(calibration.probability(p)) == "unsure" for p in raw])
    assert after.decisions["unsure"].value == held_out.mean()


def test_a_share_says_of_how_many_images_it_is():
    calibration = fitted(*overconfident(512, seed=1))
    raw, truth = overconfident(400, seed=2)
    scores = score_calibrated(calibration, [*raw, None], np.append(truth, True), num_bootstrap=10, seed=0)
    num_unsure = sum(calibration.assess(calibration.probability(p)) == "unsure" for p in raw)
    assert 0 < num_unsure < 400
    expected = [(~truth).sum(), truth.sum(), 400, num_unsure, 400 - num_unsure]
    assert list(scores.num_images.values()) == expected
    assert [each["num_images"] for each in scores.to_json()["decisions"].values()] == expected
    table = decision_table(scores, is_synthetic=False)
    assert list(table.columns[1].cells) == [str(number) for number in expected]


def test_decisions_by_hand_where_probabilities_lie_on_the_limits_and_some_images_have_none():
    as_it_is = fitted(*overconfident(512, seed=1)).model_copy(
        update={"slope": 1.0, "intercept": 0.0, "threshold": 0.5, "unsure_low": 0.5, "unsure_high": 0.8}
    )
    raw, truth = [0.5, 0.5, 0.9, 0.9, 0.1, 0.1, None, None], np.arange(8) % 2 == 1
    scores = score_calibrated(as_it_is, raw, truth, num_bootstrap=10, seed=0)
    assert {name: estimate.value for name, estimate in scores.decisions.items()} == pytest.approx(
        {"fpr": 2 / 3, "tpr": 2 / 3, "unsure": 2 / 6, "error_unsure": 1 / 2, "error_decided": 2 / 4}
    )
    assert scores.num_images == {"fpr": 3, "tpr": 3, "unsure": 6, "error_unsure": 2, "error_decided": 4}
    assert scores.to_json()["decisions"]["fpr"]["value"] == pytest.approx(2 / 3)
    no_band = as_it_is.model_copy(update={"unsure_high": 0.5})
    decisions = score_calibrated(no_band, raw, truth, num_bootstrap=10, seed=0).decisions
    assert decisions["unsure"].value == 0
    assert math.isnan(decisions["error_unsure"].value)
    assert score_calibrated(as_it_is, [None, None], truth[:2], num_bootstrap=10, seed=0) is None


@pytest.mark.parametrize(("share", "said"), [(0.001, "0.1 %"), (0.015, "1.5 %"), (0.05, "5 %"), (0.0, "0 %")])
def test_the_shares_that_were_asked_for_are_told_as_they_were(share, said):
    calibration = fitted(*overconfident(512, seed=1)).model_copy(update={"max_fpr": share, "max_error": share})
    scores = score_calibrated(calibration, [0.2, 0.9], np.array([False, True]), num_bootstrap=10, seed=0)
    caption = str(decision_table(scores, is_synthetic=False).caption)
    assert f"for at most {said} false alarms" in caption
    assert f"for at most {said} wrong beyond" in caption


def test_classes_that_part_without_an_error_give_finite_numbers_and_backward_ranking_none():
    truth = np.arange(60) % 2 == 0
    slope, intercept = fit_platt(np.where(truth, 1.0, 0.0), truth)
    assert 0.05 < slope < 1
    assert sigmoid(slope * logit(1.0) + intercept) == pytest.approx(31 / 32, abs=1e-3)  # Platt's targets
    assert sigmoid(slope * logit(0.0) + intercept) == pytest.approx(1 / 32, abs=1e-3)
    assert fit_platt(np.where(truth, 0.1, 0.9), truth)[0] == 0


def test_the_threshold_lets_through_what_was_asked_for():
    probabilities = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.8, 0.9])
    truth = np.array([False, False, False, False, True, True, True])
    assert choose_threshold(probabilities, truth, 0.25) == pytest.approx(0.35)  # 0.6 alone is a false alarm
    assert choose_threshold(probabilities, truth, 0.0) == pytest.approx(0.7)
    assert choose_threshold(probabilities, truth, 1.0) == 0
    assert choose_threshold(np.ones(7), truth, 0.1) == NEVER


def test_the_balanced_threshold_weighs_both_classes_alike():
    # four real, two generated: from 0.35 up one real is lost of four, from 0.55 up a generated one of two
    probabilities = np.array([0.1, 0.2, 0.3, 0.5, 0.4, 0.6])
    truth = np.array([False, False, False, False, True, True])
    assert choose_balanced_threshold(probabilities, truth) == pytest.approx(0.35)
    assert choose_balanced_threshold(np.array([0.2, 0.8]), np.array([False, True])) == pytest.approx(0.5)


def test_the_band_is_the_narrowest_beyond_which_few_are_wrong():
    # below 0.5: 1 of 4 is generated; below 0.35: none of 3. From 0.5 up: 1 of 4 is real; from 0.65 up: none.
    probabilities = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    truth = np.array([False, False, False, True, False, True, True, True])
    assert choose_band(probabilities, truth, 0.5, 0.1) == pytest.approx((0.35, 0.65))
    assert choose_band(probabilities, truth, 0.5, 0.3) == (0.5, 0.5)
    assert choose_band(probabilities, ~truth, 0.5, 0.0) == (0.0, NEVER)  # nothing can be said of either side


@pytest.mark.parametrize("seed", range(20))
def test_threshold_and_band_are_those_of_a_search_cut_by_cut(seed):
    rng = np.random.default_rng(seed)
    probabilities, truth = rng.integers(0, 12, 40) / 11, np.arange(40) % 3 == 0
    values = np.unique(probabilities)
    cuts = [0.0, *(values[1:] + values[:-1]) / 2, NEVER]
    threshold = choose_threshold(probabilities, truth, 0.2)
    assert threshold == next(cut for cut in cuts if (probabilities[~truth] >= cut).mean() <= 0.2)
    below = [c for c in cuts if c <= threshold and (c == 0 or truth[probabilities < c].mean() <= 0.3)]
    above = [c for c in cuts if c >= threshold and (c == NEVER or (~truth[probabilities >= c]).mean() <= 0.3)]
    assert choose_band(probabilities, truth, threshold, 0.3) == (min(below[-1], 0.5), max(above[0], 0.5))


def test_no_image_is_called_what_its_own_probability_speaks_against():
    # of 51 images below .9 one is generated, and one of 51 from .1 up is real
    sure = np.array([*[0.05] * 50, 0.8, *[0.95] * 50])
    truth = np.arange(101) >= 50
    assert choose_band(sure, truth, 0.9, 0.1) == (0.5, 0.9)
    assert choose_band(1 - sure, ~truth, 0.1, 0.1) == (0.1, 0.5)


def test_a_threshold_and_a_band_of_200_000_images_take_seconds():
    truth = np.arange(200_000) % 2 == 0
    probabilities = np.random.default_rng(0).normal(0.4 + 0.2 * truth, 0.2).clip(0, 1)
    began = time.monotonic()
    threshold = choose_threshold(probabilities, truth, 0.01)
    low, high = choose_band(probabilities, truth, threshold, 0.02)
    assert time.monotonic() - began < 30  # cut by cut they take minutes
    assert low < threshold <= high


def sure(num_real: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearly all generated images share the highest probability, with so many real ones."""
    truth = np.arange(1000) % 2 == 0
    raw = np.where(truth, 0.9, 0.1) + np.random.default_rng(0).uniform(-0.05, 0.05, 1000)
    raw[np.flatnonzero(truth)[:450]] = 1.0
    raw[np.flatnonzero(~truth)[:num_real]] = 1.0
    return raw, truth


RISING = np.linspace(0.1, 0.9, 90)
ODD = np.arange(90) % 2 == 1


@pytest.mark.parametrize(
    ("raw", "truth", "bounds", "said"),
    [
        (RISING, ~ODD, {}, {"real": "over 10 % were generated", "generated": "over 5 % of the real ones share"}),
        (RISING, ~ODD | (RISING > 0.7), {}, {"real": "over 10 % were generated"}),
        (*sure(40), {}, {"generated": "over 5 % of the real ones share"}),
        (*sure(20), {}, {}),
        (*sure(20), {"max_error": 0.0}, {"generated": "over 0 % were real"}),
        (*sure(20), {"max_fpr": 1.0}, {"real": "100 % of the real ones may count"}),
        (*sure(20), {"max_fpr": 0.0, "max_error": 1.0}, {"generated": "over 0 % of the real ones share"}),
        (*overconfident(512, seed=1), {}, {}),
    ],
)
def test_a_verdict_that_is_never_given_is_said_with_the_true_reason(raw, truth, bounds, said):
    calibration = fitted(raw, truth, **bounds)
    assert {calibration.assess(calibration.probability(p)) for p in raw}.isdisjoint(said)
    sentences = dict(text.removeprefix("no image is called ").split(": ", 1) for text in calibration.never_said)
    assert sentences.keys() == said.keys()
    assert all(reason in sentences[verdict] for verdict, reason in said.items())


def test_three_answers_follow_from_a_probability():
    calibration = fitted(*overconfident(512, seed=1)).model_copy(
        update={"threshold": 0.6, "unsure_low": 0.4, "unsure_high": 0.7}
    )
    assert [calibration.assess(p) for p in (0.0, 0.39, 0.4, 0.69, 0.7, 1.0)] == [
        "real", "real", "unsure", "unsure", "generated", "generated",
    ]  # fmt: skip
    said = Prediction("a", Verdict.GENERATED, probability=0.9)
    assert judge(said, None) == (0.9, "generated")
    assert judge(said, calibration)[0] == pytest.approx(calibration.probability(0.9))
    assert judge(Prediction("a", Verdict.REAL), calibration) == (None, "real")
    assert judge(Prediction("a", None, probability=None), calibration) == (None, None)


@pytest.mark.parametrize(
    ("num_real", "num_generated", "max_fpr", "message"),
    [
        (19, 40, 0.05, "19 real and 40 generated images with a probability, expected at least 20 and 20"),
        (40, 19, 0.05, "40 real and 19 generated images with a probability, expected at least 20 and 20"),
        (30, 40, 0.01, "at least 100 and 20 for a false-positive rate of 0.01"),
    ],
)
def test_too_few_images_are_refused(num_real, num_generated, max_fpr, message):
    truth = np.arange(num_real + num_generated) >= num_real
    with pytest.raises(DataError, match=message) as refused:
        fitted(np.full(len(truth), 0.5), truth, max_fpr=max_fpr)
    assert ("a larger --max-fpr" in str(refused.value)) == (max_fpr < 0.05)  # which helps nobody else


def test_a_calibration_is_read_for_what_it_was_fitted_for_and_nothing_else(tmp_path):
    assert read_calibration(tmp_path, USED_FOR) is None
    calibration = fitted(*overconfident(512, seed=1))
    write_calibration(calibration, tmp_path)
    assert read_calibration(tmp_path, USED_FOR) == calibration
    assert calibration.sentence() == "calibrated on 512 images of validation.parquet (7 sources)"
    with pytest.raises(CheckpointError, match="was fitted for max_pixels 2, and is to be used with 3"):
        read_calibration(tmp_path, USED_FOR.model_copy(update={"max_pixels": 3}))


def test_a_calibration_of_other_weights_is_refused_and_one_that_knows_none_is_taken_as_it_is(tmp_path):
    before = fitted(*overconfident(512, seed=1))
    assert "base_fingerprint" not in before.model_dump_json()  # its SHA-256 is that of earlier versions
    write_calibration(before, tmp_path)
    assert read_calibration(tmp_path, USED_FOR.model_copy(update={"base_fingerprint": "aa"})) == before
    known = before.model_copy(update={"fitted_for": USED_FOR.model_copy(update={"base_fingerprint": "aa"})})
    write_calibration(known, tmp_path)
    for used_for in (USED_FOR, known.fitted_for):
        assert read_calibration(tmp_path, used_for) == known
    with pytest.raises(CheckpointError, match="was fitted for base_fingerprint 'aa', and is to be used with 'bb'"):
        read_calibration(tmp_path, USED_FOR.model_copy(update={"base_fingerprint": "bb"}))
    moved = {"base": "elsewhere"}
    assert read_calibration(tmp_path, known.fitted_for.model_copy(update=moved)) == known
    with pytest.raises(CheckpointError, match="was fitted for base 'tiny', and is to be used with 'elsewhere'"):
        read_calibration(tmp_path, USED_FOR.model_copy(update=moved))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": -1}, "field slope: Input should be greater than or equal to 0"),
        ({"slope": "NaN"}, "field slope"),
        ({"intercept": math.nan}, "field intercept"),
        ({"threshold": math.inf}, "field threshold"),
        ({"max_fpr": 1.5}, "field max_fpr"),
        ({"num_real": 0}, "field num_real"),
        ({"extra": 1}, "field extra"),
        ({"format": 2}, "field format"),
        (None, "Invalid JSON"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, change, message):
    file = write_calibration(fitted(*overconfident(512, seed=1)), tmp_path)
    file.write_text("{" if change is None else json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        open_calibration(tmp_path)


@pytest.mark.parametrize("probability", [0.0, 1e-300, 0.3, 0.5, 1 - 1e-16, 1.0])
def test_log_odds_are_finite_and_go_back(probability):
    assert abs(logit(probability)) <= 30
    assert sigmoid(logit(probability)) == pytest.approx(probability, abs=1e-12)
    assert math.isfinite(sigmoid(-1e6) + sigmoid(1e6))
