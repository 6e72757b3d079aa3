import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fxray.grpo.advantage import group_advantages


def advantages(rewards, valid=None, normalisation="group-std"):
    rewards_BG = np.array(rewards, np.float64)
    is_valid_BG = np.ones(rewards_BG.shape, np.bool_) if valid is None else np.array(valid, np.bool_)
    return group_advantages(rewards_BG, is_valid_BG, normalisation=normalisation)


def test_a_group_by_hand():
    # Mean 3, deviations -2 -1 0 3, squares sum to 14, sample variance 14/3.
    got_BG, has_spread_B = advantages([[1, 2, 3, 6]])
    std = (14 / 3) ** 0.5 + 1e-4
    np.testing.assert_allclose(got_BG, [[-2 / std, -1 / std, 0, 3 / std]], rtol=1e-6)
    assert got_BG.dtype == np.float32
    assert has_spread_B.tolist() == [True]


def test_without_normalisation_the_mean_alone_is_taken_off():
    got_BG, _ = advantages([[1, 2, 3, 6]], normalisation="none")
    assert got_BG.tolist() == [[-2, -1, 0, 3]]


def test_a_masked_rollout_leaves_mean_and_deviation():
    got_BG, has_spread_B = advantages([[1, 99, 3]], [[True, False, True]])
    np.testing.assert_allclose(got_BG, [[-1 / (2**0.5 + 1e-4), 0, 1 / (2**0.5 + 1e-4)]], rtol=1e-6)
    assert has_spread_B.tolist() == [True]


def test_what_a_masked_rollout_holds_does_not_matter():
    got_BG, _ = advantages([[1, np.nan, 3], [1, np.inf, 3]], [[True, False, True]] * 2)
    assert np.isfinite(got_BG).all()
    assert got_BG[0].tolist() == got_BG[1].tolist()


def test_groups_without_spread_have_no_advantage():
    got_BG, has_spread_B = advantages(
        [[2, 2, 2], [1, 5, 9], [7, 8, 9], [0, 1, 2]],
        [[True, True, True], [True, False, False], [False, False, False], [True, True, True]],
    )
    assert got_BG[:3].tolist() == [[0, 0, 0]] * 3
    assert has_spread_B.tolist() == [False, False, False, True]


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="'std'"):
        advantages([[1, 2]], normalisation="std")


@given(arrays(np.float64, (3, 5), elements=st.integers(-8, 8).map(lambda i: i / 2)), st.integers(-4, 4))
def test_a_base_reward_cancels(rewards_BG, base):
    is_valid_BG = np.ones(rewards_BG.shape, np.bool_)
    for normalisation in ("group-std", "none"):
        plain, _ = group_advantages(rewards_BG, is_valid_BG, normalisation=normalisation)
        shifted, _ = group_advantages(rewards_BG + base, is_valid_BG, normalisation=normalisation)
        np.testing.assert_allclose(plain, shifted, atol=1e-6)
        np.testing.assert_allclose(plain.sum(1), 0, atol=1e-5)
