"""From images to patches."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, Qwen2VLImageProcessor


def load_image_processor(path: Path, *, min_pixels: int, max_pixels: int) -> Qwen2VLImageProcessor:
    """The model's image processor, with these bounds on the area of an image (square pixels) after resizing."""
    size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    return AutoImageProcessor.from_pretrained(path, local_files_only=True, size=size)


def preprocess(
    image_processor: Qwen2VLImageProcessor, images: Sequence[Image.Image]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of images, one image after the other.

    Args:
        image_processor: The model's image processor.
        images: Upright RGB images.

    Returns:
        pixel_values: float32 [patches, channels x 2 x patch x patch].
        image_grid_thw: int64 [images, 3], frames, rows and columns of patches; their product is the image's patches.
    """
    patches = image_processor(images=list(images), return_tensors="pt")
    return patches["pixel_values"], patches["image_grid_thw"]


def count_image_tokens(image_grid_thw: torch.Tensor, merge_size: int) -> list[int]:
    """How many tokens each image makes, from its grid of patches and the side of the square that is merged into one."""
    return (image_grid_thw.prod(-1) // merge_size**2).tolist()
