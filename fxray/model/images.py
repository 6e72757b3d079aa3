"""From images to patches."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, BaseImageProcessor
from transformers.utils import is_torchvision_available

from fxray.data.frame import processor_settings, shape_of, sight_of
from fxray.errors import ModelError


def load_image_processor(path: Path, *, min_pixels: int, max_pixels: int) -> BaseImageProcessor:
    """The model's image processor, with these bounds on the area of an image (square pixels) after resizing.

    Raises:
        ModelError: torchvision is absent: transformers would take Pillow without a word, whose patches are others than
            those that an engine sees.
    """
    if not is_torchvision_available():
        remedy = "install fxray with its extra on every machine: fxray[cpu] or fxray[cuda]"
        raise ModelError("torchvision is absent, which makes the patches of images", where=str(path), remedy=remedy)
    sight = sight_of(path)
    settings = processor_settings(sight, min_pixels=min_pixels, max_pixels=max_pixels)
    processor = AutoImageProcessor.from_pretrained(path, local_files_only=True, **settings)
    if sight.tile_px:  # it knows of tiles alone
        processor.patch_size = shape_of(path).vision.patch_size
    return processor


def preprocess(image_processor: BaseImageProcessor, images: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches, or tiles, of images, one image after the other.

    Args:
        image_processor: The model's image processor.
        images: Upright RGB images.

    Returns:
        pixel_values: float32 [patches, channels x 2 x patch x patch], or [tiles, channels, height, width].
        image_grid_thw: int64 [images, 3], frames or tiles, rows and columns of patches; their product is the image's
            patches.
    """
    patches = image_processor(images=list(images), return_tensors="pt")
    if "image_grid_thw" in patches:
        return patches["pixel_values"], patches["image_grid_thw"]
    height_px, width_px = patches["pixel_values"].shape[-2:]
    side = image_processor.patch_size
    return patches["pixel_values"], torch.tensor(
        [(tiles, height_px // side, width_px // side) for tiles in patches["num_patches"].tolist()]
    )


def count_image_tokens(image_grid_thw: torch.Tensor, merge_size: int) -> list[int]:
    """How many tokens each image makes, from its grid of patches and the side of the square that is merged into one."""
    return (image_grid_thw.prod(-1) // merge_size**2).tolist()
