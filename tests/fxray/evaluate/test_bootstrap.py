"""The intervals cover what they promise, and pairs are resampled as pairs."""

import numpy as np
import pytest

from fxray.evaluate.bootstrap import bootstrap_means, interval


def test_intervals_of_a_mean_cover_it_95_times_in_100() -> None:
    rng = np.random.default_rng(7)
    samples_NM = rng.normal(3.0, 2.0, size=(120, 600))  # 600 experiments of 120 samples at once
    lows, highs = interval(bootstrap_means(samples_NM, num_bootstrap=600, seed=1))
    coverage = np.mean((lows <= 3.0) & (highs >= 3.0))
    assert 0.92 <= coverage <= 0.97


def test_an_interval_leaves_out_a_fortieth_of_the_draws_on_each_side() -> None:
    draws = np.random.default_rng(0).permutation(np.arange(1001.0))[:, None]
    assert interval(draws) == (pytest.approx([25]), pytest.approx([975]))


def test_the_width_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).integers(0, 2, size=(400, 1)).astype(float)
    (low,), (high,) = interval(bootstrap_means(values, num_bootstrap=4000, seed=0))
    half = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 400)
    assert low == pytest.approx(values.mean() - half, abs=0.006)
    assert high == pytest.approx(values.mean() + half, abs=0.006)


def test_resamples_are_seeded() -> None:
    values = np.random.default_rng(0).normal(size=(50, 2))
    first = bootstrap_means(values, num_bootstrap=20, seed=3)
    assert np.array_equal(first, bootstrap_means(values, num_bootstrap=20, seed=3))
    assert not np.array_equal(first, bootstrap_means(values, num_bootstrap=20, seed=4))


def test_equal_seeds_pair_the_resamples() -> None:
    before = np.random.default_rng(0).normal(size=(80, 1))
    draws = [bootstrap_means(values, num_bootstrap=50, seed=5) for values in (before, before + 0.25)]
    assert np.allclose(draws[1] - draws[0], 0.25)


def test_what_does_not_apply_leaves_the_mean() -> None:
    values = np.array([[1.0, np.nan, np.nan]] * 30 + [[0.0, 4.0, np.nan]] * 30)
    means = bootstrap_means(values, num_bootstrap=200, seed=0)
    assert means[:, 0].mean() == pytest.approx(0.5, abs=0.02)
    assert (means[:, 1] == 4.0).all()
    lows, highs = interval(means)
    assert (lows[1], highs[1]) == (4.0, 4.0)
    assert np.isnan(lows[2])
    assert np.isnan(highs[2])


def test_large_sets_are_resampled_in_blocks_of_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(100, 2))
    whole = bootstrap_means(values, num_bootstrap=50, seed=2)
    monkeypatch.setattr("fxray.evaluate.bootstrap._MAX_CELLS", 700)
    assert np.allclose(bootstrap_means(values, num_bootstrap=50, seed=2), whole, atol=1e-15)
