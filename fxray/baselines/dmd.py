"""The ResNet-50 that does not down-sample early (Corvi et al., ICASSP 2023, after Gragnaniello et al. 2021).

As in the public code (github.com/grip-unina/DMimageDetection, networks/resnet_mod.py): neither the first convolution
nor the pooling after it strides, so that traces of single pixels reach the first blocks; 23,510,081 parameters.
`--weights dmd=FILE` starts from ImageNet's weights of a ResNet-50, as they do, or from theirs, converted.

Deviations: a logit averaged over the features, as in their ResNet, but none of their heavy augmentation (JPEG, blur,
noise, cut-out); random weights unless a file is given. "small" has one block a stage and an eighth of the width.

Crops: random ones of 96 px to fit, as there; the whole image to answer, up to 1,024 px from its middle. Never resized.
"""

import torch

from fxray.baselines.classifier import Classifier
from fxray.baselines.crops import centre_crop
from fxray.baselines.ports import Settings, Size
from fxray.baselines.resnet import SHAPES, ResNet
from fxray.baselines.training import Recipe, open_device
from fxray.baselines.weights import load_weights

CROP_PX, MAX_SIDE_PX = 96, 1024
_RECIPES: dict[Size, Recipe] = {"small": Recipe(1, 16, 2e-3), "published": Recipe(20, 64, 1e-4)}


class Dmd(Classifier):
    """Its classifier."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        network = build_network(settings.size)
        if settings.weights:
            load_weights(network, settings.weights, new="fc")
        super().__init__(
            network,
            open_device(settings.device),
            _RECIPES[settings.size].with_epochs(settings.epochs),
            crop_px=CROP_PX,
            seed=settings.seed,
            before_crop=lambda pixels: pixels,
            to_answer=lambda pixels: centre_crop(pixels, MAX_SIDE_PX),
        )


def build_network(size: Size) -> ResNet:
    """The network with random weights."""
    depths, widths = SHAPES[size]
    return ResNet(depths, widths, stem_px=7, stem_stride=1, head="fc")
