from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fxray.data.strata import draw_rows

STRATA = {
    "big": [(k, f"b{k}") for k in range(60)],
    "small": [(k, f"s{k}") for k in range(60, 100)],
}


def test_each_stratum_has_its_share():
    rows = draw_rows(STRATA, fraction=0.1, seed=0)
    assert Counter(row < 60 for row in rows) == {True: 6, False: 4}
    assert rows == draw_rows(STRATA, fraction=0.1, seed=0)
    assert rows != draw_rows(STRATA, fraction=0.1, seed=1)


def test_what_is_left_goes_to_the_largest_remainders():
    strata = {"a": [(k, f"a{k}") for k in range(11)], "b": [(k, f"b{k}") for k in range(11, 30)]}
    for seed in range(8):  # 1.1 and 1.9 of three
        rows = draw_rows(strata, fraction=0.1, seed=seed)
        assert (sum(row < 11 for row in rows), len(rows)) == (1, 3)


def test_equal_remainders_are_settled_by_lot():
    strata = {"a": [(0, "a0"), (1, "a1")], "b": [(2, "b2"), (3, "b3")]}
    drawn = {tuple(draw_rows(strata, fraction=0.25, seed=seed)) for seed in range(40)}  # one of two halves
    assert drawn == {(0,), (1,), (2,), (3,)}


def test_the_order_of_the_rows_does_not_matter():
    ids = {row: name for members in STRATA.values() for row, name in members}
    drawn = {ids[row] for row in draw_rows(STRATA, fraction=0.25, seed=3)}
    renumbered = {key: [(99 - row, name) for row, name in reversed(members)] for key, members in STRATA.items()}
    ids = {row: name for members in renumbered.values() for row, name in members}
    assert {ids[row] for row in draw_rows(renumbered, fraction=0.25, seed=3)} == drawn


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.floats(0.01, 1), st.integers(0, 5))
def test_the_whole_is_rounded_up_and_no_stratum_is_off_by_one(sizes, fraction, seed):
    strata, start = {}, 0
    for key, size in enumerate(sizes):
        strata[key] = [(start + k, f"{key}-{k}") for k in range(size)]
        start += size
    rows = draw_rows(strata, fraction=fraction, seed=seed)
    assert len(set(rows)) == len(rows)
    assert fraction * start - 1e-6 <= len(rows) < fraction * start + 1
    for members in strata.values():
        num_drawn = len({row for row, _ in members} & set(rows))
        assert abs(num_drawn - fraction * len(members)) < 1 + 1e-9
