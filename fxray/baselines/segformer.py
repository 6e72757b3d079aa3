"""SegFormer with two tasks (Xie et al., NeurIPS 2021; as the paper's section 5.1 adapts it).

As in the paper: boxes become binary masks for the segmentation, real or generated is classified beside it. The encoder
and the all-MLP decoder are transformers' SegformerForSemanticSegmentation; "published" is MiT-B0.

The paper does not say how the label is read off, how the losses are weighed, nor which of the sizes B0 to B5 it takes.
Here the label's logit is linear in the mean and the maximum over places of the encoder's last features, and in the
maximum of the mask's logits; the loss is the sum of both cross-entropies and 1 - Dice of generated images' masks.
`--weights segformer=FOLDER` starts from an encoder, of any size. "small" has one block a stage, half as wide or less.

Crops: none. The image is resized to 512 x 512 px (small: 112 x 112), and the mask back to the image's own size; flips.
"""

import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from fxray.baselines.ports import Settings, Size
from fxray.baselines.segmenter import Segmenter
from fxray.baselines.training import Recipe, open_device
from fxray.baselines.weights import load_pretrained

_SIDES_PX: dict[Size, int] = {"small": 112, "published": 512}
_SHAPES: dict[Size, dict[str, object]] = {
    "small": {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "decoder_hidden_size": 64},
    "published": {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
}
_RECIPES: dict[Size, Recipe] = {"small": Recipe(3, 16, 2e-3), "published": Recipe(20, 32, 1e-4)}


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


class Segformer(Segmenter):
    """Its masks and labels."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        if settings.weights:
            kind = SegformerForSemanticSegmentation
            model, _ = load_pretrained(kind, settings.weights, new="decode_head", num_labels=1)
        else:
            model = SegformerForSemanticSegmentation(SegformerConfig(**_SHAPES[settings.size], num_labels=1))
        super().__init__(
            SegformerNet(model),
            open_device(settings.device),
            _RECIPES[settings.size].with_epochs(settings.epochs),
            side_px=_SIDES_PX[settings.size],
            mask_weight=1.0,
            seed=settings.seed,
        )
