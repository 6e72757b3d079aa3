"""The GRPO loop of one stage: publish, generate, score, advantages, update, log, save. It knows four ports and no Ray.

    draw(step) ─► publisher ─► generator ─► scorer ─► advantages ─► learner ─► observe, save
       rows        proves v     policy v     rewards     (pure)      v + 1
    └────────────── fxray/grpo/sampler.py ────────┘

Each phase waits for the one before it, so sampling is on-policy, unless `max_staleness` lets the sampler run ahead by
that many steps. What a step draws, and from which policy, depends on (seed, stage, step) alone, so a run that is
continued at step t is the run that never stopped.

Deviations from GRPO as published (DeepSeekMath, section 4.1): tokens carry a truncated importance weight between
learner and sampler; a group without spread in its rewards gives no policy gradient, and keeps its KL term unless
`UpdateSettings.kl_without_spread` is false.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxray.errors import SyncError
from fxray.grpo.advantage import group_advantages
from fxray.grpo.ports import Generator, Learner, Publisher, Scorer
from fxray.grpo.sampler import Sampled, Sampler
from fxray.grpo.types import (
    GroupScore,
    PolicyBlob,
    PromptGroup,
    RolloutGroup,
    SamplingSettings,
    TrainingGroup,
    UpdateSettings,
    Validation,
)
from fxray.schema import Verdict
from rewards.stage import StageRewards

FACT_METRICS = {"is_right": "accuracy", "is_strict": "parse_rate", "union_iou": "iou", "num_boxes": "boxes_per_answer"}
"""What the scores know of an answer, and the name under which its mean is recorded."""
LARGEST_GAP = 10
"""A token may differ by so many times what a probe may show on average; docs/benchmarks.md has what rounding does."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Everything that makes one stage.

    Attributes:
        name: "alpha", "beta", ...
        rewards: Reward weights.
        num_steps: T, number of batches.
        sampling: How answers are drawn.
        update: How they are learnt from; `learning_rate` is the rate after warm-up.
        warmup_steps: Steps in which the rate rises linearly.
        rate_decay: "none", or "linear": after warm-up the rate falls, to reach 0 after the last step.
        normalisation: "group-std" or "none".
        probe_every_steps: Steps between two logprob probes; 0 probes the first and the last policy only.
        probe_tolerance_nats: Mean |difference| of a token that a probe may show; one token may differ by `LARGEST_GAP`
            times as much.
        max_staleness: Policy versions that the answers of a step may be behind the policy that learns from them.
    """

    name: str
    rewards: StageRewards
    num_steps: int
    sampling: SamplingSettings
    update: UpdateSettings
    warmup_steps: int
    rate_decay: str
    normalisation: str
    probe_every_steps: int
    probe_tolerance_nats: float
    max_staleness: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a run stands: `step` batches of `stage` are learnt, and the policy is `policy_version`."""

    stage: str
    step: int
    policy_version: int


@dataclass(frozen=True, slots=True)
class Ports:
    """The four ports that the loop drives."""

    generator: Generator
    scorer: Scorer
    learner: Learner
    publisher: Publisher


def run_stage(
    plan: StagePlan,
    cursor: Cursor,
    ports: Ports,
    *,
    draw: Callable[[int], Sequence[PromptGroup]],
    observe: Callable[[Cursor, dict[str, float]], None],
    save: Callable[[Cursor, Sequence[PolicyBlob]], None],
    past: Sequence[PolicyBlob] = (),
    validation: Validation | None = None,
) -> Cursor:
    """Runs a stage from `cursor` to its end.

    Args:
        plan: The stage.
        cursor: Steps that are done; the learner already holds that policy.
        ports: Generator, scorer, learner, publisher.
        draw: Prompts of a step, a function of the step alone.
        observe: Called after each step with the new cursor and the step's metrics.
        save: Called after each step, also with the older policies that steps to come are drawn from; decides itself
            whether a checkpoint is due.
        past: What `save` was called with at `cursor`.
        validation: Held-out images that are answered now and then; what comes of it is among the step's metrics.

    Returns:
        The cursor at the end of the stage.

    Raises:
        SyncError: The sampler does not sample from the policy that the learner holds.
        DataError: A step without a single readable image.
        CheckpointError: `past` lacks a policy.
    """
    ahead = Sampler(
        ports.generator,
        ports.scorer,
        ports.publisher,
        draw,
        stage=plan.rewards,
        sampling=plan.sampling,
        num_steps=plan.num_steps,
        start_version=cursor.policy_version - cursor.step,
        max_staleness=plan.max_staleness,
    )
    with ahead as sampler:
        for policy in [*past, ports.learner.export_policy(cursor.policy_version)]:
            sampler.offer(policy)
        while cursor.step < plan.num_steps:
            cursor, metrics = _step(sampler, plan, cursor, ports.learner)
            if validation is not None and cursor.step % validation.every_steps == 0:
                metrics |= _validate(sampler, cursor, validation)
            observe(cursor, metrics)
            save(cursor, sampler.past(cursor.step))
        # A step that was trained: what lies beyond may not even be readable.
        prove_policy(ports.learner, sampler.draw_with(cursor.policy_version, plan.num_steps - 1)(), plan)
    return cursor


def _step(sampler: Sampler, plan: StagePlan, cursor: Cursor, learner: Learner) -> tuple[Cursor, dict[str, float]]:
    """Learns from the next answers and offers the policy that comes out; gives the cursor behind it and metrics."""
    start_s = time.monotonic()
    sampled, probe = _take(sampler, plan, cursor, learner)
    taken_s = time.monotonic()
    groups, has_spread_B = with_advantages(sampled.rollouts, sampled.scores, plan.normalisation)
    rate = _rate(plan, cursor.step)
    metrics = probe | learner.update(groups, replace(plan.update, learning_rate=rate)) | {"learning_rate": rate}
    staleness = cursor.policy_version - sampled.version
    cursor = Cursor(plan.name, cursor.step + 1, cursor.policy_version + 1)
    sampler.offer(learner.export_policy(cursor.policy_version))
    end_s = time.monotonic()
    metrics |= reward_metrics(sampled.rollouts, sampled.scores, has_spread_B)
    metrics |= {f"seconds/{name}": seconds for name, seconds in sampled.seconds.items()}
    metrics |= {
        "seconds": end_s - start_s,
        "seconds/wait": taken_s - start_s,
        "seconds/update": end_s - taken_s,
        "policy_version": float(cursor.policy_version),
        "staleness": float(staleness),
    }
    metrics["tokens_per_s"] = metrics["num_tokens"] / metrics["seconds"]
    return cursor, metrics


def _validate(sampler: Sampler, cursor: Cursor, validation: Validation) -> dict[str, float]:
    """What the present policy's answers to held-out images show, by the names of a step's own means."""
    sampled = sampler.validate(cursor.policy_version, cursor.step - 1, validation)
    metrics = {"validation/seconds": sampled.seconds["validation"]}
    if sampled.scores:
        means = reward_metrics(sampled.rollouts, sampled.scores, np.zeros(len(sampled.scores), dtype=bool))
        metrics |= {f"validation/{name}": value for name, value in means.items() if not name.startswith("num_groups")}
    return metrics


def _take(sampler: Sampler, plan: StagePlan, cursor: Cursor, learner: Learner) -> tuple[Sampled, dict[str, float]]:
    """The answers of the next step, and what a probe of the present policy shows if one is due."""
    if not _is_probe_due(plan, cursor.step):
        return sampler.take(cursor.step), {}
    if plan.max_staleness == 0 or cursor.step == 0:  # the step's own answers are the present policy's
        sampled = sampler.take(cursor.step)
        return sampled, prove_policy(learner, sampled.rollouts, plan)
    drawn = sampler.draw_with(cursor.policy_version, cursor.step)
    sampled = sampler.take(cursor.step)
    return sampled, prove_policy(learner, drawn(), plan)


def with_advantages(
    rollouts: Sequence[RolloutGroup], scores: Sequence[GroupScore], normalisation: str
) -> tuple[list[TrainingGroup], NDArray[np.bool_]]:
    """Joins answers and scores into groups for the learner.

    Returns:
        The groups, and bool [B]: whether a group has spread in its rewards.
    """
    rewards_BG = np.stack([score.rewards_G for score in scores])
    is_valid_BG = np.stack([score.is_valid_G for score in scores])
    advantages_BG, has_spread_B = group_advantages(rewards_BG, is_valid_BG, normalisation=normalisation)
    groups = [
        TrainingGroup(group, advantages_G, is_valid_G)
        for group, advantages_G, is_valid_G in zip(rollouts, advantages_BG, is_valid_BG, strict=True)
    ]
    return groups, has_spread_B


def prove_policy(learner: Learner, rollouts: Sequence[RolloutGroup], plan: StagePlan) -> dict[str, float]:
    """Compares the sampler's log-probabilities of real answers with the learner's.

    Returns:
        The gap in nats, as metrics: "probe_gap_nats" of the token that differs most, and "probe_mean_nats".

    Raises:
        SyncError: The mean is above the plan's tolerance, or a token is above `LARGEST_GAP` times as much.
    """
    gap, most_nats = learner.probe(rollouts[:2], plan.sampling.temperature), plan.probe_tolerance_nats
    if not (gap.mean_nats <= most_nats and gap.largest_nats <= LARGEST_GAP * most_nats):
        raise SyncError(
            f"the sampler's log-probabilities differ from the learner's by {gap.mean_nats:.2e} nats on average "
            f"and {gap.largest_nats:.2e} at most, more than {most_nats:.0e} (rollout.probe_tolerance_nats) or "
            f"{LARGEST_GAP * most_nats:.0e}",
            where=f"stage {plan.name}, policy version {rollouts[0].policy_version}",
            remedy="the engine does not sample from the published policy: nothing learnt after the last checkpoint "
            "can be trusted; check the engine's support for this model with `fxray doctor`",
        )
    return {"probe_gap_nats": gap.largest_nats, "probe_mean_nats": gap.mean_nats}


def reward_metrics(
    rollouts: Sequence[RolloutGroup], scores: Sequence[GroupScore], has_spread_B: NDArray[np.bool_]
) -> dict[str, float]:
    """Means over the valid answers of a step, and what was left out; `iou` counts generated images alone."""
    is_valid_N = np.concatenate([score.is_valid_G for score in scores])
    is_generated_N = np.concatenate(
        [np.full(len(group.rollouts), group.prompt.annotation.verdict is Verdict.GENERATED) for group in rollouts]
    )

    def mean(arrays: list[NDArray[Any]], is_counted_N: NDArray[np.bool_] = is_valid_N) -> float:
        values_N = np.concatenate(arrays)[is_counted_N]
        return float(values_N.mean()) if values_N.size else float("nan")

    answers = [rollout for group in rollouts for rollout in group.rollouts]
    num_tokens = [len(answer.token_ids) for answer in answers]
    metrics = {"reward": mean([score.rewards_G for score in scores])}
    metrics |= {f"reward/{part}": mean([score.parts[part] for score in scores]) for part in scores[0].parts}
    for fact, name in FACT_METRICS.items():
        if fact in scores[0].facts:
            is_counted_N = is_valid_N & is_generated_N if fact == "union_iou" else is_valid_N
            metrics[name] = mean([score.facts[fact] for score in scores], is_counted_N)
    if "is_right" in scores[0].facts:
        is_right = [score.facts["is_right"] for score in scores]
        metrics["accuracy_real"] = mean(is_right, is_valid_N & ~is_generated_N)
        metrics["accuracy_generated"] = mean(is_right, is_valid_N & is_generated_N)
    return metrics | {
        "num_tokens": float(sum(num_tokens)),
        "answer_tokens": float(np.mean(num_tokens)),
        "unfinished_frac": float(np.mean([not answer.is_finished for answer in answers])),
        "num_masked": float((~is_valid_N).sum()),
        "num_groups": float(len(rollouts)),
        "num_groups_without_spread": float((~has_spread_B).sum()),
    }


def _is_probe_due(plan: StagePlan, step: int) -> bool:
    return step == 0 or (plan.probe_every_steps > 0 and step % plan.probe_every_steps == 0)


def _rate(plan: StagePlan, step: int) -> float:
    if step < plan.warmup_steps:
        return plan.update.learning_rate * (step + 1) / (plan.warmup_steps + 1)
    left = (plan.num_steps - step) / (plan.num_steps - plan.warmup_steps)
    return plan.update.learning_rate * (left if plan.rate_decay == "linear" else 1.0)
