"""Logistic regression on a frozen encoder's features (Ojha et al., CVPR 2023, "UniversalFakeDetect").

As published: the encoder is never trained, the classifier is linear; theirs is CLIP's ViT-L/14, which
`--weights linear-probe=FOLDER` gives. Deviations: scikit-learn's regression on standardised features in place of
stochastic descent; without a folder the encoder is the vision tower of fxray's tiny model, which was trained on shapes.

Any vision encoder of transformers will do: its own image features if it has such (CLIP, SigLIP), else its pooled
output if that was trained, else the mean of its last states; of a Qwen2.5-VL the mean over image tokens. (Where the
paper's tables say "NPR [32]", their reference 32 is this one; `npr` is the method of that name.)

Crops and resizing: those of the encoder's own image processor.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from fxray.baselines.linear import LinearHead
from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import Answer, OnStep, Settings
from fxray.baselines.training import open_device
from fxray.baselines.weights import REFUSALS, load_pretrained
from fxray.errors import ModelError
from fxray.model.folder import resolve_model_path
from fxray.model.load import load_model

_TOGETHER = 16

Encode = Callable[[list[Image.Image]], torch.Tensor]
"""From images to features [images, F]."""


class LinearProbe:
    """A frozen encoder and a linear head."""

    def __init__(self, settings: Settings) -> None:
        folder = settings.weights or resolve_model_path("tiny")
        self._encode, self._num_frozen = _open_encoder(folder, open_device(settings.device))
        self._head = LinearHead(settings.seed)

    @property
    def num_parameters(self) -> int:
        """Those of the encoder and of the head."""
        return self._num_frozen + self._head.num_parameters

    def fit(self, images: Pictures, is_generated_N: NDArray[np.bool_], masks: Masks, on_step: OnStep) -> None:  # noqa: ARG002
        """Encodes each image once, then fits the head."""
        parts = []
        for features_BF in self._features(images):
            parts.append(features_BF)
            on_step(sum(map(len, parts)), len(images), math.nan)
        self._head.fit(np.concatenate(parts), is_generated_N)

    def predict(self, images: Pictures) -> Iterator[Answer]:
        """The head's probability."""
        for features_BF in self._features(images):
            yield from map(Answer, self._head.predict(features_BF))

    def _features(self, images: Pictures) -> Iterator[NDArray[np.float64]]:
        """Of some images at a time, so that whoever waits hears of them."""
        for start in range(0, len(images), _TOGETHER):
            end = min(start + _TOGETHER, len(images))
            seen = [Image.fromarray(images.pixels(place)) for place in range(start, end)]
            with torch.inference_mode():
                yield self._encode(seen).double().cpu().numpy()


def _open_encoder(folder: Path, device: torch.device) -> tuple[Encode, int]:
    """What encodes images, and its number of parameters.

    Raises:
        ModelError: The folder holds no vision encoder.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except REFUSALS as error:
        raise ModelError(
            f"is no vision encoder: {str(error).splitlines()[0]}",
            where=str(folder),
            remedy="give a folder with config.json, model.safetensors and preprocessor_config.json",
        ) from error
    if config.model_type == "qwen2_5_vl":
        tower = load_model(folder, dtype="float32").model.visual.to(device)
        return (lambda images: _tower_features(tower, processor, images, device)), _count(tower)
    model, lacking = load_pretrained(AutoModel, folder, new="pooler")
    model.to(device).eval()
    encoder = getattr(model, "vision_model", model)

    def encode(images: list[Image.Image]) -> torch.Tensor:
        pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(device)
        if hasattr(model, "get_image_features"):
            found = model.get_image_features(pixel_values=pixels)
            return found if isinstance(found, torch.Tensor) else found.pooler_output
        seen = model(pixel_values=pixels)
        pooled = None if lacking else getattr(seen, "pooler_output", None)
        return (seen.last_hidden_state.mean(1) if pooled is None else pooled).flatten(1)

    return encode, _count(encoder)


def _tower_features(
    tower: Any,
    processor: Callable[..., dict[str, torch.Tensor]],
    images: list[Image.Image],
    device: torch.device,
) -> torch.Tensor:
    patches = processor(images=images, return_tensors="pt")
    grid_N3 = patches["image_grid_thw"].to(device)
    tokens = tower(patches["pixel_values"].to(device), grid_thw=grid_N3).pooler_output
    num_tokens = (grid_N3.prod(-1) // tower.spatial_merge_size**2).tolist()
    return torch.stack([part.mean(0) for part in tokens.split(num_tokens)])


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
