"""NPR: neighbouring pixel relations (Tan et al., CVPR 2024, "Rethinking the Up-Sampling Operations ...").

As in the public code (github.com/chuangchuangtan/NPR-DeepfakeDetection, networks/resnet.py): the image minus itself,
halved and doubled again by nearest neighbour, times 2/3, goes into a ResNet-50 that is cut after its second stage and
begins with a 3x3 convolution: 1,437,761 parameters. Its own names of weights, so a converted NPR.pth loads.

Deviations: an odd last row or column is cut off, which the code there cannot take; AdamW with a cosine, where they take
Adam with steps, and the few epochs of `_RECIPES`.

Crops: random ones of 224 px (small: 80) to fit, as there but without resizing to 256 px first, which would destroy what
is looked at; the whole image to answer, up to 2,048 px from its middle.
"""

import torch
from torch.nn import functional

from fxray.baselines.classifier import Classifier
from fxray.baselines.crops import centre_crop
from fxray.baselines.ports import Settings, Size
from fxray.baselines.resnet import ResNet
from fxray.baselines.training import Recipe, open_device
from fxray.baselines.weights import load_weights

MAX_SIDE_PX = 2048
_CROPS_PX: dict[Size, int] = {"small": 80, "published": 224}
_RECIPES: dict[Size, Recipe] = {"small": Recipe(1, 16, 1e-3), "published": Recipe(50, 32, 2e-4)}


class NprNet(ResNet):
    """The network with its residual in front."""

    def __init__(self) -> None:
        super().__init__((3, 4), (64, 128), stem_px=3, stem_stride=2, head="fc1")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B] of images [B, 3, H, W]."""
        return super().forward(up_sampling_residual(x) * (2 / 3))


class Npr(Classifier):
    """Its classifier."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        network = NprNet()
        if settings.weights:
            load_weights(network, settings.weights, new="fc1")
        super().__init__(
            network,
            open_device(settings.device),
            _RECIPES[settings.size].with_epochs(settings.epochs),
            crop_px=_CROPS_PX[settings.size],
            seed=settings.seed,
            before_crop=lambda pixels: pixels,
            to_answer=lambda pixels: centre_crop(pixels, MAX_SIDE_PX),
        )


def up_sampling_residual(x: torch.Tensor) -> torch.Tensor:
    """What is lost when each 2 x 2 pixels become their upper left one, float [B, 3, H, W], H and W made even."""
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
    return x - functional.interpolate(x[..., ::2, ::2], scale_factor=2, mode="nearest")
