"""AEROBLADE: what an image loses in a latent diffusion model's autoencoder (Ricker et al., CVPR 2024).

As published: nothing is trained; an image goes through the autoencoder of a latent diffusion model and back, and the
smaller the distance, the more it looks generated; the distance is that of the second layer of LPIPS (VGG-16), and where
several autoencoders are given, the smallest counts. `--weights aeroblade=FOLDER` gives a folder of diffusers
(`AutoencoderKL`, by itself or in a pipeline), or a folder of such folders; beside them `vgg16.safetensors` with
torchvision's names of weights.

Deviations: channels of that layer count alike, where LPIPS has learned weights; without `vgg16.safetensors` the
distance is the mean squared error of pixels. The score is 1 / (1 + distance / median distance of the images that are
fitted on), which keeps the order.

The whole image is seen, up to 1,024 px from its middle, cut to what the autoencoder can halve; never resized.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional

from fxray.baselines.crops import centre_crop
from fxray.baselines.diffusion import load_part
from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import Answer, OnStep, Settings
from fxray.baselines.training import open_device, quick_products
from fxray.errors import ModelError

MAX_SIDE_PX = 1024
VGG = "vgg16.safetensors"
_CONVOLUTIONS = (0, 2, 5, 7)
"""Of VGG-16, up to relu2_2; it pools before the third."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of two images [1, 3, H, W] in [-1, 1]; a number."""


class Aeroblade:
    """Distances to what autoencoders make of an image."""

    def __init__(self, settings: Settings) -> None:
        folder, self._device = settings.weights, open_device(settings.device)
        folders = [folder] if folder is None or _is_model(folder) else sorted(filter(_is_model, folder.iterdir()))
        kinds = [load_part("AutoencoderKL", each, subfolder="vae") for each in folders or [folder]]
        self._autoencoders = [autoencoder.to(self._device) for autoencoder in kinds]
        file = folder / VGG if folder else Path(VGG)
        self._distance, self._num_seeing = _lpips(file, self._device) if file.is_file() else (functional.mse_loss, 0)
        self._scale = 1.0

    @property
    def num_parameters(self) -> int:
        """Those of the autoencoders, and of what compares."""
        each = (parameter.numel() for module in self._autoencoders for parameter in module.parameters())
        return sum(each) + self._num_seeing

    def fit(self, images: Pictures, is_generated_N: NDArray[np.bool_], masks: Masks, on_step: OnStep) -> None:  # noqa: ARG002
        """Finds the scale of the distances; labels are not looked at."""
        distances = []
        for distance in self._distances(images):
            distances.append(distance)
            on_step(len(distances), len(images), math.nan)
        self._scale = float(np.median(distances)) or 1.0

    def predict(self, images: Pictures) -> Iterator[Answer]:
        """The smaller the distance, the higher the score."""
        return (Answer(1 / (1 + distance / self._scale)) for distance in self._distances(images))

    def _distances(self, images: Pictures) -> Iterator[float]:
        for pixels_HW3 in images.each():
            cut = torch.tensor(centre_crop(pixels_HW3, MAX_SIDE_PX)).to(self._device).permute(2, 0, 1)[None]
            with torch.inference_mode(), quick_products(self._device):
                yield min(float(self._lost(cut.float() / 127.5 - 1, each)) for each in self._autoencoders)

    def _lost(self, image: torch.Tensor, autoencoder: Any) -> torch.Tensor:
        factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        height, width = (length // factor * factor for length in image.shape[-2:])
        image = functional.interpolate(image, (factor, factor)) if not height * width else image[..., :height, :width]
        again = autoencoder.decode(autoencoder.encode(image).latent_dist.mode()).sample.clamp(-1, 1)
        return self._distance(image, again.float())


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "vae").is_dir()


def _lpips(file: Path, device: torch.device) -> tuple[Distance, int]:
    """The distance of LPIPS's second layer, all channels alike, and its number of parameters.

    Raises:
        ModelError: The file is of another network.
    """
    try:
        found = load_file(file, device=str(device))
        layers = [(found[f"features.{i}.weight"], found[f"features.{i}.bias"]) for i in _CONVOLUTIONS]
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(
            f"no weights of VGG-16: {error}", where=str(file), remedy="give torchvision's, saved as safetensors"
        ) from error
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _STD))

    def features(image: torch.Tensor) -> torch.Tensor:
        x = ((image + 1) / 2 - mean) / std
        for number, (weight, bias) in enumerate(layers):
            x = functional.conv2d(functional.max_pool2d(x, 2) if number == 2 else x, weight, bias, padding=1).relu()
        return functional.normalize(x, dim=1)

    def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (features(one) - features(other)).square().sum(1).mean()

    return distance, sum(weight.numel() + bias.numel() for weight, bias in layers)
