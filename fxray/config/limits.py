"""What must hold between the fields of a configuration, and between it and the model: lengths, batches, engines."""

import math
from collections.abc import Iterator

from fxray.config.image_size import TOKEN_PX, most_tokens
from fxray.config.model_shape import ModelShape, read_shape
from fxray.config.problem import Problem
from fxray.config.schedule import load_stages
from fxray.config.stage_limits import own_reward_problems, warmup_problems
from fxray.config.tree import DEFAULT_MODEL, Config

PROMPT_TOKENS = 96
"""What the longest chat template takes beside its image, generously."""
CPU_BLOCK = 32
FLOAT32_TOLERANCE_NATS = 1e-3
BFLOAT16_NOISE_NATS = 0.02
BYTES_PER_NUMBER = {"float32": 4, "bfloat16": 2}


def check(config: Config) -> list[Problem]:
    """Every problem that keeps a valid tree from running well; empty when there is none.

    The model's own limits are looked up where its folder is on this machine.

    Raises:
        ConfigError: The reward schedule cannot be read.
    """
    problems = [
        *_pixels(config),
        *_lengths(config),
        *_batches(config),
        *_engine(config),
        *_scaling(config),
        *_sharing(config),
        *_numerics(config),
        *_whole_weights(config),
        *_staleness(config),
        *_service(config),
        *own_reward_problems(config),
    ]
    shape = read_shape(config.model.path)
    if isinstance(shape, Problem):
        return [*problems, shape]
    return problems if shape is None else [*problems, *_shape(config, shape)]


def image_tokens(config: Config) -> int:
    """Tokens of the largest image that the model is shown."""
    return most_tokens(config.model.min_pixels, config.model.max_pixels, *_sides_px(config))


def _sides_px(config: Config) -> tuple[int, int]:
    """Of a token, and of a tile or 0."""
    shape = read_shape(config.model.path)
    return (shape.vision.token_px, shape.vision.tile_px) if isinstance(shape, ModelShape) else (TOKEN_PX, 0)


def longest_answer(config: Config) -> int:
    """The most tokens that any stage or the evaluation lets an answer have."""
    stages = (stage.max_new_tokens or config.grpo.max_new_tokens for stage in load_stages(config.grpo.schedule))
    return max(config.evaluate.max_new_tokens, *stages)


def _pixels(config: Config) -> Iterator[Problem]:
    model = config.model
    if model.min_pixels > model.max_pixels:
        yield Problem(
            "model.min_pixels",
            str(model.min_pixels),
            f"must be at most model.max_pixels = {model.max_pixels}",
            "lower model.min_pixels or raise model.max_pixels",
        )
    token_px, tile_px = _sides_px(config)
    least = max(token_px, tile_px) ** 2
    if model.max_pixels < least:
        yield Problem(
            "model.max_pixels",
            str(model.max_pixels),
            f"must be at least {least}, the pixels of one {'tile' if tile_px else 'image token'}",
            f"set model.max_pixels to a multiple of {least}",
        )


def _lengths(config: Config) -> Iterator[Problem]:
    image, answer, limit = image_tokens(config), longest_answer(config), config.rollout.max_model_len
    needed = image + PROMPT_TOKENS + answer
    if needed > limit:
        yield Problem(
            "rollout.max_model_len",
            str(limit),
            f"must be at least {needed}: {image} image tokens (model.max_pixels) + {PROMPT_TOKENS} of the prompt "
            f"+ {answer} of the answer",
            f"set rollout.max_model_len to {needed} or more, or lower model.max_pixels or grpo.max_new_tokens",
        )


def _batches(config: Config) -> Iterator[Problem]:
    sft, grpo, learner, rollout, synth = config.sft, config.grpo, config.learner, config.rollout, config.data.synth
    if sft.batch_size % sft.num_workers:
        yield Problem(
            "sft.batch_size",
            str(sft.batch_size),
            f"must be a multiple of sft.num_workers {sft.num_workers}",
            f"set sft.batch_size to {math.ceil(sft.batch_size / sft.num_workers) * sft.num_workers}",
        )
    for field, num_workers in (
        ("learner.num_ranks", learner.num_ranks),
        ("rollout.num_workers", rollout.num_workers),
        ("rollout.max_workers", rollout.max_workers),
    ):
        if num_workers > grpo.prompts_per_step:
            yield Problem(
                field,
                str(num_workers),
                f"must be at most grpo.prompts_per_step = {grpo.prompts_per_step}, or some have nothing to do",
                f"lower {field} or raise grpo.prompts_per_step",
            )
    yield from warmup_problems(config, synth.num_train if synth else 0)
    if synth is not None:
        needed = max(sft.batch_size, grpo.prompts_per_step)
        if synth.num_train < needed:
            yield Problem(
                "data.synth.num_train",
                str(synth.num_train),
                f"must be at least {needed}, the samples of one batch",
                "raise it, or lower sft.batch_size and grpo.prompts_per_step",
            )
        if config.evaluate.num_samples > synth.num_test:
            yield Problem(
                "evaluate.num_samples",
                str(config.evaluate.num_samples),
                f"must be at most data.synth.num_test = {synth.num_test}",
                "lower it, or set it to 0 for all",
            )


def _engine(config: Config) -> Iterator[Problem]:
    rollout = config.rollout
    if rollout.gpus_per_worker == 0 and rollout.block_size % CPU_BLOCK:
        yield Problem(
            "rollout.block_size",
            str(rollout.block_size),
            f"must be a multiple of {CPU_BLOCK} on a CPU",
            f"set rollout.block_size to {CPU_BLOCK}, or give the engines GPUs with rollout.gpus_per_worker",
        )
    for field, num_gpus in (
        ("rollout.gpus_per_worker", rollout.gpus_per_worker),
        ("learner.gpus_per_rank", config.learner.gpus_per_rank),
    ):
        if num_gpus > 1 and num_gpus != int(num_gpus):
            yield Problem(field, str(num_gpus), "must be a whole number above 1", f"set {field} to {int(num_gpus)}")
    if config.learner.gpus_per_rank > 1:
        yield Problem(
            "learner.gpus_per_rank",
            str(config.learner.gpus_per_rank),
            "must be at most 1: a rank drives one GPU",
            "raise learner.num_ranks instead",
        )


def _scaling(config: Config) -> Iterator[Problem]:
    rollout = config.rollout
    if rollout.min_workers > rollout.num_workers:
        yield Problem(
            "rollout.min_workers",
            str(rollout.min_workers),
            f"must be at most rollout.num_workers = {rollout.num_workers}, or training never begins",
            "lower rollout.min_workers or raise rollout.num_workers",
        )
    if 0 < rollout.max_workers < rollout.num_workers:
        yield Problem(
            "rollout.max_workers",
            str(rollout.max_workers),
            f"must be at least rollout.num_workers = {rollout.num_workers}, with which the pool begins, or 0",
            "raise rollout.max_workers, lower rollout.num_workers, or set rollout.max_workers to 0 for a fixed size",
        )
    if rollout.max_workers and 0 < rollout.gpus_per_worker < 1:
        yield Problem(
            "rollout.max_workers",
            str(rollout.max_workers),
            "must be 0 where an engine takes a part of a GPU: Ray alone decides who shares it",
            "set rollout.max_workers to 0, or give engines GPUs of their own with rollout.gpus_per_worker",
        )


def _sharing(config: Config) -> Iterator[Problem]:
    """Engines and ranks that take a part of a GPU each: Ray alone decides who meets whom."""
    rollout, learner = config.rollout, config.learner
    of_worker, of_rank = rollout.gpus_per_worker, learner.gpus_per_rank
    is_shared = 0 < of_worker < 1 and 0 < of_rank < 1
    if rollout.sleep and not is_shared:
        yield Problem(
            "rollout.sleep",
            "true",
            "must be false where engine and learner do not share a GPU",
            "set rollout.sleep to false, or rollout.gpus_per_worker to 0.6 and learner.gpus_per_rank to 0.4",
        )
    if not is_shared:
        yield from _halves(config)
    if not is_shared or rollout.num_workers == learner.num_ranks == 1:
        return
    if rollout.num_workers != learner.num_ranks:
        yield Problem(
            "learner.num_ranks",
            str(learner.num_ranks),
            f"must be rollout.num_workers = {rollout.num_workers} where each engine shares its GPU with a rank",
            "set both to the number of GPUs, or give engines and ranks GPUs of their own",
        )
    if not rollout.sleep:
        yield Problem(
            "rollout.sleep",
            "false",
            f"must be true where {rollout.num_workers} engines share their GPUs with ranks, or two ranks may get the "
            "same GPU: they are placed once all engines rest",
            "set rollout.sleep to true, or give engines and ranks GPUs of their own",
        )
    if of_worker <= 0.5 or abs(of_worker + of_rank - 1) > 1e-9:
        yield Problem(
            "rollout.gpus_per_worker",
            str(of_worker),
            f"must be above 0.5, and 1 together with learner.gpus_per_rank = {of_rank}, or two engines or two ranks "
            "may get the same GPU",
            "set rollout.gpus_per_worker to 0.6 and learner.gpus_per_rank to 0.4",
        )


def _halves(config: Config) -> Iterator[Problem]:
    """Engines, or ranks, of which Ray could place two on one GPU, where the other role takes none or whole ones."""
    rollout, learner = config.rollout, config.learner
    for field, part, what, number in (
        ("rollout.gpus_per_worker", rollout.gpus_per_worker, "engines", rollout.num_workers),
        ("learner.gpus_per_rank", learner.gpus_per_rank, "ranks", learner.num_ranks),
    ):
        if number > 1 and 0 < part <= 0.5:
            yield Problem(
                field,
                str(part),
                f"must be above 0.5, or two of the {number} {what} may get the same GPU",
                f"set {field} to 1",
            )


def _numerics(config: Config) -> Iterator[Problem]:
    tolerance, dtype = config.rollout.probe_tolerance_nats, config.model.dtype
    if dtype == "float32" and tolerance > FLOAT32_TOLERANCE_NATS:
        yield Problem(
            "rollout.probe_tolerance_nats",
            str(tolerance),
            f"must be at most {FLOAT32_TOLERANCE_NATS} with model.dtype float32, or a wrong adapter may pass",
            "set rollout.probe_tolerance_nats to 0.0001",
        )
    if dtype == "bfloat16" and tolerance < BFLOAT16_NOISE_NATS:
        yield Problem(
            "rollout.probe_tolerance_nats",
            str(tolerance),
            f"must be at least {BFLOAT16_NOISE_NATS} with model.dtype bfloat16, whose rounding alone differs so much",
            "set rollout.probe_tolerance_nats to 0.1",
        )
    cap = config.grpo.importance_cap
    if 0 < cap < 1:
        yield Problem(
            "grpo.importance_cap",
            str(cap),
            "must be 0 (off) or at least 1, or it scales every token down",
            "set grpo.importance_cap to 2",
        )


def _whole_weights(config: Config) -> Iterator[Problem]:
    """What only adapters can do."""
    if config.model.lora is None and config.rollout.sync == "file":
        yield Problem(
            "rollout.sync",
            "file",
            "must be bytes with model.lora null: whole weights enter an engine through memory alone",
            "set rollout.sync to bytes",
        )


def _staleness(config: Config) -> Iterator[Problem]:
    if config.grpo.max_staleness == 0:
        return
    if config.rollout.sleep:
        yield Problem(
            "grpo.max_staleness",
            str(config.grpo.max_staleness),
            "must be 0 with rollout.sleep: engine and learner take turns on their GPU",
            "set grpo.max_staleness to 0, or give engines and learner GPUs of their own",
        )
    if config.grpo.importance_cap == 0:
        yield Problem(
            "grpo.importance_cap",
            "0",
            f"must not be off with grpo.max_staleness = {config.grpo.max_staleness}, whose answers need it",
            "set grpo.importance_cap to 2",
        )


def _service(config: Config) -> Iterator[Problem]:
    serve = config.serve
    if DEFAULT_MODEL in serve.adapters:
        yield Problem(
            f"serve.adapters.{DEFAULT_MODEL}",
            str(serve.adapters[DEFAULT_MODEL]),
            "is the name of what answers where a request names no model",
            "give this adapter another name",
        )
    if serve.adapters and config.model.lora is None:
        yield Problem(
            "serve.adapters",
            ", ".join(serve.adapters),
            "must be empty where model.lora is null: whole weights leave no base model to adapt",
            "serve the adapters from another service",
        )
    if 0 < serve.max_replicas < serve.replicas:
        yield Problem(
            "serve.max_replicas",
            str(serve.max_replicas),
            f"must be 0 or at least serve.replicas = {serve.replicas}",
            "raise serve.max_replicas or lower serve.replicas",
        )
    if serve.max_image_mib > serve.max_request_mib:
        yield Problem(
            "serve.max_image_mib",
            str(serve.max_image_mib),
            f"must be at most serve.max_request_mib = {serve.max_request_mib}, which holds the image",
            "lower serve.max_image_mib or raise serve.max_request_mib",
        )
    if 0 < serve.max_upload_mib < serve.max_request_mib:
        yield Problem(
            "serve.max_upload_mib",
            str(serve.max_upload_mib),
            f"must be 0 or at least serve.max_request_mib = {serve.max_request_mib}, the largest of the bodies",
            "raise serve.max_upload_mib or lower serve.max_request_mib",
        )


def _shape(config: Config, shape: ModelShape) -> Iterator[Problem]:
    rollout, longest = config.rollout, shape.max_position_embeddings
    if rollout.max_model_len > longest:
        yield Problem(
            "rollout.max_model_len",
            str(rollout.max_model_len),
            f"must be at most {longest}, the model's max_position_embeddings",
            f"set rollout.max_model_len to {longest} or less",
        )
    trained = image_tokens(config) + PROMPT_TOKENS + config.sft.max_answer_tokens
    if trained > longest:
        yield Problem(
            "sft.max_answer_tokens",
            str(config.sft.max_answer_tokens),
            f"must leave room: {trained} tokens with image and prompt, of the model's {longest} positions",
            "lower sft.max_answer_tokens or model.max_pixels",
        )
    if config.model.lora_rank > shape.hidden_size:
        yield Problem(
            "model.lora.rank",
            str(config.model.lora_rank),
            f"must be at most {shape.hidden_size}, the model's hidden_size",
            "lower model.lora.rank",
        )
    num_ranks, heads = max(1, int(rollout.gpus_per_worker)), (shape.num_attention_heads, shape.vision.num_heads)
    widths = (shape.intermediate_size, shape.vision.intermediate_size)
    if any(number % num_ranks for number in (*heads, *widths)):
        possible = [n for n in range(1, num_ranks) if not any(number % n for number in (*heads, *widths))]
        yield Problem(
            "rollout.gpus_per_worker",
            str(rollout.gpus_per_worker),
            f"must divide the {heads[0]} attention heads of the model and the {heads[1]} of its vision tower, and "
            f"their intermediate sizes {widths[0]} and {widths[1]}",
            f"set rollout.gpus_per_worker to {possible[-1]}, and rollout.num_workers higher for the GPUs that are left",
        )
    per_token_bytes = shape.cached_numbers_per_token * BYTES_PER_NUMBER[config.model.dtype]
    needed_gib = per_token_bytes * rollout.max_model_len / 2**30
    if rollout.gpus_per_worker == 0 and rollout.kv_cache_gib < needed_gib:
        yield Problem(
            "rollout.kv_cache_gib",
            str(rollout.kv_cache_gib),
            f"must be at least {needed_gib:.3g}, the cache of one sequence of rollout.max_model_len",
            "raise rollout.kv_cache_gib or lower rollout.max_model_len",
        )
