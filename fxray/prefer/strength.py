"""The maths of pairwise votes: shares with intervals, Bradley-Terry scores (Hunter 2004).

Legend: B resamples, V votes, K sources. Neutral votes are left out, as in the paper. Votes of one rater are alike, and
so are votes on one image, so whole raters or whole images are drawn anew, never single votes.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fxray.evaluate.bootstrap import resamples

_Z = 1.959964
"""Two-sided 95 % of the normal distribution."""
PRIOR_VOTES = 0.5
"""Added to each side of each pair of sources that was compared: scores stay finite where one side won every vote."""
_MAX_STEPS, _TOLERANCE = 5000, 1e-9


def wilson(num_won: float, num_votes: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; NaN without votes.

    Args:
        num_won: Votes won.
        num_votes: Of so many.
    """
    if num_votes == 0:
        return math.nan, math.nan
    share, z2 = num_won / num_votes, _Z**2
    centre = (share + z2 / (2 * num_votes)) / (1 + z2 / num_votes)
    half = _Z * math.sqrt(share * (1 - share) / num_votes + z2 / (4 * num_votes**2)) / (1 + z2 / num_votes)
    return max(0.0, centre - half), min(1.0, centre + half)


def resampled_wins(
    winners_V: NDArray[np.int64],
    losers_V: NDArray[np.int64],
    clusters: Sequence[str],
    *,
    num_sources: int,
    num_bootstrap: int,
    seed: int,
) -> NDArray[np.float64]:
    """How often each source won over each other one, in B resamples of clusters of votes.

    Args:
        winners_V: Index of the source that won each vote.
        losers_V: Of the one that lost.
        clusters: What each vote belongs to: its rater, or its image.
        num_sources: K.
        num_bootstrap: B.
        seed: Of the resamples.

    Returns:
        float64 [B, K, K]; row won over column.
    """
    names, cluster_V = np.unique(np.array(clusters), return_inverse=True)
    wins_by_cluster = np.zeros((len(names), num_sources**2))
    np.add.at(wins_by_cluster, (cluster_V, winners_V * num_sources + losers_V), 1.0)
    draws = [counts_bC @ wins_by_cluster for counts_bC in resamples(len(names), num_bootstrap, seed)]
    return np.concatenate(draws).reshape(num_bootstrap, num_sources, num_sources)


def bradley_terry(wins_BKK: NDArray[np.float64], is_compared_KK: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scores such that the log-odds of winning are the difference of two scores.

    Minorisation and maximisation (Hunter 2004), on the wins with `PRIOR_VOTES` added to both sides.

    Args:
        wins_BKK: Row won over column.
        is_compared_KK: Where two sources were compared at all; symmetric.

    Returns:
        float64 [B, K], mean 0; NaN where not every source is linked to every other by comparisons.
    """
    num_sources = len(is_compared_KK)
    if not _is_connected(is_compared_KK):
        return np.full(wins_BKK.shape[:2], np.nan)
    wins_BKK = wins_BKK + PRIOR_VOTES * is_compared_KK
    games_BKK = wins_BKK + wins_BKK.transpose(0, 2, 1)
    won_BK = wins_BKK.sum(axis=2)
    scores_BK = np.zeros((len(wins_BKK), num_sources))
    for _ in range(_MAX_STEPS):
        strength_BK = np.exp(scores_BK)
        next_BK = np.log(won_BK / (games_BKK / (strength_BK[:, :, None] + strength_BK[:, None, :])).sum(axis=2))
        next_BK -= next_BK.mean(axis=1, keepdims=True)
        is_still = np.abs(next_BK - scores_BK).max() < _TOLERANCE
        scores_BK = next_BK
        if is_still:
            break
    return scores_BK


def score_bounds(
    scores_K: NDArray[np.float64], wins_KK: NDArray[np.float64], is_compared_KK: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % bounds of scores from the Fisher information of the votes, which are wide where one side won every vote.

    Args:
        scores_K: From `bradley_terry`.
        wins_KK: Row won over column.
        is_compared_KK: As there.

    Returns:
        Lower and upper bounds, float64 [K]; NaN where there are no scores.
    """
    if not np.isfinite(scores_K).all():
        return scores_K, scores_K
    odds_KK = scores_K[:, None] - scores_K[None, :]
    games_KK = wins_KK + wins_KK.T + 2 * PRIOR_VOTES * is_compared_KK
    weights_KK = games_KK / (2 + 2 * np.cosh(odds_KK))  # votes times the shares of both sides
    information_KK = np.diag(weights_KK.sum(axis=1)) - weights_KK
    half_K = _Z * np.sqrt(np.diag(np.linalg.pinv(information_KK)))
    return scores_K - half_K, scores_K + half_K


def _is_connected(is_compared_KK: NDArray[np.bool_]) -> bool:
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(is_compared_KK, directed=False, return_labels=False)) == 1
