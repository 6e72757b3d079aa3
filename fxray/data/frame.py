"""The one place where boxes pass between the original image and the frame in which the model speaks.

The model sees the image resized so that both sides are multiples of a patch factor, and names boxes in pixels of that
resized image. The two sides are scaled by different factors.
"""

import math
from dataclasses import dataclass

from fxray.config.image_size import MAX_ASPECT_RATIO
from fxray.errors import DataError
from fxray.geometry import clip
from fxray.schema import Box


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of an upright original image, and of what the model sees of it; all in pixels."""

    width_px: int
    height_px: int
    model_width_px: int
    model_height_px: int

    def to_model(self, box: Box) -> Box:
        """A box of the original image in the model's frame: whole pixels, inside the frame, at least one pixel a side.

        Args:
            box: In pixels of the original image; what lies outside the image is cut off.

        Raises:
            DataError: Nothing of the box lies inside the image.
        """
        inside = clip(box, self.width_px, self.height_px)
        if inside is None:
            raise DataError(
                f"box {tuple(box)} covers nothing of the {self.width_px}x{self.height_px} px image",
                remedy="give boxes as (x_min, y_min, x_max, y_max) in pixels of the upright original image",
            )
        x_min, x_max = _whole_span(inside.x_min, inside.x_max, self.width_px, self.model_width_px)
        y_min, y_max = _whole_span(inside.y_min, inside.y_max, self.height_px, self.model_height_px)
        return Box(x_min, y_min, x_max, y_max)

    def to_original(self, box: Box) -> Box:
        """A box of the model's frame in (fractional) pixels of the original image."""
        return Box(
            box.x_min * self.width_px / self.model_width_px,
            box.y_min * self.height_px / self.model_height_px,
            box.x_max * self.width_px / self.model_width_px,
            box.y_max * self.height_px / self.model_height_px,
        )


def smart_frame(width_px: int, height_px: int, *, min_pixels: int, max_pixels: int, factor: int = 28) -> Frame:
    """The frame that Qwen2-VL's image processor resizes an image to (`smart_resize` of transformers).

    Both sides are multiples of `factor`, the area lies in `[min_pixels, max_pixels]` where that is possible, and the
    aspect ratio stays as near as that allows.

    Args:
        width_px: Width of the upright original image.
        height_px: Height of the upright original image.
        min_pixels: Smallest area of the model's frame, in square pixels.
        max_pixels: Largest area of the model's frame, in square pixels.
        factor: Pixels per side of one merged patch.

    Raises:
        DataError: A side is not positive, or one is more than 200 times the other.
    """
    if min(width_px, height_px) < 1:
        raise DataError(f"an image of {width_px}x{height_px} px has no pixels")
    if max(width_px, height_px) / min(width_px, height_px) > MAX_ASPECT_RATIO:
        raise DataError(
            f"an image of {width_px}x{height_px} px is longer than {MAX_ASPECT_RATIO} times its breadth",
            remedy="crop the image, or leave it out",
        )
    width, height = round(width_px / factor) * factor, round(height_px / factor) * factor
    if width * height > max_pixels:
        shrink = math.sqrt((height_px * width_px) / max_pixels)
        width = max(factor, math.floor(width_px / shrink / factor) * factor)
        height = max(factor, math.floor(height_px / shrink / factor) * factor)
    elif width * height < min_pixels:
        grow = math.sqrt(min_pixels / (height_px * width_px))
        width = math.ceil(width_px * grow / factor) * factor
        height = math.ceil(height_px * grow / factor) * factor
    return Frame(width_px, height_px, width, height)


def _whole_span(low: float, high: float, side_px: int, model_side_px: int) -> tuple[int, int]:
    """Rounds a span to whole pixels of the model's frame; one that would vanish becomes the pixels it touches."""
    low, high = low * model_side_px / side_px, high * model_side_px / side_px
    first, last = round(low), min(round(high), model_side_px)
    if first >= last:
        first = min(math.floor(low), model_side_px - 1)
        last = max(math.ceil(high), first + 1)
    return first, last
