"""Stages of a schedule against the rest of the configuration."""

import pytest

from fxray.config.limits import check
from fxray.config.load import load_config
from fxray.config.schedule import load_stages
from fxray.config.stage_limits import warmup_problems
from fxray.launch.plan import plan_stage

ONE_STAGE = """
stages:
  - name: short
    %s
    rewards: {w_iou: 1.0, label: {right: 1.0, wrong: -1.0}, format: {right: 2.0, wrong: -1.0}}
"""


@pytest.mark.parametrize(
    ("length", "num_train", "num_steps", "said"),
    [
        ("steps: 5", 0, 5, "5 steps"),
        ("steps: 5", 900, 5, "5 steps"),
        ("epochs: 1", 480, 20, "20 steps"),
        ("steps: 1", 0, 1, "1 step"),
    ],
)
def test_a_stage_that_never_has_the_full_rate_is_named(tmp_path, length, num_train, num_steps, said):
    schedule = tmp_path / "mine.yaml"
    schedule.write_text(ONE_STAGE % length)
    overrides = ["grpo.steps_per_stage=0", f"grpo.schedule={schedule}"]
    enough = load_config("tiny", [*overrides, f"grpo.warmup_steps={num_steps - 1}"])
    assert list(warmup_problems(enough, num_train)) == []
    (problem,) = warmup_problems(load_config("tiny", [*overrides, f"grpo.warmup_steps={num_steps}"]), num_train)
    assert problem.bound.startswith(f"must be below the {said} of stage short")


def test_epochs_of_data_that_are_not_open_yet_are_passed_over():
    config = load_config("tiny", ["grpo.steps_per_stage=0", "grpo.warmup_steps=100000"])
    assert list(warmup_problems(config, 0)) == []
    assert list(warmup_problems(config, 480))


OWN = "reward.functions=[{path: 'mine:calm', weight: 0.5}, {path: 'mine:brief', weight: 2.0}]"


def test_a_stage_may_weigh_rewards_of_ones_own_otherwise(tmp_path):
    schedule = tmp_path / "mine.yaml"
    schedule.write_text((ONE_STAGE % "steps: 5").replace("w_iou: 1.0", "w_iou: 1.0, functions: {'mine:calm': 0}"))
    config = load_config("tiny", [f"grpo.schedule={schedule}", OWN])
    (stage,) = load_stages(schedule)
    assert check(config) == []
    weights = {reward.path: reward.weight for reward in plan_stage(config, stage, num_samples=8).rewards.custom}
    assert weights == {"mine:calm": 0.0, "mine:brief": 2.0}


def test_a_reward_that_is_named_twice_is_a_problem():
    (problem,) = check(load_config("tiny", ["reward.functions=[{path: 'mine:calm'}, {path: 'mine:calm', weight: 2}]"]))
    assert (problem.field, problem.bound) == ("reward.functions", "names mine:calm more than once")


def test_a_weight_for_a_reward_that_is_not_there_is_a_problem(tmp_path):
    schedule = tmp_path / "mine.yaml"
    schedule.write_text((ONE_STAGE % "steps: 5").replace("w_iou: 1.0", "w_iou: 1.0, functions: {'mine:clam': 0}"))
    (problem,) = check(load_config("tiny", [f"grpo.schedule={schedule}", OWN]))
    assert problem.bound == (
        "gives mine:clam a weight in stage short, which is none of reward.functions (mine:calm, mine:brief)"
    )
