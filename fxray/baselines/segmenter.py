"""A network that gives a picture a label and a mask: fitted on whole resized images, then asked about each picture.

Legend: N images, B images of a batch, H and W places of a mask.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fxray.baselines.crops import resized, to_tensor
from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import Answer, OnStep
from fxray.baselines.training import Recipe, quick_products, run_training

_FLAWED_LOGIT = 0.0
"""Logit from which a pixel is masked: a probability of one half."""


class Segmenter:
    """Fits a network on labels and masks, and answers with both.

    Args:
        network: From float32 [B, 3, H, W] to logits of "generated" [B] and of "flawed" [B, H', W'].
        device: It is moved there.
        recipe: How it is trained.
        side_px: Of the square that every image is resized to.
        mask_weight: Of the loss of the masks, beside the cross-entropy of the labels.
        seed: Of order and flips.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        device: torch.device,
        recipe: Recipe,
        *,
        side_px: int,
        mask_weight: float,
        seed: int,
    ) -> None:
        self._network = network.to(device)
        self._device = device
        self._recipe = recipe
        self._side_px = side_px
        self._mask_weight = mask_weight
        self._seed = seed

    @property
    def num_parameters(self) -> int:
        """All of them are trained."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    def fit(self, images: Pictures, is_generated_N: NDArray[np.bool_], masks: Masks, on_step: OnStep) -> None:
        """Trains the network on labels and masks together."""
        order, flips = np.random.default_rng((self._seed, 0)), np.random.default_rng((self._seed, 1))
        label_N = torch.from_numpy(is_generated_N.astype(np.float32)).to(self._device)

        def loss_of(places: NDArray[np.int64]) -> torch.Tensor:
            is_flipped = flips.random(len(places)) < 0.5
            pixels, targets = [], []
            for place, turn in zip(places.tolist(), is_flipped.tolist(), strict=True):
                step = -1 if turn else 1
                pixels.append(self._resized(images.pixels(place))[:, ::step])
                targets.append(masks.is_flawed(place)[:, ::step])
            labels_B, masks_BHW = self._logits(to_tensor(pixels, self._device))
            target_BHW = torch.stack([_shrunk(target, masks_BHW.shape[1:]) for target in targets]).to(self._device)
            label_loss = functional.binary_cross_entropy_with_logits(labels_B, label_N[places])
            return label_loss + self._mask_weight * mask_loss(masks_BHW, target_BHW)

        run_training(self._network, len(images), loss_of, self._recipe, order, on_step)

    def predict(self, images: Pictures) -> Iterator[Answer]:
        """The sigmoid of the label's logit, and the mask in the image's own size."""
        for pixels_HW3 in images.each():
            with torch.inference_mode():
                labels_B, masks_BHW = self._logits(to_tensor([self._resized(pixels_HW3)], self._device))
                mask = functional.interpolate(masks_BHW[None], pixels_HW3.shape[:2], mode="bilinear")[0, 0]
            yield Answer(float(labels_B[0].sigmoid()), (mask >= _FLAWED_LOGIT).cpu().numpy())

    def _resized(self, pixels_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return resized(pixels_HW3, self._side_px, self._side_px)

    def _logits(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with quick_products(self._device):
            labels_B, masks_BHW = self._network(batch)
        return labels_B.float(), masks_BHW.float()


def mask_loss(logits_BHW: torch.Tensor, target_BHW: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over all pixels, and 1 - Dice over the images with a mask.

    Args:
        logits_BHW: Of "flawed".
        target_BHW: Shares in [0, 1].
    """
    loss = functional.binary_cross_entropy_with_logits(logits_BHW, target_BHW)
    has_mask_B = target_BHW.flatten(1).amax(1) > 0
    if not has_mask_B.any():
        return loss
    said, truth = logits_BHW[has_mask_B].sigmoid().flatten(1), target_BHW[has_mask_B].flatten(1)
    dice = (2 * (said * truth).sum(1) + 1) / (said.sum(1) + truth.sum(1) + 1)
    return loss + (1 - dice).mean()


def _shrunk(is_flawed_HW: NDArray[np.bool_], size: torch.Size) -> torch.Tensor:
    """The share of flawed pixels of each cell, float32 of another size."""
    mask = torch.from_numpy(np.ascontiguousarray(is_flawed_HW, np.float32))
    return functional.interpolate(mask[None, None], tuple(size), mode="area")[0, 0]
