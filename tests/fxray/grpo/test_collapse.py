"""Warnings of a policy that says one thing whatever it sees, or of groups that teach nothing."""

import math

import pytest

from fxray.grpo.collapse import PATIENCE_STEPS, CollapseWatch


def step(
    real: float = 0.9, generated: float = 0.8, num_without_spread: int = 4, parse_rate: float = 0.9
) -> dict[str, float]:
    return {
        "parse_rate": parse_rate,
        "accuracy_real": real,
        "accuracy_generated": generated,
        "num_groups": 24.0,
        "num_groups_without_spread": float(num_without_spread),
    }


def told(*steps: dict[str, float]) -> list[list[str]]:
    watch = CollapseWatch()
    return [watch.look(each) for each in steps]


@pytest.mark.parametrize(
    "metrics", [step(), step(1.0, 1.0), step(0.96, 0.0), step(1.0, 0.06), step(1.0, 0.9, 21, 0.06)]
)
def test_a_sound_stage_is_not_spoken_of(metrics: dict[str, float]) -> None:
    assert told(*[metrics] * 20) == [[]] * 20


@pytest.mark.parametrize(("metrics", "says"), [
    (step(0.97, 0.05), "say real: 5% of those to generated images are right"),
    (step(1.0, 0.02), "say real: 2% of those to generated images are right"),
    (step(0.01, 0.98), "say generated: 1% of those to real images are right"),
    (step(num_without_spread=22), "in 22 of the 24 groups"),
    (step(num_without_spread=9) | {"num_groups": 10.0}, "in 9 of the 10 groups"),
    (step(0.0, 0.0, 24, 0.05), "5% of the answers of a step can be read"),
    (step(0.0, 0.0, 24, 0.04), "4% of the answers of a step can be read"),
])  # fmt: skip
def test_a_trouble_that_stays_is_told_once(metrics: dict[str, float], says: str) -> None:
    texts = told(*[metrics] * (PATIENCE_STEPS + 5))
    assert [len(each) for each in texts] == [0] * (PATIENCE_STEPS - 1) + [1] + [0] * 5
    assert says in texts[PATIENCE_STEPS - 1][0]


def test_a_trouble_that_comes_back_is_told_again() -> None:
    away = [step(1.0, 0.0)] * PATIENCE_STEPS
    assert [len(each) for each in told(*away, step(), *away)] == [0, 0, 1, 0, 0, 0, 1]


def test_two_troubles_are_both_told() -> None:
    assert len(told(*[step(1.0, 0.0, 24)] * PATIENCE_STEPS)[-1]) == 2


def test_steps_with_images_of_one_kind_say_nothing() -> None:
    assert told(*[step(1.0, math.nan)] * 5) == [[]] * 5


def test_answers_that_cannot_be_read_are_no_verdict() -> None:
    assert told(*[step(0.0, 0.0)] * 5) == [[]] * 5
