"""From the configuration tree to the plain values that stages, learner and engines are made of."""

from fxray.config.schedule import Stage
from fxray.config.tree import Config
from fxray.grpo.loop import StagePlan
from fxray.grpo.types import SamplingSettings, UpdateSettings
from rewards.custom import CustomReward
from rewards.stage import RightWrong, StageRewards

GREEDY_TEMPERATURE = 0.0


def plan_stage(config: Config, stage: Stage, num_samples: int) -> StagePlan:
    """The plan of one stage.

    Args:
        config: The whole tree.
        stage: A stage of the schedule; what it leaves open comes from `config.grpo`.
        num_samples: Rows of the training split, for stages that are given in epochs.
    """
    grpo = config.grpo
    max_new_tokens = stage.max_new_tokens or grpo.max_new_tokens
    return StagePlan(
        name=stage.name,
        rewards=stage_rewards(config, stage),
        num_steps=stage.num_steps(grpo.steps_per_stage, num_samples, grpo.prompts_per_step),
        sampling=SamplingSettings(grpo.group_size, grpo.temperature, max_new_tokens),
        update=UpdateSettings(
            learning_rate=stage.learning_rate or grpo.learning_rate,
            temperature=grpo.temperature,
            clip_low=grpo.clip_low,
            clip_high=grpo.clip_high,
            kl_beta=grpo.kl_beta,
            kl_without_spread=grpo.kl_without_spread,
            loss_aggregation=grpo.loss_aggregation,
            importance_cap=grpo.importance_cap,
            num_updates=grpo.num_updates_per_batch,
            max_new_tokens=max_new_tokens,
        ),
        warmup_steps=grpo.warmup_steps,
        rate_decay=grpo.rate_decay,
        normalisation=grpo.advantage_normalisation,
        probe_every_steps=config.rollout.probe_every_steps,
        probe_tolerance_nats=config.rollout.probe_tolerance_nats,
        max_staleness=grpo.max_staleness,
    )


def greedy(config: Config) -> SamplingSettings:
    """How evaluation and detection draw their one answer."""
    return SamplingSettings(1, GREEDY_TEMPERATURE, config.evaluate.max_new_tokens, asks_probability=True)


def stage_rewards(config: Config, stage: Stage) -> StageRewards:
    """The reward weights of a stage, and the user's own rewards."""
    weights = stage.rewards.model_dump(exclude={"functions"}) | {
        "label": RightWrong(stage.rewards.label.right, stage.rewards.label.wrong),
        "format": RightWrong(stage.rewards.format.right, stage.rewards.format.wrong),
    }
    own = stage.rewards.functions
    custom = tuple(CustomReward(each.path, own.get(each.path, each.weight)) for each in config.reward.functions)
    return StageRewards(name=stage.name, custom=custom, view=config.data.view, **weights)
