"""The one place where boxes pass between the original image and the frame in which the model speaks.

The model sees the image resized so that both sides are multiples of a token's, or of a tile's, and names boxes in
pixels of that resized image, or in thousandths of each side, as its family was trained to. The two sides are scaled by
different factors.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxray.config.image_size import MAX_ASPECT_RATIO, most_tiles
from fxray.errors import DataError, ModelError
from fxray.geometry import clip
from fxray.schema import Box, Sample

if TYPE_CHECKING:
    from fxray.config.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class Sight:
    """How a base model sees images; by default as a Qwen2.5-VL does.

    Attributes:
        token_px: Side of the square that becomes one token.
        box_grid: Into how many parts boxes divide each side; 0 where they count pixels of the resized image.
        tile_px: Side of the squares that an image is cut into; 0 where it is seen in one piece.
    """

    token_px: int = 28
    box_grid: int = 0
    tile_px: int = 0


AS_QWEN2_5_VL = Sight()


def sight_of(model_path: Path) -> Sight:
    """How a base model sees images.

    Args:
        model_path: Its folder, as `fxray.model.folder.resolve_model_path` gives it.

    Raises:
        ModelError: Its config.json does not say.
    """
    shape = shape_of(model_path)
    return Sight(shape.vision.token_px, shape.family.box_grid, shape.vision.tile_px)


def shape_of(model_path: Path) -> "ModelShape":
    """The numbers of a base model's config.json.

    Raises:
        ModelError: They cannot be read.
    """
    from fxray.config.model_shape import ModelShape, read_shape  # and pydantic, which reading boxes does not need

    shape = read_shape(str(model_path))
    if not isinstance(shape, ModelShape):
        raise ModelError(shape.bound if shape else "lacks config.json", where=str(model_path))
    return shape


def processor_settings(sight: Sight, *, min_pixels: int, max_pixels: int) -> dict[str, Any]:
    """What makes a model's own image processor, here and in vLLM, give images the frame of `smart_frame`."""
    if sight.tile_px:
        return {"crop_to_patches": True, "min_patches": 1, "max_patches": most_tiles(max_pixels, sight.tile_px)}
    return {"size": {"shortest_edge": min_pixels, "longest_edge": max_pixels}}


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
        num_pixels, of_tile = self.model_width_px * self.model_height_px, self.sight.tile_px**2
        return (num_pixels + (of_tile if num_pixels > of_tile else 0)) // self.sight.token_px**2

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
    width_px: int, height_px: int, *, min_pixels: int, max_pixels: int, sight: Sight = AS_QWEN2_5_VL, where: str = ""
) -> Frame:
    """The frame that a model's image processor resizes an image to (`smart_resize` of transformers for a Qwen).

    Both sides are multiples of a token's, the area lies in `[min_pixels, max_pixels]` where that is possible, and the
    aspect ratio stays as near as that allows. Where images are cut into tiles, sides are multiples of a tile's, the
    area is at least one tile's, and its smallest is not bounded otherwise.

    Args:
        width_px: Width of the upright original image.
        height_px: Height of the upright original image.
        min_pixels: Smallest area of the model's frame, in square pixels; says nothing where there are tiles.
        max_pixels: Largest area of the model's frame, in square pixels.
        sight: Of the base model.
        where: Name of the image, for the error.

    Raises:
        DataError: A side is not positive, or one is more than 200 times the other.
    """
    if min(width_px, height_px) < 1:
        raise DataError(f"an image of {width_px}x{height_px} px has no pixels", where=where)
    if max(width_px, height_px) / min(width_px, height_px) > MAX_ASPECT_RATIO:
        raise DataError(
            f"an image of {width_px}x{height_px} px is longer than {MAX_ASPECT_RATIO} times its breadth",
            where=where,
            remedy="crop the image, or leave it out",
        )
    if sight.tile_px:
        columns, rows = _tile_grid(width_px, height_px, most_tiles(max_pixels, sight.tile_px), sight.tile_px)
        return Frame(width_px, height_px, columns * sight.tile_px, rows * sight.tile_px, sight)
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


def frame_of(sample: Sample, *, min_pixels: int, max_pixels: int, sight: Sight) -> Frame:
    """The `smart_frame` of a sample's image."""
    return smart_frame(
        sample.width_px,
        sample.height_px,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        sight=sight,
        where=sample.sample_id,
    )


def _tile_grid(width_px: int, height_px: int, most: int, tile_px: int) -> tuple[int, int]:
    """Columns and rows of tiles whose ratio is nearest to the image's (`get_optimal_tiled_canvas` of transformers).

    Of two that are as near, the one with more tiles, while they have less than twice the image's area.
    """
    grids = [(x, y) for x in range(1, most + 1) for y in range(1, most // x + 1)]
    best, smallest_gap = (1, 1), math.inf
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        gap = abs(width_px / height_px - columns / rows)
        is_filled = width_px * height_px > 0.5 * tile_px * tile_px * columns * rows
        if gap < smallest_gap or (gap == smallest_gap and is_filled):
            best, smallest_gap = (columns, rows), gap
    return best


def _whole_span(low: float, high: float, side_px: int, box_side: int) -> tuple[int, int]:
    """Rounds a span to whole numbers of the model's; one that would vanish becomes those that it touches."""
    low, high = low * box_side / side_px, high * box_side / side_px
    first, last = round(low), min(round(high), box_side)
    if first >= last:
        first = min(math.floor(low), box_side - 1)
        last = max(math.ceil(high), first + 1)
    return first, last
