"""The one place where boxes pass between the original image and the frame in which the model speaks.

The model sees the image resized so that both sides are multiples of a token's, and names boxes in pixels of that
resized image, or in thousandths of each side, as its family was trained to. The two sides are scaled by different
factors.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from fxray.config.image_size import MAX_ASPECT_RATIO
from fxray.errors import DataError, ModelError
from fxray.geometry import clip
from fxray.schema import Box


@dataclass(frozen=True, slots=True)
class Sight:
    """How a base model sees images; by default as a Qwen2.5-VL does.

    Attributes:
        token_px: Side of the square that becomes one token.
        box_grid: Into how many parts boxes divide each side; 0 where they count pixels of the resized image.
    """

    token_px: int = 28
    box_grid: int = 0


AS_QWEN2_5_VL = Sight()


def sight_of(model_path: Path) -> Sight:
    """How a base model sees images.

    Args:
        model_path: Its folder, as `fxray.model.folder.resolve_model_path` gives it.

    Raises:
        ModelError: Its config.json does not say.
    """
    from fxray.config.model_shape import ModelShape, read_shape  # and pydantic, which reading boxes does not need

    shape = read_shape(str(model_path))
    if not isinstance(shape, ModelShape):
        raise ModelError(shape.bound if shape else "lacks config.json", where=str(model_path))
    return Sight(shape.vision.token_px, shape.family.box_grid)


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of an upright original image, and of what the model sees of it; all in pixels."""

    width_px: int
    height_px: int
    model_width_px: int
    model_height_px: int
    sight: Sight = AS_QWEN2_5_VL

    @property
    def box_width(self) -> int:
        """The x coordinate of the right edge, as the model names it."""
        return self.sight.box_grid or self.model_width_px

    @property
    def box_height(self) -> int:
        """The y coordinate of the lower edge, as the model names it."""
        return self.sight.box_grid or self.model_height_px

    @property
    def num_tokens(self) -> int:
        """Tokens that the image makes."""
        return self.model_width_px * self.model_height_px // self.sight.token_px**2

    def to_model(self, box: Box) -> Box:
        """A box of the original image as the model names it: whole numbers, inside the frame, at least one a side.

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
        x_min, x_max = _whole_span(inside.x_min, inside.x_max, self.width_px, self.box_width)
        y_min, y_max = _whole_span(inside.y_min, inside.y_max, self.height_px, self.box_height)
        return Box(x_min, y_min, x_max, y_max)

    def to_original(self, box: Box) -> Box:
        """A box as the model names it in (fractional) pixels of the original image."""
        return Box(
            box.x_min * self.width_px / self.box_width,
            box.y_min * self.height_px / self.box_height,
            box.x_max * self.width_px / self.box_width,
            box.y_max * self.height_px / self.box_height,
        )


def smart_frame(
    width_px: int, height_px: int, *, min_pixels: int, max_pixels: int, sight: Sight = AS_QWEN2_5_VL
) -> Frame:
    """The frame that Qwen2-VL's image processor resizes an image to (`smart_resize` of transformers).

    Both sides are multiples of a token's, the area lies in `[min_pixels, max_pixels]` where that is possible, and the
    aspect ratio stays as near as that allows.

    Args:
        width_px: Width of the upright original image.
        height_px: Height of the upright original image.
        min_pixels: Smallest area of the model's frame, in square pixels.
        max_pixels: Largest area of the model's frame, in square pixels.
        sight: Of the base model.

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
    factor = sight.token_px
    width, height = round(width_px / factor) * factor, round(height_px / factor) * factor
    if width * height > max_pixels:
        shrink = math.sqrt((height_px * width_px) / max_pixels)
        width = max(factor, math.floor(width_px / shrink / factor) * factor)
        height = max(factor, math.floor(height_px / shrink / factor) * factor)
    elif width * height < min_pixels:
        grow = math.sqrt(min_pixels / (height_px * width_px))
        width = math.ceil(width_px * grow / factor) * factor
        height = math.ceil(height_px * grow / factor) * factor
    return Frame(width_px, height_px, width, height, sight)


def _whole_span(low: float, high: float, side_px: int, box_side: int) -> tuple[int, int]:
    """Rounds a span to whole numbers of the model's; one that would vanish becomes those that it touches."""
    low, high = low * box_side / side_px, high * box_side / side_px
    first, last = round(low), min(round(high), box_side)
    if first >= last:
        first = min(math.floor(low), box_side - 1)
        last = max(math.ceil(high), first + 1)
    return first, last
