"""Clusters are dealt whole, shares are met, and no worse than scikit-learn deals them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from fxray.data.split.assignment import deal, keep_in_proportion


def test_single_rows_are_dealt_to_the_share_exactly() -> None:
    parts = deal(np.arange(100), np.repeat([[0], [1]], 50, axis=0), [0.5, 0.3, 0.2], np.random.default_rng(0))
    assert [[int(((parts == p) & (np.arange(100) // 50 == s)).sum()) for p in range(3)] for s in (0, 1)] == [
        [25, 15, 10]
    ] * 2


def test_remainders_of_small_strata_do_not_all_fall_to_one_part() -> None:
    ten_of_nine = np.repeat(np.arange(1, 11), 9)
    strata = np.stack([np.zeros(90, np.int64), ten_of_nine], axis=1)
    for seed in range(5):
        quarters = deal(np.arange(90), strata, [0.25] * 4, np.random.default_rng(seed))
        assert sorted(np.bincount(quarters)) == [22, 22, 23, 23]
        aside = deal(np.arange(90), strata, [0.95, 0.05], np.random.default_rng(seed))
        assert np.bincount(aside)[1] in (4, 5)
        for parts in (quarters, aside):
            counts = np.array([np.bincount(parts[ten_of_nine == s], minlength=parts.max() + 1) for s in range(1, 11)])
            assert (counts.max(axis=0) - counts.min(axis=0) <= 1).all()


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), num=st.integers(1, 120), num_clusters=st.integers(1, 60))
def test_a_cluster_is_never_cut(seed: int, num: int, num_clusters: int) -> None:
    rng = np.random.default_rng(seed)
    clusters = rng.integers(num_clusters, size=num)
    parts = deal(clusters, rng.integers(4, size=(num, 1)), [0.7, 0.1, 0.2], rng)
    for cluster in set(clusters.tolist()):
        assert len(set(parts[clusters == cluster].tolist())) == 1


def unevenness(parts: np.ndarray, strata: np.ndarray, num_parts: int) -> float:
    counts = np.array([np.bincount(strata[parts == p], minlength=strata.max() + 1) for p in range(num_parts)])
    return float(np.abs(counts / counts.sum(axis=0) - 1 / num_parts).mean())


def test_it_deals_no_worse_than_scikit_learn() -> None:
    ours, theirs = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        clusters = np.sort(rng.integers(150, size=600))
        strata = rng.integers(6, size=600)
        ours.append(unevenness(deal(clusters, strata[:, None], [0.25] * 4, rng), strata, 4))
        parts = np.empty(600, int)
        for k, (_, test) in enumerate(
            StratifiedGroupKFold(4, shuffle=True, random_state=seed).split(strata, strata, clusters)
        ):
            parts[test] = k
        theirs.append(unevenness(parts, strata, 4))
    assert np.mean(ours) <= np.mean(theirs)


def test_what_is_kept_is_in_proportion_and_in_order() -> None:
    strata = np.repeat([0, 1, 2], [60, 30, 10])
    kept = keep_in_proportion(strata, 20, np.random.default_rng(0))
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert np.bincount(strata[kept]).tolist() == pytest.approx([12, 6, 2], abs=1)
    assert keep_in_proportion(strata, 0, np.random.default_rng(0)).tolist() == []
    assert keep_in_proportion(strata, 100, np.random.default_rng(0)).tolist() == list(range(100))
