"""The training loop that the networks among the baselines share.

AdamW, warmed up over a twentieth of the steps and then brought down to 0 along a cosine. Matrix products are in
bfloat16 on CUDA, all else in float32. The same seed gives the same batches and crops.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fxray.baselines.ports import OnStep
from fxray.errors import ConfigError

_WARM_UP_FRAC = 0.05
_MAX_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images of a step.
        learning_rate: The largest one.
        weight_decay: Of all weights.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01

    def with_epochs(self, epochs: int | None) -> "Recipe":
        """The same with another number of epochs; None leaves it as it is."""
        return self if epochs is None else replace(self, epochs=epochs)


def run_training(
    network: torch.nn.Module,
    num_images: int,
    loss_of: Callable[[NDArray[np.int64]], torch.Tensor],
    recipe: Recipe,
    rng: np.random.Generator,
    on_step: OnStep,
) -> None:
    """Trains a network, in place; it is in evaluation mode afterwards.

    Args:
        network: On its device.
        num_images: To learn from.
        loss_of: The loss of some of the images, given by their places.
        recipe: How.
        rng: Of the order.
        on_step: Is told of each step.
    """
    batches_per_epoch = max(1, num_images // recipe.batch_size)  # the rest of an epoch is too small to normalise over
    num_steps = recipe.epochs * batches_per_epoch
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_frac(step, num_steps))
    network.train()
    step = 0
    for _ in range(recipe.epochs):
        order = rng.permutation(num_images)
        for places in np.array_split(order, batches_per_epoch):
            loss = loss_of(places)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), _MAX_NORM)
            optimizer.step()
            schedule.step()
            step += 1
            on_step(step, num_steps, float(loss.detach()))
    network.eval()


def rate_frac(step: int, num_steps: int) -> float:
    """The learning rate of a step, as a share of the largest one."""
    warm_up = max(1, round(_WARM_UP_FRAC * num_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, num_steps - warm_up))


def quick_products(device: torch.device) -> AbstractContextManager[None]:
    """Within it matrix products are in bfloat16 on CUDA; elsewhere nothing changes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def open_device(name: str) -> torch.device:
    """A device by torch's name.

    Raises:
        ConfigError: There is none.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{name!r} cannot be used: {str(error).splitlines()[0]}", where="--device", remedy="give cpu, or cuda:0"
        ) from error
    return device


def refuse_device(name: str) -> None:
    """Says what `open_device` would, and leaves the device's memory alone.

    Raises:
        ConfigError: There is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
    else:
        num_devices = torch.cuda.device_count()
        if device.type != "cuda" or (device.index or 0) < num_devices:
            return
        reason = f"there are {num_devices} CUDA devices here"
    raise ConfigError(f"{name!r} cannot be used: {reason}", where="--device", remedy="give cpu, or cuda:0")
