"""Counts in messages: of one thing too."""

import pytest

from fxray.counts import counted


@pytest.mark.parametrize(
    ("num", "words", "said"),
    [
        (1, ("row",), "1 row"),
        (0, ("row",), "0 rows"),
        (2, ("box", "boxes"), "2 boxes"),
        (1, ("row is", "rows are"), "1 row is"),
        (2, ("row is", "rows are"), "2 rows are"),
    ],
)
def test_one_of_something_is_said_in_the_singular(num, words, said):
    assert counted(num, *words) == said
