"""Folds of rows that are written down by hand: who is held out, and where real images go."""

from collections import Counter

import numpy as np
import pytest

from fxray.data.split.plan import counts
from fxray.data.split.schemes import (
    LEFT_OUT,
    TEST,
    TRAIN,
    VALIDATION,
    Fold,
    Rows,
    balance,
    fixed,
    k_fold,
    leave_one_out,
)


def rows_of(*kinds: tuple[str, int, int]) -> Rows:
    """So many rows of each key, "real" among them; those with a number above 0 share clusters with others of it."""
    keys = [key for key, num, _ in kinds for _ in range(num)]
    bound = [(first, i) for _, num, first in kinds for i in range(num)]
    alone = iter(range(10_000, 20_000))
    clusters = np.array([first + i if first else next(alone) for first, i in bound], np.int64)
    is_generated = np.array([key != "real" for key in keys])
    return Rows(is_generated, keys, clusters, np.unique(keys, return_inverse=True)[1])


def placed(rows: Rows, fold: Fold) -> dict[int, Counter[str]]:
    return {
        part: Counter(key for key, p in zip(rows.keys, fold.parts_N, strict=True) if p == part)
        for part in (LEFT_OUT, TRAIN, VALIDATION, TEST)
    }


@pytest.mark.parametrize("seed", range(3))
def test_real_images_fill_up_what_generated_ones_lack_on_both_sides(seed: int) -> None:
    rows = rows_of(("a", 20, 0), ("b", 60, 0), ("real", 80, 0))
    folds = {fold.name: fold for fold in leave_one_out(rows, test_frac=0.5, validation_frac=0, seed=seed)}
    assert placed(rows, folds["a"]) == {
        LEFT_OUT: {}, TRAIN: {"b": 60, "real": 60}, VALIDATION: {}, TEST: {"a": 20, "real": 20},
    }  # fmt: skip
    assert placed(rows, folds["b"])[TEST] == {"b": 60, "real": 60}


def test_real_images_that_are_bound_to_a_side_count_there_first() -> None:
    rows = rows_of(("a", 20, 1), ("real", 20, 1), ("b", 60, 0), ("real", 60, 0))  # each of a is of one of the first 20
    (of_a, of_b) = leave_one_out(rows, test_frac=0.5, validation_frac=0, seed=0)
    assert placed(rows, of_a) == {
        LEFT_OUT: {},
        TRAIN: {"b": 60, "real": 60},
        VALIDATION: {},
        TEST: {"a": 20, "real": 20},
    }
    assert placed(rows, of_b) == {
        LEFT_OUT: {},
        TRAIN: {"a": 20, "real": 20},
        VALIDATION: {},
        TEST: {"b": 60, "real": 60},
    }


def test_real_images_that_neither_side_lacks_are_shared_out() -> None:
    rows = rows_of(("a", 12, 1), ("real", 12, 1), ("b", 12, 101), ("real", 12, 101), ("real", 8, 0))
    fold = leave_one_out(rows, test_frac=0.25, validation_frac=0, seed=0)[0]
    assert placed(rows, fold)[TEST] == {"a": 12, "real": 12 + 2}
    assert placed(rows, fold)[TRAIN] == {"b": 12, "real": 12 + 6}


def test_a_real_image_that_names_a_generator_is_not_held_out_with_it() -> None:
    rows = rows_of(("a", 12, 0), ("b", 12, 0), ("real", 24, 0))
    named = Rows(
        rows.is_generated_N, ["a" if key == "real" else key for key in rows.keys], rows.clusters_N, rows.strata_N
    )
    for fold in leave_one_out(named, test_frac=0.25, validation_frac=0, seed=0):
        assert counts(fold, rows.is_generated_N) == {
            "train": (12, 12), "validation": (0, 0), "test": (12, 12), "left out": (0, 0),
        }  # fmt: skip


def test_of_clusters_with_both_a_share_goes_to_the_test_and_the_wrong_images_are_left_out() -> None:
    rows = rows_of(("a", 40, 1), ("b", 40, 1), ("real", 40, 1), ("b", 10, 0))
    fold = leave_one_out(rows, test_frac=0.25, validation_frac=0, seed=0)[0]
    assert placed(rows, fold) == {
        LEFT_OUT: {"a": 30, "b": 10}, TRAIN: {"b": 40, "real": 30}, VALIDATION: {}, TEST: {"a": 10, "real": 10},
    }  # fmt: skip
    held = {int(c) for c, p in zip(rows.clusters_N, fold.parts_N, strict=True) if p == TEST}
    assert not held & {int(c) for c, p in zip(rows.clusters_N, fold.parts_N, strict=True) if p == TRAIN}


def test_parts_and_folds_have_their_shares() -> None:
    rows = rows_of(("a", 40, 0), ("real", 40, 0))
    (fold,) = fixed(rows, fractions=(0.5, 0.25, 0.25), seed=0)
    assert placed(rows, fold) == {
        LEFT_OUT: {}, TRAIN: {"a": 20, "real": 20}, VALIDATION: {"a": 10, "real": 10}, TEST: {"a": 10, "real": 10},
    }  # fmt: skip
    folds = k_fold(rows, num_folds=4, validation_frac=0.2, seed=0)
    assert [fold.name for fold in folds] == ["0", "1", "2", "3"]
    assert all(placed(rows, fold)[TEST] == {"a": 10, "real": 10} for fold in folds)
    assert all(placed(rows, fold)[VALIDATION] == {"a": 6, "real": 6} for fold in folds)
    assert (np.array([fold.parts_N == TEST for fold in folds]).sum(axis=0) == 1).all()


def test_balance_takes_from_the_larger_class_of_each_part_in_proportion() -> None:
    rows = rows_of(("a", 30, 0), ("b", 10, 0), ("real", 20, 0), ("a", 4, 0), ("real", 9, 0))
    fold = balance(rows, Fold("0", np.repeat([TRAIN, TEST], [60, 13])), seed=0)
    assert placed(rows, fold) == {
        LEFT_OUT: {"a": 15, "b": 5, "real": 5}, TRAIN: {"a": 15, "b": 5, "real": 20}, VALIDATION: {},
        TEST: {"a": 4, "real": 4},
    }  # fmt: skip
    assert counts(fold, rows.is_generated_N) == {
        "train": (20, 20), "validation": (0, 0), "test": (4, 4), "left out": (5, 20),
    }  # fmt: skip
