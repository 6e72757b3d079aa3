"""From images of any size to the pixels that a network sees."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

_MEAN, _STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of ImageNet, by which all of the published networks here normalise."""


def random_crop(pixels_HW3: NDArray[np.uint8], side_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A square from a random place, flipped sideways half of the time; a smaller image is mirrored at its borders."""
    pixels_HW3 = _at_least(pixels_HW3, side_px)
    height, width = pixels_HW3.shape[:2]
    y, x = (int(rng.integers(free + 1)) for free in (height - side_px, width - side_px))
    crop = pixels_HW3[y : y + side_px, x : x + side_px]
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def centre_crop(pixels_HW3: NDArray[np.uint8], max_side_px: int) -> NDArray[np.uint8]:
    """The middle of an image, at most so long and so broad; a smaller image whole."""
    height, width = pixels_HW3.shape[:2]
    y, x = max(0, height - max_side_px) // 2, max(0, width - max_side_px) // 2
    return pixels_HW3[y : y + max_side_px, x : x + max_side_px]


def with_short_side(pixels_HW3: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """An image resized, proportions kept, so that its shorter side has a length."""
    height, width = pixels_HW3.shape[:2]
    scale = side_px / min(height, width)
    return resized(pixels_HW3, max(side_px, round(height * scale)), max(side_px, round(width * scale)))


def resized(pixels_HW3: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.uint8]:
    """An image of another size, bicubic; untouched where it has that size."""
    if pixels_HW3.shape[:2] == (height_px, width_px):
        return pixels_HW3
    return np.asarray(Image.fromarray(pixels_HW3).resize((width_px, height_px), Image.Resampling.BICUBIC))


def to_tensor(images: list[NDArray[np.uint8]], device: torch.device) -> torch.Tensor:
    """Images of one size as a batch, float32 [images, 3, H, W], normalised."""
    batch = torch.from_numpy(np.ascontiguousarray(np.stack(images))).to(device).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return ((batch / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def _at_least(pixels_HW3: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    missing = [max(0, side_px - length) for length in pixels_HW3.shape[:2]]
    if not any(missing):
        return pixels_HW3
    return np.pad(pixels_HW3, [(0, missing[0]), (0, missing[1]), (0, 0)], "symmetric")
