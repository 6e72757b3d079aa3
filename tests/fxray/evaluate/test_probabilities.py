import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from fxray.evaluate.probabilities import (
    NUM_BINS,
    Bin,
    probability_gains,
    probability_metrics,
    reliability_bins,
    score_probabilities,
)


def metrics_of(probabilities, truth, counts=None):
    counts = np.ones((1, len(truth))) if counts is None else counts
    return probability_metrics(np.asarray(probabilities, float), np.asarray(truth, bool), counts)


@pytest.mark.parametrize("num_values", [2, 7, 40, 10**6])
def test_metrics_agree_with_scikit_learn_on_ties_and_weights(num_values):
    rng = np.random.default_rng(num_values)
    for size in (5, 60, 400):
        truth = rng.random(size) < 0.5
        truth[:2] = False, True
        probabilities = np.round(rng.random(size) * 0.6 + truth * 0.4, 9)
        probabilities = np.floor(probabilities * num_values) / num_values
        counts = rng.multinomial(size, np.full(size, 1 / size), size=3).astype(float) + (np.arange(size) < 2)
        found = metrics_of(probabilities, truth, np.vstack([np.ones(size), counts]))
        for row, weights in enumerate([np.ones(size), *counts]):
            fpr, tpr, _ = roc_curve(truth, probabilities, sample_weight=weights, drop_intermediate=False)
            kept = {"y_true": truth, "sample_weight": weights}
            assert found["auroc"][row] == pytest.approx(roc_auc_score(y_score=probabilities, **kept))
            assert found["average_precision"][row] == pytest.approx(
                average_precision_score(y_score=probabilities, **kept)
            )
            assert found["brier"][row] == pytest.approx(brier_score_loss(y_proba=probabilities, **kept))
            for name, limit in (("tpr_at_1_fpr", 0.01), ("tpr_at_5_fpr", 0.05)):
                assert found[name][row] == pytest.approx(tpr[fpr <= limit + 1e-12].max())


def test_the_calibration_error_is_the_weighted_gap_of_bins():
    # Bins of a fifteenth: three images at 0.62 (bin 9), one of them generated; one at 0.97 (bin 14), generated.
    probabilities, truth = np.array([0.62, 0.62, 0.62, 0.97]), np.array([False, True, False, True])
    assert metrics_of(probabilities, truth)["ece"][0] == pytest.approx((abs(3 * 0.62 - 1) + 0.03) / 4)
    assert reliability_bins(probabilities, truth) == (
        Bin(pytest.approx(0.62), pytest.approx(1 / 3), 3),
        Bin(0.97, 1.0, 1),
    )
    # Across the two sides of one bin gaps cancel, and 1.0 belongs to the last bin.
    assert metrics_of([0.95, 1.0], [True, True])["ece"][0] == pytest.approx(0.025)


@pytest.mark.parametrize("size", [3, 40, 700])
def test_the_calibration_error_and_its_bins_agree_with_scikit_learn(size):
    rng = np.random.default_rng(size)
    probabilities = rng.beta(0.5, 0.5, size)
    truth = rng.random(size) < probabilities**2
    shares, means = calibration_curve(truth, probabilities, n_bins=NUM_BINS, strategy="uniform")
    bins = reliability_bins(probabilities, truth)
    assert [found.probability for found in bins] == pytest.approx(means.tolist())
    assert [found.generated for found in bins] == pytest.approx(shares.tolist())
    weights = np.histogram(probabilities, NUM_BINS, (0, 1))[0]
    error = np.average(np.abs(shares - means), weights=weights[weights > 0])
    assert metrics_of(probabilities, truth)["ece"][0] == pytest.approx(error)


def test_a_perfect_and_a_useless_ranking():
    truth = [False] * 3 + [True] * 3
    perfect, useless = metrics_of([0, 0.1, 0.2, 0.8, 0.9, 1], truth), metrics_of([0.5] * 6, truth)
    assert [float(perfect[name][0]) for name in ("auroc", "average_precision", "tpr_at_1_fpr")] == [1, 1, 1]
    assert [float(useless[name][0]) for name in ("auroc", "average_precision", "tpr_at_5_fpr")] == [0.5, 0.5, 0]


def test_one_false_alarm_of_a_hundred_is_1_per_cent_and_of_99_more():
    for num_real, expected in ((100, 1.0), (99, 0.5)):  # the real image stands between the two generated ones
        found = metrics_of([0.9, 0.8, 0.7] + [0.1] * (num_real - 1), [True, False, True] + [False] * (num_real - 1))
        assert found["tpr_at_1_fpr"][0] == expected
        assert found["tpr_at_5_fpr"][0] == 1


def test_a_real_image_with_a_probability_of_1_is_all_wrong():
    found = metrics_of([1.0, 0.0], [False, True])
    assert (found["ece"][0], found["brier"][0]) == (1, 1)


def test_gains_of_probabilities_by_hand():
    truth = np.array([False, False, True, True])
    before, after = np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.0, 0.6, 0.4, 1.0])
    gains = probability_gains(before, after, truth, num_bootstrap=50, seed=0)
    assert gains["auroc"].value == pytest.approx(3 / 4 - 1 / 2)
    assert gains["brier"].value == pytest.approx((0.36 + 0.36) / 4 - 1 / 4)
    assert gains["brier"].low < gains["brier"].value < gains["brier"].high
    same = probability_gains(after, after, truth, num_bootstrap=50, seed=0)
    assert all((gain.value, gain.low, gain.high) == (0, 0, 0) for gain in same.values())  # the draws are pairs


@pytest.mark.parametrize("is_generated", [False, True])
def test_one_class_alone_has_no_ranking(is_generated):
    found = metrics_of([0.2, 0.9], [True, True])
    probabilities = np.random.default_rng(0).random(50).tolist()
    scores = score_probabilities(probabilities, np.full(50, is_generated), num_bootstrap=20, seed=0)
    for name in ("auroc", "average_precision", "tpr_at_1_fpr", "tpr_at_5_fpr"):
        estimate = scores.metrics[name]
        assert np.isnan([estimate.value, estimate.low, estimate.high]).all(), name
    assert found["brier"][0] == pytest.approx((0.64 + 0.01) / 2)


def test_intervals_hold_the_value_and_images_without_probability_are_counted():
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.5
    probabilities = [None, *(np.clip(0.3 + 0.4 * truth[1:] + rng.normal(0, 0.2, 299), 0, 1).tolist())]
    scores = score_probabilities(probabilities, truth, num_bootstrap=200, seed=0)
    assert (scores.num_images, scores.num_without) == (299, 1)
    auroc = scores.metrics["auroc"]
    assert auroc.low < auroc.value < auroc.high
    assert 0.02 < auroc.high - auroc.low < 0.12
    assert scores == score_probabilities(probabilities, truth, num_bootstrap=200, seed=0)
    assert score_probabilities([None, None], truth[:2], num_bootstrap=10, seed=0) is None
