"""SegFormer with two tasks (Xie et al., NeurIPS 2021; as the paper's section 5.1 adapts it).

As in the paper: boxes become binary masks for the segmentation, real or generated is classified beside it. The encoder
and the all-MLP decoder are transformers' SegformerForSemanticSegmentation; "published" is MiT-B0.

The paper does not say how the label is read off, how the losses are weighed, nor which of the sizes B0 to B5 it takes.
Here the label's logit is linear in the mean and the maximum over places of the encoder's last features, and in the
maximum of the mask's logits; the loss is the sum of both cross-entropies and 1 - Dice of generated images' masks.
`--weights segformer=FOLDER` starts from an encoder, of any size. "small" has one block a stage, half as wide or less.

Crops: none. The image is resized to 512 x 512 px (small: 112 x 112), and the mask back to the image's own size; flips.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from fxray.baselines.crops import resized, to_tensor
from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import Answer, OnStep, Settings, Size
from fxray.baselines.training import Recipe, open_device, quick_products, run_training
from fxray.baselines.weights import load_pretrained

_SIDES_PX: dict[Size, int] = {"small": 112, "published": 512}
_SHAPES: dict[Size, dict[str, object]] = {
    "small": {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "decoder_hidden_size": 64},
    "published": {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
}
_RECIPES: dict[Size, Recipe] = {"small": Recipe(3, 16, 2e-3), "published": Recipe(20, 32, 1e-4)}
_FLAWED_LOGIT = 0.0
"""Logit from which a pixel is masked: a probability of one half."""


class SegformerNet(nn.Module):
    """Masks and labels from one encoder."""

    def __init__(self, model: SegformerForSemanticSegmentation) -> None:
        super().__init__()
        self.model = model
        self.label_head = nn.Linear(2 * model.config.hidden_sizes[-1] + 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Label logits [B] and mask logits [B, H / 4, W / 4] of images [B, 3, H, W]."""
        features = self.model.segformer(pixel_values=x, output_hidden_states=True).hidden_states
        masks_B1HW = self.model.decode_head(features)
        last = features[-1].flatten(2)
        seen = [last.mean(2), last.amax(2), masks_B1HW.flatten(1).amax(1, keepdim=True)]
        return self.label_head(torch.cat(seen, 1)).squeeze(1), masks_B1HW.squeeze(1)


class Segformer:
    """Fits the network on labels and masks, and answers with both."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        if settings.weights:
            kind = SegformerForSemanticSegmentation
            model, _ = load_pretrained(kind, settings.weights, new="decode_head", num_labels=1)
        else:
            model = SegformerForSemanticSegmentation(SegformerConfig(**_SHAPES[settings.size], num_labels=1))
        self._device = open_device(settings.device)
        self._network = SegformerNet(model).to(self._device)
        self._recipe = _RECIPES[settings.size].with_epochs(settings.epochs)
        self._side_px, self._seed = _SIDES_PX[settings.size], settings.seed

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
            return label_loss + mask_loss(masks_BHW, target_BHW)

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
