"""What the stages of the schedule and the rest of the configuration ask of each other."""

from collections.abc import Iterator

from fxray.config.problem import Problem
from fxray.config.schedule import load_stages
from fxray.config.tree import Config
from fxray.counts import counted


def warmup_problems(config: Config, num_train: int) -> Iterator[Problem]:
    """A stage that ends before it has the full rate; one that is given in epochs is passed over without `num_train`.

    Args:
        config: The whole tree.
        num_train: Rows of the training split, 0 where they are not known yet.

    Raises:
        ConfigError: The reward schedule cannot be read.
    """
    grpo = config.grpo
    for stage in load_stages(grpo.schedule):
        num_steps = stage.num_steps(grpo.steps_per_stage, num_train, grpo.prompts_per_step)
        is_known = bool(grpo.steps_per_stage or stage.steps or num_train)
        if is_known and 0 < grpo.warmup_steps >= num_steps:
            steps = counted(num_steps, "step")
            bound = f"must be below the {steps} of stage {stage.name}, or the full rate is never reached"
            yield Problem("grpo.warmup_steps", str(grpo.warmup_steps), bound, "lower grpo.warmup_steps")
            return


def own_reward_problems(config: Config) -> Iterator[Problem]:
    """A reward that would count twice, and a stage that weighs one which is none.

    Raises:
        ConfigError: The reward schedule cannot be read.
    """
    paths = [function.path for function in config.reward.functions]
    known = ", ".join(paths) or "empty"
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        yield Problem("reward.functions", known, f"names {twice[0]} more than once", "name it once, with one weight")
    for stage in load_stages(config.grpo.schedule):
        for path in sorted(stage.rewards.functions.keys() - set(paths)):
            yield Problem(
                "grpo.schedule",
                config.grpo.schedule,
                f"gives {path} a weight in stage {stage.name}, which is none of reward.functions ({known})",
                "name it there too, or mend its path",
            )
