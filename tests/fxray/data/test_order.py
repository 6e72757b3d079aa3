"""Order of rows: every epoch visits each row once, and a step depends on nothing but its number."""

from fxray.data.order import derived_seed, rows_of_step


def visited(num_steps: int, **kwargs) -> list[tuple[int, int]]:
    return [row for step in range(num_steps) for row in rows_of_step(7, "alpha", step=step, **kwargs)]


def test_each_epoch_visits_every_row_once() -> None:
    rows = visited(5, num_rows=10, batch_size=4)
    assert [epoch for epoch, _ in rows] == [0] * 10 + [1] * 10
    assert sorted(row for _, row in rows[:10]) == list(range(10))
    assert sorted(row for _, row in rows[10:]) == list(range(10))
    assert rows[:10] != [(0, row) for _, row in rows[10:]]


def test_a_batch_may_be_larger_than_the_dataset() -> None:
    rows = rows_of_step(7, "alpha", num_rows=3, batch_size=7, step=0)
    assert [epoch for epoch, _ in rows] == [0, 0, 0, 1, 1, 1, 2]


def test_stages_and_seeds_have_their_own_order() -> None:
    orders = {
        tuple(rows_of_step(seed, name, num_rows=50, batch_size=50, step=0))
        for seed in (0, 1)
        for name in ("alpha", "beta")
    }
    assert len(orders) == 4


def test_derived_seeds_are_fixed_for_good() -> None:
    assert derived_seed(0, "alpha", 3) == derived_seed(0, "alpha", 3) != derived_seed(0, "alph", "a3")
    assert derived_seed(0) == 3456079177858693020
