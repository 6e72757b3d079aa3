"""A vision transformer with one logit, as Community Forensics fits it (Park and Owens, CVPR 2025).

As published: ViT-S of 16-px patches at 384 px, trained whole by binary cross-entropy, from the weights of ImageNet if
`--weights vit=FOLDER` gives some; transformers' ViT. Deviations: of their augmentations only crop and flip; random
weights unless a folder is given. "small" has 4 layers 128 wide, and 12-px patches at 144 px.

Crops: the shorter side becomes 440 px (small: 165), as there; a random crop of 384 px (small: 144) to fit, the middle
one to answer.
"""

import torch
from transformers import ViTConfig, ViTForImageClassification

from fxray.baselines.classifier import Classifier
from fxray.baselines.crops import centre_crop, with_short_side
from fxray.baselines.ports import Settings, Size
from fxray.baselines.training import Recipe, open_device
from fxray.baselines.weights import load_pretrained
from fxray.errors import ModelError

_SHAPES: dict[Size, dict[str, int]] = {
    "small": {
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "patch_size": 12, "image_size": 144,
    },
    "published": {
        "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 16, "image_size": 384,
    },
}  # fmt: skip
_MLP_RATIO = 4
_RESIZED_FRAC = 440 / 384
_RECIPES: dict[Size, Recipe] = {"small": Recipe(2, 16, 1e-3, 0.05), "published": Recipe(10, 64, 2e-5, 0.05)}


class VitNet(torch.nn.Module):
    """transformers' classifier, logits alone."""

    def __init__(self, model: ViTForImageClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B] of images [B, 3, side, side]."""
        return self.model(pixel_values=x).logits.squeeze(1)


class Vit(Classifier):
    """Its classifier."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        if settings.weights:
            model, _ = load_pretrained(ViTForImageClassification, settings.weights, new="classifier", num_labels=1)
        else:
            model = ViTForImageClassification(build_config(settings.size))
        side_px = model.config.image_size
        if not isinstance(side_px, int):
            raise ModelError(
                f"image_size is {side_px}, expected one number of pixels",
                where=str(settings.weights),
                remedy="give the folder of a ViT of square images, image_size one number in its config.json",
            )
        resized_px = round(side_px * _RESIZED_FRAC)
        super().__init__(
            VitNet(model),
            open_device(settings.device),
            _RECIPES[settings.size].with_epochs(settings.epochs),
            crop_px=side_px,
            seed=settings.seed,
            before_crop=lambda pixels: with_short_side(pixels, resized_px),
            to_answer=lambda pixels: centre_crop(with_short_side(pixels, resized_px), side_px),
        )


def build_config(size: Size) -> ViTConfig:
    """The shape of the network."""
    shape = _SHAPES[size]
    return ViTConfig(**shape, intermediate_size=_MLP_RATIO * shape["hidden_size"], num_labels=1)
