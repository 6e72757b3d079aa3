"""The ways to split: k-fold, fixed parts, one generator (or group of generators) held out.

Every scheme gives folds, and a fold gives each row a part. What all have in common: a cluster (rows that share a source
or look alike) is in one part of a fold, strata are generators, and each part has as many real as generated images.

Legend: N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fxray.counts import counted
from fxray.data.split.assignment import deal, keep_in_proportion
from fxray.errors import DataError

LEFT_OUT, TRAIN, VALIDATION, TEST = range(4)
PART_NAMES = ("left out", "train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Rows:
    """What a scheme needs to know of N rows.

    Attributes:
        is_generated_N: The label.
        keys: Who made each image: generator or, where groups are held out, group.
        clusters_N: Rows of one cluster stay together.
        strata_N: Numbers of (label, generator).
    """

    is_generated_N: NDArray[np.bool_]
    keys: Sequence[str]
    clusters_N: NDArray[np.int64]
    strata_N: NDArray[np.int64]


class Fold(NamedTuple):
    """A name, and the part of each row: int64 [N]."""

    name: str
    parts_N: NDArray[np.int64]


def k_fold(rows: Rows, *, num_folds: int, validation_frac: float, seed: int) -> list[Fold]:
    """Each row is in the test part of one fold."""
    rng = np.random.default_rng((seed, 0))
    tests_N = _deal(rows, np.ones(len(rows.keys), bool), [1 / num_folds] * num_folds, rng)
    return [
        Fold(str(k), _with_validation(rows, np.where(tests_N == k, TEST, TRAIN), validation_frac, rng))
        for k in range(num_folds)
    ]


def fixed(rows: Rows, *, fractions: tuple[float, float, float], seed: int) -> list[Fold]:
    """One fold whose train, validation and test parts have the given shares."""
    parts_N = _deal(rows, np.ones(len(rows.keys), bool), fractions, np.random.default_rng((seed, 0)))
    return [Fold("0", parts_N + TRAIN)]


def leave_one_out(rows: Rows, *, test_frac: float, validation_frac: float, seed: int) -> list[Fold]:
    """One fold per key: the test part has that key's images alone, the training parts have all others'.

    A cluster with images of this and of other keys goes to one side as a whole, `test_frac` of such clusters to the
    test; there its images of the wrong kind are left out.

    Raises:
        DataError: There are fewer than two keys.
    """
    keys_N = np.array(rows.keys)
    names = sorted(set(keys_N[rows.is_generated_N].tolist()))
    if len(names) < 2:
        raise DataError(
            f"the generated images are all of {', '.join(map(repr, names)) or 'no generator'}, so none can be held out",
            remedy="use --scheme k-fold or fixed",
        )
    return [
        Fold(name, _held_out(rows, rows.is_generated_N & (keys_N == name), test_frac, validation_frac, (seed, k)))
        for k, name in enumerate(names)
    ]


def balance(rows: Rows, fold: Fold, seed: int) -> Fold:
    """Leaves out so many rows of the larger class of each part that both are equal, generators in proportion."""
    rng = np.random.default_rng((seed, 1))
    parts_N = fold.parts_N.copy()
    for part in (TRAIN, VALIDATION, TEST):
        classes = [np.flatnonzero((parts_N == part) & (rows.is_generated_N == is_in)) for is_in in (False, True)]
        num_kept = min(map(len, classes))
        for members in classes:
            kept = members[keep_in_proportion(rows.strata_N[members], num_kept, rng)]
            parts_N[np.setdiff1d(members, kept)] = LEFT_OUT
    return Fold(fold.name, parts_N)


def refuse_empty_parts(rows: Rows, folds: Sequence[Fold], *, needs_validation: bool, ignores_source: bool) -> None:
    """Sees to it that every part that is asked for has images of both classes.

    Raises:
        DataError: A class has no image, or a part has none of it for there are too few clusters.
    """
    for is_generated, name in ((False, "real"), (True, "generated")):
        num_clusters = len(np.unique(rows.clusters_N[rows.is_generated_N == is_generated]))
        if num_clusters == 0:
            raise DataError(f"there is no {name} image", where="field label", remedy=f"add {name} images")
        parts = (TRAIN, VALIDATION, TEST) if needs_validation else (TRAIN, TEST)
        lacking = [
            (fold, part)
            for fold in folds
            for part in parts
            if not ((fold.parts_N == part) & (rows.is_generated_N == is_generated)).any()
        ]
        if lacking:
            fold, part = lacking[0]
            bound = "look-alikes" if ignores_source else "rows of one `source`, and look-alikes"
            collections = "" if ignores_source else ", or --ignore-source where `source` names a collection"
            raise DataError(
                f"fold {fold.name!r} has no {name} image in its {PART_NAMES[part]} part: the {name} images form "
                f"{counted(num_clusters, 'cluster')} that must not be cut ({bound})",
                remedy="give more images, fewer folds or larger parts (--folds, --fractions, --validation-frac; "
                f"--validation-frac 0 makes no validation part){collections}",
            )


def _held_out(
    rows: Rows, is_held_N: NDArray[np.bool_], test_frac: float, validation_frac: float, seed: tuple[int, int]
) -> NDArray[np.int64]:
    rng = np.random.default_rng((*seed, 2))
    is_other_N = rows.is_generated_N & ~is_held_N
    has_held_N = np.isin(rows.clusters_N, rows.clusters_N[is_held_N])
    has_other_N = np.isin(rows.clusters_N, rows.clusters_N[is_other_N])
    parts_N = np.where(has_held_N, TEST, TRAIN)
    mixed_N = has_held_N & has_other_N
    parts_N[mixed_N] = TRAIN + (TEST - TRAIN) * _deal(rows, mixed_N, [1 - test_frac, test_frac], rng)
    parts_N[is_held_N & (parts_N == TRAIN)] = LEFT_OUT
    parts_N[is_other_N & (parts_N == TEST)] = LEFT_OUT
    free_N = ~has_held_N & ~has_other_N  # clusters of real images alone fill up both sides
    is_bound_N = ~rows.is_generated_N & ~free_N
    lacking = [
        max(0, int((rows.is_generated_N & (parts_N == part)).sum() - (is_bound_N & (parts_N == part)).sum()))
        for part in (TRAIN, TEST)
    ]
    share = lacking[1] / sum(lacking) if sum(lacking) else test_frac
    parts_N[free_N] = TRAIN + (TEST - TRAIN) * _deal(rows, free_N, [1 - share, share], rng)
    return _with_validation(rows, parts_N, validation_frac, rng)


def _with_validation(
    rows: Rows, parts_N: NDArray[np.int64], validation_frac: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Sets a share of the clusters that train aside for validation."""
    if validation_frac == 0:
        return parts_N
    train_N = parts_N == TRAIN
    aside = _deal(rows, train_N, [1 - validation_frac, validation_frac], rng)
    parts_N[train_N] = np.where(aside == 1, VALIDATION, TRAIN)
    return parts_N


def _deal(
    rows: Rows, is_in_N: NDArray[np.bool_], fractions: Sequence[float], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deals some of the rows by generator and label."""
    strata_NK = np.stack([rows.is_generated_N, rows.strata_N + 2], axis=1).astype(np.int64)
    return deal(rows.clusters_N[is_in_N], strata_NK[is_in_N], fractions, rng)
