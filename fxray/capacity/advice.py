"""The smallest change that makes a configuration fit: fields are tried in the order in which they cost least."""

from collections.abc import Iterable, Iterator
from itertools import chain, combinations

from fxray.capacity.memory import largest_passes, plan_memory
from fxray.config.limits import check
from fxray.config.model_shape import ModelShape
from fxray.config.section import Section
from fxray.config.tree import Config

Change = tuple[str, object]
"""A field's dotted path, and its new value."""
MAX_CHANGES = 3


def find_change(config: Config, shape: ModelShape, memory_bytes: int) -> tuple[Change, ...] | None:
    """The first of the smallest changes that fits into `memory_bytes` and that a configuration check accepts.

    Returns:
        Fields with their new values; empty where it fits as it is; None where nothing that is known here helps.
    """
    if plan_memory(config, shape, memory_bytes).fits:
        return ()
    candidates = list(_candidates(config))
    for number in range(1, MAX_CHANGES + 1):
        for changes in map(tuple, map(chain.from_iterable, combinations(candidates, number))):
            if len({field for field, _ in changes}) < len(changes):
                continue
            changed = apply(config, changes)
            if plan_memory(changed, shape, memory_bytes).fits and not check(changed):
                return changes
    return None


def apply(config: Config, changes: tuple[Change, ...]) -> Config:
    """The configuration with other values in some fields."""
    for field, value in changes:
        config = _replace(config, field.split("."), value)
    return config


def as_options(changes: tuple[Change, ...]) -> str:
    """Changes as options of a command."""
    return " ".join(
        f"--set {field}={str(value).lower() if isinstance(value, bool) else value}" for field, value in changes
    )


def _replace(section: Section, keys: list[str], value: object) -> Config:
    key, *rest = keys
    inner = _replace(getattr(section, key), rest, value) if rest else value
    return section.model_copy(update={key: inner})  # type: ignore[return-value]


def _candidates(config: Config) -> Iterator[tuple[Change, ...]]:
    """Single steps, the cheapest first: batching, then time, then the split of a GPU, then pixels, then GPUs."""
    model, rollout, learner, sft = config.model, config.rollout, config.learner, config.sft
    is_shared = 0 < rollout.gpus_per_worker < 1 and 0 < learner.gpus_per_rank < 1
    used = rollout.gpu_memory_utilization
    most_groups = max(each.num_groups for each in largest_passes(config))
    parts = sorted((percent / 100 for percent in range(15, 95, 5)), key=lambda part: abs(part - used))
    possible: list[tuple[bool, str, Iterable[object]]] = [
        (True, "learner.max_groups_per_micro_batch", [number for number in (8, 4, 2) if number < most_groups]),
        (True, "learner.max_tokens_per_micro_batch", _fewer(learner.max_tokens_per_micro_batch)),
        (True, "sft.max_tokens_per_micro_batch", _fewer(sft.max_tokens_per_micro_batch)),
        (not model.gradient_checkpointing, "model.gradient_checkpointing", [True]),
        (most_groups > 1, "learner.max_groups_per_micro_batch", [1]),
        (is_shared and not rollout.sleep, "rollout.sleep", [True]),
        (rollout.gpus_per_worker > 0, "rollout.gpu_memory_utilization", [part for part in parts if part != used]),
        (learner.num_ranks > 1 and learner.zero_stage < 3, "learner.zero_stage", [3]),
        (sft.num_workers > 1 and sft.zero_stage < 3, "sft.zero_stage", [3]),
        (True, "model.max_pixels", [model.max_pixels // (factor * 784) * 784 for factor in (2, 4)]),
        (rollout.gpus_per_worker >= 1, "rollout.gpus_per_worker", _more(rollout.gpus_per_worker)),
    ]
    yield from (((field, value),) for is_open, field, values in possible if is_open for value in values)
    if learner.gpus_per_rank == 1:
        yield from _spread("learner.num_ranks", learner.num_ranks, "learner.zero_stage", learner.zero_stage)
        yield from _spread("sft.num_workers", sft.num_workers, "sft.zero_stage", sft.zero_stage)


def _spread(ranks: str, number: int, zero: str, stage: int) -> Iterator[tuple[Change, ...]]:
    """More ranks, which take something off each only where they share the weights."""
    for larger in _more(number):
        yield ((ranks, larger),) if stage == 3 else ((ranks, larger), (zero, 3))


def _fewer(tokens: int) -> list[int]:
    return [tokens >> halvings for halvings in (1, 2, 3) if tokens >> halvings]


def _more(number: float) -> list[int]:
    return [larger for larger in (2, 4, 8) if larger > number]
