"""DIRE: what a diffusion model fails to bring back, and a classifier of that (Wang et al., ICCV 2023).

As in the public code (github.com/ZhendongWang6/DIRE): an image is taken to noise and back in 20 deterministic steps
each way (DDIM) by an unconditional diffusion model; the absolute difference, as an image of 8 bits, goes to a ResNet-50
with one logit. `--weights dire=FOLDER` gives the diffusion model, a `UNet2DModel` of diffusers by itself or in a
pipeline; theirs is ADM of 256 px.

Deviations: the ResNet starts from random weights, theirs from ImageNet's; "small" has one block a stage and an eighth
of the width. AdamW with a cosine in place of Adam.

Crops: the shorter side becomes the diffusion model's, its middle is taken, and what differs there is computed once for
each image; of that random crops of 7/8 to fit, as there, and the middle to answer.
"""

import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fxray.baselines.classifier import Classifier, Pixels
from fxray.baselines.crops import centre_crop, with_short_side
from fxray.baselines.diffusion import load_part, open_part
from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import Answer, OnStep, Settings, Size
from fxray.baselines.resnet import SHAPES, ResNet
from fxray.baselines.training import Recipe, open_device, quick_products
from fxray.errors import ModelError, ResourceError

NUM_STEPS = 20
_RECIPES: dict[Size, Recipe] = {"small": Recipe(2, 16, 2e-3), "published": Recipe(20, 64, 1e-4)}


class Dire:
    """A frozen diffusion model, and the classifier of its errors."""

    def __init__(self, settings: Settings) -> None:
        self._device = open_device(settings.device)
        self._unet = load_part("UNet2DModel", settings.weights, subfolder="unet").to(self._device)
        assert settings.weights is not None, "load_part has refused it"
        self._schedules = _schedules(settings.weights)
        side = self._unet.config.sample_size
        if not side or self._unet.config.num_class_embeds:
            raise ModelError(
                f"sample_size is {side}, num_class_embeds {self._unet.config.num_class_embeds}",
                where=str(settings.weights),
                remedy="give an unconditional diffusion model whose configuration has a sample_size",
            )
        self._side_px = int(side if isinstance(side, int) else min(side))
        torch.manual_seed(settings.seed)
        depths, widths = SHAPES[settings.size]
        crop_px = self._side_px * 7 // 8
        self._classifier = Classifier(
            ResNet(depths, widths, stem_px=7, stem_stride=2, head="fc"),
            self._device,
            _RECIPES[settings.size].with_epochs(settings.epochs),
            crop_px=crop_px,
            seed=settings.seed,
            before_crop=lambda pixels: pixels,
            to_answer=lambda pixels: centre_crop(pixels, crop_px),
        )

    @property
    def num_parameters(self) -> int:
        """Those of the diffusion model, and of the classifier."""
        return sum(parameter.numel() for parameter in self._unet.parameters()) + self._classifier.num_parameters

    def fit(self, images: Pictures, is_generated_N: NDArray[np.bool_], masks: Masks, on_step: OnStep) -> None:
        """Computes what differs once for each image, then trains the classifier."""
        shape = (len(images), self._side_px, self._side_px, 3)
        with tempfile.TemporaryFile() as file:  # it has no name, so it is gone however the process ends
            _take_room(file, math.prod(shape))
            kept = np.memmap(file, np.uint8, "r+", shape=shape)
            for place, pixels in enumerate(images.each()):
                kept[place] = self.difference(pixels)
                on_step(place + 1, len(images), math.nan)
            self._classifier.fit(_Differences(kept), is_generated_N, masks, on_step)

    def predict(self, images: Pictures) -> Iterator[Answer]:
        """The classifier's sigmoid."""
        return self._classifier.answers(map(self.difference, images.each()))

    def difference(self, pixels_HW3: Pixels) -> Pixels:
        """The absolute difference to what comes back, uint8 [side, side, 3]."""
        seen = centre_crop(with_short_side(pixels_HW3, self._side_px), self._side_px)
        image = torch.tensor(seen).to(self._device).permute(2, 0, 1)[None].float() / 127.5 - 1
        again = image
        with torch.inference_mode(), quick_products(self._device):
            for schedule in self._schedules:
                for step in schedule.timesteps:
                    noise = self._unet(again, step).sample[:, :3].float()  # ADM also tells a variance
                    again = schedule.step(noise, step, again).prev_sample
        lost = (image - again.clamp(-1, 1)).abs() * 127.5
        return lost[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()


class _Differences:
    """What the classifier is fitted on in place of pictures, uint8 [N, side, side, 3]."""

    def __init__(self, differences: NDArray[np.uint8]) -> None:
        self._differences = differences

    def __len__(self) -> int:
        return len(self._differences)

    def pixels(self, place: int) -> Pixels:
        return self._differences[place]


def _take_room(file: IO[bytes], num_bytes: int) -> None:
    """Takes all blocks of a file that is to be mapped, so that a full disk is told before any of it is computed.

    Raises:
        ResourceError: There is too little room.
    """
    try:
        os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        raise ResourceError(
            f"no room for {num_bytes / 2**20:,.1f} MiB of what differs in the images: {error.strerror}",
            where=tempfile.gettempdir(),
            remedy="free some space, or name another folder: TMPDIR=... fxray baseline run ...",
        ) from error


def _schedules(folder: Path) -> tuple[Any, Any]:
    """The way to noise, and the way back: the folder's own schedule, or ADM's linear one of 1,000 steps."""
    if (folder / "scheduler").is_dir():
        back = open_part("DDIMScheduler", folder, subfolder="scheduler")
    else:
        from diffusers import DDIMScheduler

        back = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    from diffusers import DDIMInverseScheduler

    there = DDIMInverseScheduler.from_config(back.config)
    for schedule in (there, back):
        schedule.set_timesteps(NUM_STEPS)
    return there, back
