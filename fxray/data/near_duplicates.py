"""Near duplicates: images that look alike whatever their size, format, compression and brightness.

An image's fingerprint is its low frequencies: of the 32 x 32 grey image the first 8 x 8 coefficients of the cosine
transform without the mean, as in a perceptual hash (pHash), but kept as numbers instead of bits, and scaled to length
1, so that contrast and brightness do not matter. Two images are near duplicates where their fingerprints lie closer
than `MAX_LAYOUT_DISTANCE`, and also closer than `MAX_DISTANCE` when each coefficient is weighted by its frequency, so
that fine structure counts as much as the layout of light and dark.

The search is exact. Most of a fingerprint's length is in its leading coefficients, and leaving the others out can only
bring two fingerprints closer: a k-d tree over the leading ones gives candidates, the whole fingerprint decides.

Legend: N images, D = 63 coefficients, P pairs.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE_PX = 32
NUM_COEFFICIENTS = 63
MAX_DISTANCE = 0.3
"""Between two weighted fingerprints; 0 for the same picture, about 1.4 for two that have nothing in common."""
MAX_LAYOUT_DISTANCE = 0.15
"""Between two fingerprints as they are."""
MIN_CONTRAST = 2.0
"""Standard deviation, of 255 grey levels, below which an image is flat: all flat images look alike."""

_LOW = 8
_NUM_LEADING = 10
_BLOCK = 512
_CROWD = 1000


def _frequencies() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Positions of the coefficients in the flattened 8 x 8 corner, lowest frequency first, and their weights."""
    v, u = np.divmod(np.arange(_LOW * _LOW), _LOW)
    radius = np.hypot(u, v)
    order = np.argsort(radius, kind="stable")[1:]
    return order, radius[order]


_ORDER, _WEIGHTS = _frequencies()


def fingerprint(image: Image.Image) -> NDArray[np.float32] | None:
    """What an image looks like.

    Args:
        image: Upright, of any size and mode that converts to grey.

    Returns:
        float32 [D] of length 1; None where the image is flat, and so looks like every other flat one.
    """
    from scipy.fft import dctn

    grey = np.asarray(image.convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX, reducing_gap=2.0), np.float64)
    if grey.std() < MIN_CONTRAST:
        return None
    corner = dctn(grey, norm="ortho")[:_LOW, :_LOW].ravel()
    return _unit(corner[_ORDER]).astype(np.float32)


def near_pairs(prints_ND: NDArray[np.float32]) -> NDArray[np.int64]:
    """Pairs of near duplicates; time grows about as N log N where there are few.

    Where more than a thousand images crowd around one, those within half the distance are not asked for neighbours of
    their own, or a placeholder that stands in for half of the images would take time and memory as N squared. Crowds
    that touch are joined by one pair, so what hangs together does so whichever pairs are left out.

    Args:
        prints_ND: Fingerprints, float32 [N, D].

    Returns:
        int64 [P, 2], the smaller index first, without repetition, sorted.
    """
    from scipy.spatial import cKDTree

    if len(prints_ND) < 2:
        return np.empty((0, 2), np.int64)
    weighted_ND = _unit(prints_ND * _WEIGHTS.astype(np.float32))
    leading = np.ascontiguousarray(prints_ND[:, :_NUM_LEADING], np.float64)
    tree = cKDTree(leading)
    is_settled, crowds = np.zeros(len(prints_ND), bool), list[NDArray[np.int64]]()
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(prints_ND), _BLOCK):
        asked = start + np.flatnonzero(~is_settled[start : start + _BLOCK])
        sizes = tree.query_ball_point(leading[asked], MAX_LAYOUT_DISTANCE, return_length=True)
        for i in asked[sizes > 1]:
            if is_settled[i]:
                continue
            others = np.asarray(tree.query_ball_point(leading[i], MAX_LAYOUT_DISTANCE))
            others = others[others != i]
            apart = _apart(prints_ND, weighted_ND, others, i)
            near = others[apart <= 1]
            if len(near) > _CROWD:
                is_settled[others[apart <= 0.5]] = True
                crowds.append(np.append(others[apart <= 0.5], i))
            found.append(np.column_stack([np.minimum(near, i), np.maximum(near, i)]))
    if len(crowds) > 1:
        linked = components(len(prints_ND), np.concatenate(found).astype(np.int64))
        apart_crowds = ((a, b) for a, b in combinations(crowds, 2) if linked[a[-1]] != linked[b[-1]])
        found += [pair for a, b in apart_crowds for pair in _bridge(prints_ND, weighted_ND, a, b)]
    return np.unique(np.concatenate(found).astype(np.int64), axis=0)


def _apart(
    prints_ND: NDArray[np.float32], weighted_ND: NDArray[np.float32], some: NDArray[np.int64], i: int
) -> NDArray[np.float64]:
    """How far some images are from one, in units of what makes them near duplicates."""
    layout = np.linalg.norm(prints_ND[some] - prints_ND[i], axis=1) / MAX_LAYOUT_DISTANCE
    detail = np.linalg.norm(weighted_ND[some] - weighted_ND[i], axis=1) / MAX_DISTANCE
    return np.asarray(np.maximum(layout, detail), np.float64)


def _bridge(
    prints_ND: NDArray[np.float32], weighted_ND: NDArray[np.float32], a: NDArray[np.int64], b: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """A pair of near duplicates of two crowds, if there is one; of each the centre is last, the others within 0.5."""
    if _apart(prints_ND, weighted_ND, b[-1:], a[-1])[0] > 2:
        return
    to_b, to_a = _apart(prints_ND, weighted_ND, a, b[-1]), _apart(prints_ND, weighted_ND, b, a[-1])
    a, b = a[np.argsort(to_b)][np.sort(to_b) <= 1.5], b[np.argsort(to_a)][np.sort(to_a) <= 1.5]
    for i in a:  # those on the side of the other crowd first, so a pair is found soon
        apart = _apart(prints_ND, weighted_ND, b, i)
        if len(b) and apart.min() <= 1:
            yield np.sort([[i, b[apart.argmin()]]], axis=1)
            return


def _unit(vectors: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Vectors along the last axis scaled to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def components(num: int, pairs_P2: NDArray[np.int64]) -> NDArray[np.int32]:
    """Which connected component each of `num` items is in; numbered in the order of their first items."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs_P2), np.int8), (pairs_P2[:, 0], pairs_P2[:, 1])), shape=(num, num))
    numbers: NDArray[np.int32] = connected_components(links, directed=False)[1]
    return numbers
