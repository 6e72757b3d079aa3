"""Deals clusters of rows to parts, so that every stratum is spread over the parts as wanted.

A cluster is never cut. scikit-learn's StratifiedGroupKFold does the same for parts of equal size; here the parts may
have any size, and one rule serves every scheme.

Legend: N rows, K strata of a row, C clusters, P parts, S strata.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SAME = 1e-9
"""Costs that differ by less, as a share of the largest, are alike: rounding, which processors do each in their way."""


def deal(
    clusters_N: NDArray[np.int64], strata_NK: NDArray[np.int64], fractions: Sequence[float], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Gives each cluster, large ones first, to the part where it brings all strata nearest to their share.

    The cost of a part is the sum over strata of its squared distance from its share, in units of the stratum's size, so
    that a rare stratum counts as much as a frequent one, and over the strata of its column, so that columns count
    alike. Ties among clusters are ordered by chance.

    Args:
        clusters_N: Cluster of each row.
        strata_NK: Strata of each row, such as its generator and its label, no number in two columns. Small strata leave
            remainders; a coarser one sees to it that these do not all fall to one part.
        fractions: Share of each part; they add up to 1.
        rng: Of the order among clusters of one size.

    Returns:
        Part of each row, int64 [N].
    """
    names, cluster_N, sizes_C = np.unique(clusters_N, return_inverse=True, return_counts=True)
    counts_S = np.bincount(strata_NK.ravel())
    weights_S = np.zeros(len(counts_S))
    for strata_N in strata_NK.T:
        strata = np.unique(strata_N)
        weights_S[strata] = 1 / (counts_S[strata] * len(strata))
    wanted_PS = np.outer(fractions, counts_S)
    held_PS = np.zeros_like(wanted_PS)
    part_C = np.zeros(len(names), np.int64)
    by_cluster = np.argsort(cluster_N, kind="stable")
    ends_C = np.cumsum(sizes_C)
    for c in np.lexsort((rng.permutation(len(names)), -sizes_C)):
        rows = by_cluster[ends_C[c] - sizes_C[c] : ends_C[c]]
        strata, counts = np.unique(strata_NK[rows], return_counts=True)
        rise_PS = counts * (2 * (held_PS[:, strata] - wanted_PS[:, strata]) + counts)
        rise_P = (rise_PS * weights_S[strata]).sum(1)
        part = int((rise_P <= rise_P.min() + SAME * np.abs(rise_P).max()).argmax())
        held_PS[part, strata] += counts
        part_C[c] = part
    return part_C[cluster_N]


def keep_in_proportion(strata_N: NDArray[np.int64], num_kept: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws rows so that every stratum keeps its share.

    Args:
        strata_N: Stratum of each row.
        num_kept: How many rows are drawn, at most N.
        rng: Of the draw.

    Returns:
        Rows, int64 [num_kept], in order.
    """
    order = rng.permutation(len(strata_N))
    position_N = np.empty(len(strata_N))
    for stratum in np.unique(strata_N):
        members = order[strata_N[order] == stratum]
        position_N[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.sort(np.lexsort((order, position_N))[:num_kept])
