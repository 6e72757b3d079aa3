"""Owners take turns."""

from fxray.serve.turns import Turns


def test_owners_take_turns_and_each_ones_work_keeps_its_order() -> None:
    turns = Turns[str]()
    assert turns.take() is None
    turns.add("ana", ["a1", "a2", "a3"])
    taken = [turns.take()]
    turns.add("ben", ["b1"])
    turns.add("ana", ["a4"])
    taken += [turns.take() for _ in range(4)]
    assert taken == ["a1", "a2", "b1", "a3", "a4"]
    turns.add("ben", ["b2"])
    assert [turns.take(), turns.take()] == ["b2", None]


def test_who_comes_late_is_next_but_for_one() -> None:
    turns = Turns[str]()
    turns.add("ana", ["a"] * 1000)
    turns.add("ben", ["b"] * 1000)
    for _ in range(100):
        turns.take()
    turns.add("eve", ["e"])
    assert "e" in [turns.take() for _ in range(3)]
