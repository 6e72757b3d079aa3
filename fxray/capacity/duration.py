"""Seconds of a step and hours of a run, from arithmetic and bandwidth. Every coefficient is in one place and shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from fxray.capacity.activations import Pass
from fxray.capacity.devices import Gpu
from fxray.capacity.memory import cache_bytes_per_token, grpo_pass, sft_passes
from fxray.capacity.weights import count_weights
from fxray.config.limits import BYTES_PER_NUMBER
from fxray.config.model_shape import ModelShape
from fxray.config.schedule import load_stages, num_sft_steps
from fxray.config.tree import Config


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What the model cannot count. Guesses until they are measured; the plan prints them.

    Attributes:
        learner_mfu: Part of a GPU's arithmetic that the learner's products reach.
        prefill_mfu: The same for an engine reading prompts.
        decode_bandwidth: Part of a GPU's bandwidth that decoding reaches.
        decode_overhead_s: Of one decoding step of an engine, beside reading memory.
        step_overhead_s: Of one GRPO step: rewards, adapter sync, logging.
        answer_frac: Length of a mean answer, of the longest allowed.
    """

    learner_mfu: float = 0.27
    prefill_mfu: float = 0.40
    decode_bandwidth: float = 0.60
    decode_overhead_s: float = 0.006
    step_overhead_s: float = 1.0
    answer_frac: float = 0.4

    def shown(self) -> str:
        """All of them as one line."""
        return ", ".join(f"{field.name} {getattr(self, field.name):g}" for field in fields(self))


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the splits."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True, slots=True)
class Duration:
    """Where the time of a run goes.

    Attributes:
        prefill_s: Of a GRPO step: reading prompts and images.
        decode_s: Writing answers.
        learn_s: The update.
        overhead_s: The rest of the step.
        num_grpo_steps: Over all stages.
        sft_step_s: Of an SFT step.
        num_sft_steps: In all.
        answer_s: Of one image that is answered to evaluate, among many.
        num_answers: Such images: the test split before SFT, after it and after each stage, the validation split after
            the last, and those of `evaluate.validate_every_steps` during the stages.
        overlaps: Engines draw the next answers while the learner learns.
    """

    prefill_s: float
    decode_s: float
    learn_s: float
    overhead_s: float
    num_grpo_steps: int
    sft_step_s: float
    num_sft_steps: int
    answer_s: float
    num_answers: int
    overlaps: bool

    @property
    def step_s(self) -> float:
        """A whole GRPO step: rollout and update take turns, or the longer of them where they overlap."""
        rollout_s = self.prefill_s + self.decode_s + self.overhead_s
        return max(rollout_s, self.learn_s) if self.overlaps else rollout_s + self.learn_s

    @property
    def hours(self) -> float:
        """SFT and all stages, without start and evaluation."""
        return (self.num_grpo_steps * self.step_s + self.num_sft_steps * self.sft_step_s) / 3600

    @property
    def evaluation_hours(self) -> float:
        """Answers that are not trained on."""
        return self.num_answers * self.answer_s / 3600

    @property
    def bottleneck(self) -> str:
        """The longest part of a GRPO step."""
        parts = {"reading prompts": self.prefill_s, "writing answers": self.decode_s, "learning": self.learn_s}
        return max(parts, key=lambda name: parts[name])


def plan_duration(
    config: Config, shape: ModelShape, gpu: Gpu, *, cached_tokens: int, rows: Rows, coefficients: Coefficients
) -> Duration:
    """How long a run takes on these GPUs.

    Args:
        config: The configuration, with GPUs for engines and learner.
        shape: Its base model.
        gpu: Each of the GPUs.
        cached_tokens: Tokens that the cache of one engine holds.
        rows: Of the splits.
        coefficients: What is assumed.
    """
    longest = grpo_pass(config)
    answer = max(1, round(longest.answer_tokens * coefficients.answer_frac))
    groups = config.grpo.prompts_per_step
    step = Pass(longest.prompt_tokens, longest.patches, answer, config.grpo.group_size, groups)
    prefill_s, decode_s = _rollout_s(config, shape, gpu, step, cached_tokens, coefficients)
    num_forward = (1 if config.grpo.kl_beta > 0 else 0) + config.grpo.num_updates_per_batch * _passes(config)
    of_rank = replace(step, num_groups=math.ceil(groups / config.learner.num_ranks))  # no group is split
    learner_flops = num_forward * forward_flops(shape, of_rank)
    sft = sft_passes(config)[0]
    sft_step = Pass(
        sft.prompt_tokens,
        sft.patches,
        max(1, round(sft.answer_tokens * coefficients.answer_frac)),
        1,
        config.sft.batch_size,
    )
    speed = gpu.flops * coefficients.learner_mfu
    num_steps = [
        stage.num_steps(config.grpo.steps_per_stage, rows.train, groups) for stage in load_stages(config.grpo.schedule)
    ]
    asked = evaluation_batch(config, step, coefficients)
    return Duration(
        prefill_s=prefill_s,
        decode_s=decode_s,
        learn_s=learner_flops / speed,
        overhead_s=coefficients.step_overhead_s,
        num_grpo_steps=sum(num_steps),
        sft_step_s=_passes(config) * forward_flops(shape, sft_step) / speed / config.sft.num_workers,
        num_sft_steps=num_sft_steps(
            rows.train, epochs=config.sft.epochs, batch_size=config.sft.batch_size, max_steps=config.sft.max_steps
        ),
        answer_s=sum(_rollout_s(config, shape, gpu, asked, cached_tokens, coefficients)) / asked.num_groups,
        num_answers=count_evaluated(config, rows, num_steps),
        overlaps=config.grpo.max_staleness > 0,
    )


def evaluation_batch(config: Config, step: Pass, coefficients: Coefficients) -> Pass:
    """Images that are answered at once to evaluate: as many as all engines take, four times; one answer each."""
    answer = max(1, round(config.evaluate.max_new_tokens * coefficients.answer_frac))
    num_images = 4 * config.rollout.max_num_seqs * config.rollout.num_workers
    return replace(step, answer_tokens=answer, num_answers=1, num_groups=num_images)


def count_evaluated(config: Config, rows: Rows, num_steps: Sequence[int]) -> int:
    """Images that a run answers without learning from them.

    Args:
        config: The configuration.
        rows: Of the splits.
        num_steps: Of each stage.
    """
    evaluate = config.evaluate
    test, validation = (min(evaluate.num_samples or of_split, of_split) for of_split in (rows.test, rows.validation))
    every = evaluate.validate_every_steps
    looks = sum(of_stage // every for of_stage in num_steps) if every else 0
    return (2 + len(num_steps)) * test + validation + looks * min(evaluate.validation_samples, rows.validation)


def forward_flops(shape: ModelShape, size: Pass) -> float:
    """Products of one forward pass over packed groups; a multiply-add is two. Only answers need logits."""
    weights = count_weights(shape)
    head = shape.vocab_size * shape.hidden_size
    products = 2.0 * (
        weights.language * size.tokens + weights.vision * size.num_groups * size.patches + head * size.learnt_tokens
    )
    width = shape.num_attention_heads * shape.head_size
    seen_by_prompt = size.prompt_tokens**2 / 2
    seen_by_answers = size.num_answers * size.answer_tokens * (size.prompt_tokens + size.answer_tokens / 2)
    seen = size.num_groups * (seen_by_prompt + seen_by_answers)
    return products + 4.0 * shape.num_hidden_layers * width * seen


def _passes(config: Config) -> int:
    """Forward passes that one update costs: the backward pass to frozen weights is as long as one, to others as two."""
    backward = 2 if config.model.lora is None else 1
    return 1 + backward + config.model.gradient_checkpointing


def _rollout_s(
    config: Config, shape: ModelShape, gpu: Gpu, step: Pass, cached_tokens: int, coefficients: Coefficients
) -> tuple[float, float]:
    """Seconds of an engine for its share of the groups: prompts once each, then answers in even batches."""
    rollout = config.rollout
    ranks = max(1, int(rollout.gpus_per_worker))
    groups = math.ceil(step.num_groups / rollout.num_workers)
    prompts = Pass(step.prompt_tokens, step.patches, 0, 0, groups)
    prefill_s = forward_flops(shape, prompts) / (gpu.flops * coefficients.prefill_mfu * ranks)
    num_sequences = groups * step.num_answers
    length = step.prompt_tokens / step.num_answers + step.answer_tokens  # a group shares its prompt's keys
    at_once = max(1, min(rollout.max_num_seqs, num_sequences, int(cached_tokens / length)))
    weights = count_weights(shape).total * BYTES_PER_NUMBER[config.model.dtype] / ranks
    keys = num_sequences * (step.prompt_tokens + step.answer_tokens / 2) * cache_bytes_per_token(config, shape)
    num_batches, speed = math.ceil(num_sequences / at_once), gpu.bandwidth * coefficients.decode_bandwidth
    of_token = (num_batches * weights + keys) / speed + num_batches * coefficients.decode_overhead_s
    return prefill_s, step.answer_tokens * of_token
