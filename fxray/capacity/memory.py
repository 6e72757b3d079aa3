"""Bytes of every role, and whether those that share a GPU fit on it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from fxray.capacity.activations import Activations, Pass, count_activations
from fxray.capacity.devices import GIB
from fxray.capacity.trained import FLOAT32_BYTES, count_trained
from fxray.capacity.weights import count_adapter, count_weights, language_linears, merger_linears, vision_linears
from fxray.config.limits import BYTES_PER_NUMBER, PROMPT_TOKENS, image_tokens
from fxray.config.model_shape import ModelShape
from fxray.config.schedule import load_stages
from fxray.config.tree import Config

PATCHES_PER_TOKEN = 4
MAX_LOGITS = 2**27
"""As `fxray.model.head.LOGITS_BUDGET`; a test keeps them equal."""
CONTEXT_BYTES = int(1.5 * GIB)
"""CUDA context, libraries and fragmentation of one process. An assumption, not measured yet."""
PROFILE_BYTES = 2 * GIB
"""What an engine sets aside beside weights and cache: its largest batch, CUDA graphs. An assumption, not measured."""
ZERO3_LIVE_NUMBERS = 10**9
"""Most weights that ZeRO-3 holds whole at a time, DeepSpeed's default."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something that takes memory.

    Attributes:
        name: What it is.
        num_bytes: What it takes.
        rests: It stays between two passes.
    """

    name: str
    num_bytes: int
    rests: bool = True


@dataclass(frozen=True, slots=True)
class Role:
    """A process on a GPU.

    Attributes:
        name: "engine", "learner" or "sft".
        parts: What it holds.
    """

    name: str
    parts: tuple[Part, ...]

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    @property
    def resting_bytes(self) -> int:
        """What it holds between two passes, while another process has its turn."""
        return sum(part.num_bytes for part in self.parts if part.rests)


@dataclass(frozen=True, slots=True)
class Card:
    """Who must fit where: an engine into its part of a GPU, and all that share a GPU onto it.

    Attributes:
        roles: Their names.
        num_bytes: What they need together.
        available_bytes: What is there for them.
    """

    roles: tuple[str, ...]
    num_bytes: int
    available_bytes: int

    @property
    def fits(self) -> bool:
        return self.num_bytes <= self.available_bytes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Who needs what.

    Attributes:
        roles: Engine, learner rank and SFT worker.
        cards: The GPUs that they meet on; none where there are no GPUs.
        cached_tokens: Tokens that one engine's key-value cache holds.
    """

    roles: tuple[Role, ...]
    cards: tuple[Card, ...]
    cached_tokens: int

    @property
    def fits(self) -> bool:
        return all(card.fits for card in self.cards)


def plan_memory(config: Config, shape: ModelShape, memory_bytes: int) -> MemoryPlan:
    """Memory of a run.

    Args:
        config: The configuration.
        shape: Its base model.
        memory_bytes: Of one GPU; without GPUs it says nothing.
    """
    engine, cached_tokens = _engine(config, shape, memory_bytes)
    learner, sft = _learner(config, shape), _sft(config, shape)
    cards = _cards(config, engine, learner, sft, memory_bytes)
    return MemoryPlan((engine, learner, sft), tuple(cards), cached_tokens)


def grpo_pass(config: Config) -> Pass:
    """A pass of the learner whose images are as large, and answers as long, as they may be."""
    prompt = image_tokens(config) + PROMPT_TOKENS
    answer = max(stage.max_new_tokens or config.grpo.max_new_tokens for stage in load_stages(config.grpo.schedule))
    of_group = prompt + config.grpo.group_size * answer
    num_groups = min(
        max(1, config.learner.max_tokens_per_micro_batch // of_group),
        math.ceil(config.grpo.prompts_per_step / config.learner.num_ranks),
        config.learner.max_groups_per_micro_batch or config.grpo.prompts_per_step,
    )
    return Pass(prompt, PATCHES_PER_TOKEN * image_tokens(config), answer, config.grpo.group_size, num_groups)


def largest_passes(config: Config) -> list[Pass]:
    """Passes of the learner of which one is the largest.

    Tokens bound a pass, and an image's patches take more than as many answer tokens. So the shorter the answers, the
    more groups share a pass and the more it takes: it may hold as many images as its tokens allow, or one more where
    they are smaller.
    """
    # Groups go to ranks by their tokens: one rank may have all but one for each of the others.
    most_groups = config.grpo.prompts_per_step - config.learner.num_ranks + 1
    most_groups = min(most_groups, config.learner.max_groups_per_micro_batch or most_groups)
    longest = grpo_pass(config)
    return [longest, *_fullest(longest, config.learner.max_tokens_per_micro_batch, most_groups)]


def sft_passes(config: Config) -> list[Pass]:
    """Passes of an SFT worker of which one is the largest, first that of the longest answers; a sample is a group."""
    image, sft = image_tokens(config), config.sft
    most_samples = math.ceil(sft.batch_size / sft.num_workers)
    of_sample = image + PROMPT_TOKENS + sft.max_answer_tokens
    num_samples = min(most_samples, max(1, sft.max_tokens_per_micro_batch // of_sample))
    longest = Pass(image + PROMPT_TOKENS, PATCHES_PER_TOKEN * image, sft.max_answer_tokens, 1, num_samples)
    return [longest, *_fullest(longest, sft.max_tokens_per_micro_batch, most_samples)]


def _fullest(longest: Pass, most_tokens: int, most_groups: int) -> Iterator[Pass]:
    """Passes of as many images as so many tokens allow, and of one more; parts of tokens are rounded up."""
    size, image = longest.num_answers, longest.patches // PATCHES_PER_TOKEN
    num_groups = min(most_groups, most_tokens // (longest.prompt_tokens + size))
    for number in range(max(1, num_groups), min(most_groups, num_groups + 1) + 1):
        of_group = math.ceil(most_tokens / number) - PROMPT_TOKENS
        seen = min(image, of_group - size)
        answer = min(longest.answer_tokens, math.ceil((of_group - seen) / size))
        if seen > 0:
            yield Pass(seen + PROMPT_TOKENS, PATCHES_PER_TOKEN * seen, answer, size, number)


def cache_bytes_per_token(config: Config, shape: ModelShape) -> int:
    """Keys and values of a token on one rank of an engine; ranks beyond the key heads hold copies."""
    ranks = max(1, int(config.rollout.gpus_per_worker))
    number = BYTES_PER_NUMBER[config.model.dtype]
    return shape.cached_numbers_per_token * number // min(ranks, shape.num_key_value_heads)


def _engine(config: Config, shape: ModelShape, memory_bytes: int) -> tuple[Role, int]:
    rollout, number = config.rollout, BYTES_PER_NUMBER[config.model.dtype]
    ranks = max(1, int(rollout.gpus_per_worker))
    weights = count_weights(shape).total * number // ranks
    adapter = count_adapter(shape, config.model.lora_rank) * number // ranks
    of_token = cache_bytes_per_token(config, shape)
    parts = [Part("base weights", weights)] + ([Part("adapter in use", adapter)] if adapter else [])
    if rollout.gpus_per_worker > 0:
        parts.append(Part("largest batch and CUDA graphs (assumed)", PROFILE_BYTES))
        room = int(rollout.gpu_memory_utilization * memory_bytes) - weights - adapter - PROFILE_BYTES
    else:
        room = int(rollout.kv_cache_gib * GIB)
    parts.append(Part("cache of keys and values", max(room, rollout.max_model_len * of_token)))
    return Role("engine", tuple(parts)), max(0, room) // of_token


def _learner(config: Config, shape: ModelShape) -> Role:
    learner, passes = config.learner, largest_passes(config)
    parts = _training_parts(
        config, shape, passes, learner.num_ranks, learner.zero_stage, has_reference=True, is_dropping=False
    )
    return Role("learner rank", parts)


def _sft(config: Config, shape: ModelShape) -> Role:
    sft, lora = config.sft, config.model.lora
    is_dropping = lora is not None and lora.dropout > 0
    parts = _training_parts(
        config, shape, sft_passes(config), sft.num_workers, sft.zero_stage, has_reference=False, is_dropping=is_dropping
    )
    return Role("SFT worker", parts)


def _training_parts(
    config: Config,
    shape: ModelShape,
    sizes: Sequence[Pass],
    num_ranks: int,
    zero_stage: int,
    *,
    has_reference: bool,
    is_dropping: bool,
) -> tuple[Part, ...]:
    """What a rank holds; ZeRO 1 shares the optimizer, 2 the gradients too, 3 the weights too."""
    number = BYTES_PER_NUMBER[config.model.dtype]
    trained = count_trained(config, shape)
    of_trained, is_cast = trained.num_trained * FLOAT32_BYTES, trained.is_whole and number < FLOAT32_BYTES
    of_weights, of_gradients, of_optimizer = (num_ranks if zero_stage >= stage else 1 for stage in (3, 2, 1))
    num_copies = 3 if zero_stage else 2  # both moments, and ZeRO's own copy of what it updates
    activations = _largest_activations(config, shape, sizes, is_dropping=is_dropping)
    of_head = shape.vocab_size * shape.hidden_size * (FLOAT32_BYTES + (number if is_cast else 0))
    parts = [
        Part("base weights", trained.num_frozen * number // of_weights),
        Part("trained weights" if trained.is_whole else "adapter", of_trained // of_weights),
        Part("reference", of_trained // of_weights if has_reference else 0),
        Part("gradients", of_trained // of_gradients),
        Part("optimizer", num_copies * of_trained // of_optimizer),
        Part("activations", activations.kept + activations.recomputed, rests=False),
        Part("logits", activations.peak - activations.kept - activations.recomputed, rests=False),
        Part("weights cast for a pass", _num_cast(config, shape) * number if is_cast else 0, rests=False),
        # It comes whole before it is added to the others, beside a copy of the head for logits that are made again.
        Part("gradient of the head", of_head if trained.is_whole else 0, rests=False),
    ]
    if zero_stage == 3 and num_ranks > 1:
        numbers, of_number = (trained.num_trained, FLOAT32_BYTES) if trained.is_whole else (trained.num_frozen, number)
        live = min(ZERO3_LIVE_NUMBERS, numbers) * of_number
        if not trained.is_whole:  # frozen ones stay whole after a pass, while those of the next are gathered
            live *= 2
        parts.append(Part("weights gathered for a layer (ZeRO-3)", live, rests=not trained.is_whole))
    if config.learner.gpus_per_rank > 0:
        parts.append(Part("CUDA context and fragmentation (assumed)", CONTEXT_BYTES))
    return tuple(part for part in parts if part.num_bytes > 0)


def _num_cast(config: Config, shape: ModelShape) -> int:
    """Trained weights of which there is a copy in the narrow type: until the backward pass, or of the layer at work."""
    if not config.model.gradient_checkpointing:
        return count_weights(shape).total
    layers = language_linears(shape), vision_linears(shape), merger_linears(shape)
    return max(sum(linear.num_weights for linear in layer) for layer in layers)


def _largest_activations(config: Config, shape: ModelShape, sizes: Sequence[Pass], *, is_dropping: bool) -> Activations:
    """Of each part the most that any of these passes takes."""
    counted = [
        count_activations(
            shape,
            size,
            rank=config.model.lora_rank,
            bytes_per_number=BYTES_PER_NUMBER[config.model.dtype],
            is_checkpointed=config.model.gradient_checkpointing,
            is_on_gpu=config.learner.gpus_per_rank > 0,
            max_logits=MAX_LOGITS,
            is_dropping=is_dropping,
        )
        for size in sizes
    ]
    return Activations(
        *(max(getattr(each, part.name) for each in counted) for part in fields(Activations)),
    )


def _cards(config: Config, engine: Role, learner: Role, sft: Role, memory_bytes: int) -> list[Card]:
    """Who meets on a GPU; SFT has its GPUs to itself, for the engines start when it is done."""
    rollout, of_rank = config.rollout, config.learner.gpus_per_rank
    budget = int(rollout.gpu_memory_utilization * memory_bytes)
    cards = []
    if rollout.gpus_per_worker > 0:
        cards.append(Card((engine.name,), engine.num_bytes, budget))
    if 0 < rollout.gpus_per_worker < 1 and 0 < of_rank < 1:
        # Asleep, an engine keeps what is neither weights nor cache; a learner gives away what only a pass needs.
        turns = max(budget + learner.resting_bytes, PROFILE_BYTES + learner.num_bytes)
        together = turns if rollout.sleep else budget + learner.num_bytes
        cards.append(Card((engine.name, learner.name), together, memory_bytes))
    elif of_rank > 0:
        cards.append(Card((learner.name,), learner.num_bytes, memory_bytes))
    if of_rank > 0:
        cards.append(Card((sft.name,), sft.num_bytes, memory_bytes))
    return cards
