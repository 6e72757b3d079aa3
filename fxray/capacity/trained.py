"""What a configuration trains, in numbers and bytes: an adapter on frozen weights, or all weights."""

import math
from dataclasses import dataclass

from fxray.capacity.weights import count_adapter, count_modules, count_weights
from fxray.config.limits import BYTES_PER_NUMBER
from fxray.config.model_shape import ModelShape, read_shape
from fxray.config.problem import Problem
from fxray.config.tree import Config

FLOAT32_BYTES = 4
NUM_MOMENTS = 2


@dataclass(frozen=True, slots=True)
class Trained:
    """What is trained.

    Attributes:
        is_whole: All weights are.
        num_trained: Numbers that are; they are kept in float32.
        num_frozen: Numbers of the base beside them.
        published_bytes: Of a policy as it goes to the engines after each step.
        num_modules: LoRA modules of it that an engine binds; 0 for whole weights.
        store_bytes: Most that a node's object store holds: the policies that are in use, and the largest part of a
            checkpoint.
        checkpoint_bytes: Of policy, reference and optimizer on the disk.
    """

    is_whole: bool
    num_trained: int
    num_frozen: int
    published_bytes: int
    num_modules: int
    store_bytes: int
    checkpoint_bytes: int


def count_trained(config: Config, shape: ModelShape) -> Trained:
    """What a configuration trains of a base model of this shape."""
    weights, rank = count_weights(shape).total, config.model.lora_rank
    number = count_adapter(shape, rank) if rank else weights
    published = number * (FLOAT32_BYTES if rank else BYTES_PER_NUMBER[config.model.dtype])
    optimizer = NUM_MOMENTS * number * FLOAT32_BYTES
    return Trained(
        is_whole=rank == 0,
        num_trained=number,
        num_frozen=weights if rank else 0,
        published_bytes=published,
        num_modules=count_modules(shape) if rank else 0,
        store_bytes=(2 + config.grpo.max_staleness) * published + optimizer,
        checkpoint_bytes=2 * number * FLOAT32_BYTES + optimizer,
    )


def find_store_problem(config: Config, available_bytes: int) -> list[Problem]:
    """What keeps whole weights from travelling: an object store that is too small; empty where all is well.

    Args:
        config: A checked one.
        available_bytes: Object store of the node with most of it.
    """
    shape = read_shape(config.model.path)
    if config.model.lora_rank or not isinstance(shape, ModelShape):
        return []
    needed = count_trained(config, shape).store_bytes
    if needed <= available_bytes:
        return []
    mib = math.ceil(needed / 2**20)
    return [
        Problem(
            "ray.object_store_mib",
            str(available_bytes // 2**20),
            f"must be at least {mib} with model.lora null: policies in use, and the largest part of a checkpoint",
            f"set ray.object_store_mib to {mib} (on a cluster `ray start --object-store-memory`), or train an adapter",
        )
    ]
