"""A network that gives a picture one number: fitted on random crops and labels, then asked about each picture.

Legend: N images, B images of a batch.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fxray.baselines.crops import random_crop, to_tensor
from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import Answer, OnStep
from fxray.baselines.training import Recipe, quick_products, run_training

Pixels = NDArray[np.uint8]
MOST_TOGETHER, MOST_PIXELS_TOGETHER = 16, 2**22
"""Images that are answered at once; a larger one is answered alone."""


class Fitted(Protocol):
    """What is fitted on: `Pictures`, or what is made of them."""

    def __len__(self) -> int: ...

    def pixels(self, place: int) -> Pixels:
        """An image, uint8 [H, W, 3]."""
        ...


class Classifier:
    """Fits a network by binary cross-entropy.

    Args:
        network: From float32 [B, 3, H, W] to one logit of "generated" each.
        device: It is moved there.
        recipe: How it is trained.
        crop_px: Side of the random crops that it is fitted on.
        seed: Of order and crops.
        before_crop: What is done to an image before it is cropped for fitting.
        to_answer: What is shown of an image when it is answered.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        device: torch.device,
        recipe: Recipe,
        *,
        crop_px: int,
        seed: int,
        before_crop: Callable[[Pixels], Pixels],
        to_answer: Callable[[Pixels], Pixels],
    ) -> None:
        self._network = network.to(device)
        self._device = device
        self._recipe = recipe
        self._crop_px = crop_px
        self._seed = seed
        self._before_crop = before_crop
        self._to_answer = to_answer

    @property
    def num_parameters(self) -> int:
        """All of them are trained."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    def fit(self, images: Fitted, is_generated_N: NDArray[np.bool_], masks: Masks, on_step: OnStep) -> None:  # noqa: ARG002
        """Trains the network; masks are not looked at."""
        order, crops = np.random.default_rng((self._seed, 0)), np.random.default_rng((self._seed, 1))
        target_N = torch.from_numpy(is_generated_N.astype(np.float32)).to(self._device)

        def loss_of(places: NDArray[np.int64]) -> torch.Tensor:
            seen = [random_crop(self._before_crop(images.pixels(i)), self._crop_px, crops) for i in places.tolist()]
            logits_B = self._logits(to_tensor(seen, self._device))
            return torch.nn.functional.binary_cross_entropy_with_logits(logits_B, target_N[places])

        run_training(self._network, len(images), loss_of, self._recipe, order, on_step)

    def predict(self, images: Pictures) -> Iterator[Answer]:
        """The sigmoid of the logit of each image."""
        return self.answers(images.each())

    def answers(self, images: Iterable[Pixels]) -> Iterator[Answer]:
        """The same of pixels, uint8 [H, W, 3] each; neighbours of one size are answered together."""
        for together in in_batches(map(self._to_answer, images)):
            batch = to_tensor(together, self._device)
            with torch.inference_mode():
                yield from (Answer(score) for score in self._logits(batch).sigmoid().tolist())

    def _logits(self, batch: torch.Tensor) -> torch.Tensor:
        with quick_products(self._device):
            return self._network(batch).float()


def in_batches(images: Iterable[Pixels]) -> Iterator[list[Pixels]]:
    """Neighbours of one size, as many as memory can be asked for."""
    batch: list[Pixels] = []
    for pixels_HW3 in images:
        height, width, _ = pixels_HW3.shape
        is_full = len(batch) == MOST_TOGETHER or (len(batch) + 1) * height * width > MOST_PIXELS_TOGETHER
        if batch and (is_full or pixels_HW3.shape != batch[0].shape):
            yield batch
            batch = []
        batch.append(pixels_HW3)
    if batch:
        yield batch
