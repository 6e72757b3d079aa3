"""Crops of photographs, and the variation that makes a few photographs stand for many.

A model that has seen sixteen photographs knows them by heart and takes whatever is in another one for a flaw. So train
crops are turned, stretched, recoloured, blended with one another or with dead leaves and seen through worse lenses;
test crops are not.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from fxray.data.synth.leaves import draw_dead_leaves
from fxray.data.synth.photographs import Photograph, load_photograph

Pixels = np.ndarray
"""Float32 colours (height, width, 3) of 0 to 255."""

SMALLEST_CROP_FRAC = 0.3
"""A crop is at least this share of the largest one that fits into the photograph."""
LARGEST_SHORT_SIDE_PX = 512
_GREY_AXIS = np.full((3, 3), 1 / 3, np.float32)
_TURN_ROUND_GREY = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.sqrt(3).astype(np.float32)


def draw_crop(rng: np.random.Generator, photograph: Photograph, width_px: int, height_px: int) -> Pixels:
    """A piece at a random place and scale, perhaps mirrored, a little brighter or darker."""
    pixels = np.asarray(_cut(rng, photograph, width_px, height_px, stretch=1.0), np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    mean = pixels.mean()
    pixels = (pixels - mean) * np.float32(rng.uniform(0.85, 1.15)) + mean + np.float32(rng.uniform(-18, 18))
    return pixels.clip(0, 255)


def draw_varied_crop(
    rng: np.random.Generator,
    photographs: tuple[Photograph, ...],
    photograph: Photograph,
    width_px: int,
    height_px: int,
    *,
    leaves_frac: float = 0.0,
    others_frac: float = 0.5,
) -> Pixels:
    """A piece of `photograph` that is varied in shape, colour and sharpness, and perhaps blended with another picture.

    Where the blend follows a cloud, its edges teach that a sharp outline alone is no flaw.

    Args:
        rng: What everything is drawn from.
        photographs: Those that a blend may take.
        photograph: The one that is cut.
        width_px: Of the piece.
        height_px: Of the piece.
        leaves_frac: Share of the pieces that are blended with dead leaves.
        others_frac: Share that is blended with a piece of any of `photographs`.
    """
    pixels = _turned_cut(rng, photograph, width_px, height_px)
    blend = rng.random()
    if blend < leaves_frac:
        pixels = _blend(pixels, draw_dead_leaves(rng, width_px, height_px), _draw_share(rng, width_px, height_px))
    elif blend < leaves_frac + others_frac:
        other = photographs[int(rng.integers(len(photographs)))]
        share = _draw_share(rng, width_px, height_px)
        pixels = _blend(pixels, _turned_cut(rng, other, width_px, height_px), share)
    pixels = _recolour(rng, pixels)
    if rng.random() < 0.2:
        picture = Image.fromarray(pixels.astype(np.uint8))
        pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 0.012 * width_px))), np.float32)
    if rng.random() < 0.2:
        pixels = pixels + rng.normal(0, rng.uniform(2, 8), pixels.shape).astype(np.float32)
    return pixels.clip(0, 255)


def _draw_share(rng: np.random.Generator, width_px: int, height_px: int) -> Pixels:
    """How much of the other picture a blend takes: the same everywhere, or a cloud."""
    kind = rng.random()
    if kind < 0.4:
        return np.full((1, 1, 1), rng.uniform(0.15, 0.5), np.float32)
    return _cloud(rng, width_px, height_px, is_sharp=kind < 0.8)


def _blend(pixels: Pixels, other: Pixels, share: Pixels) -> Pixels:
    return (1 - share) * pixels + share * other


def _cloud(rng: np.random.Generator, width: int, height: int, is_sharp: bool) -> Pixels:
    """Smooth noise between 0 and 1 (height, width, 1), pushed towards both ends where its edges shall be sharp."""
    cells = int(rng.integers(2, 7))
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    levels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)[..., None] / 255
    steepness = np.float32(rng.uniform(10, 60) if is_sharp else 1)
    return ((levels - np.float32(0.5)) * steepness + np.float32(0.5)).clip(0, 1)


def _cut(rng: np.random.Generator, photograph: Photograph, width: int, height: int, stretch: float) -> Image.Image:
    picture = _handy_photograph(photograph)
    aspect = width / height * stretch
    widest = min(picture.width, picture.height * aspect)
    w = widest * float(np.exp(rng.uniform(np.log(SMALLEST_CROP_FRAC), 0)))
    h = w / aspect
    x, y = rng.uniform(0, picture.width - w), rng.uniform(0, picture.height - h)
    return picture.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h), reducing_gap=2.0)


def _turned_cut(rng: np.random.Generator, photograph: Photograph, width: int, height: int) -> Pixels:
    """A cut stretched by up to 1.4, mirrored either way, and turned by any angle in one of two."""
    stretch = float(np.exp(rng.uniform(-0.33, 0.33)))
    if rng.random() < 0.5:
        side = int(np.ceil(np.hypot(width, height)))
        picture = _cut(rng, photograph, side, side, stretch).rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR)
        left, top = (side - width) // 2, (side - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    else:
        picture = _cut(rng, photograph, width, height, stretch)
    pixels = np.asarray(picture, np.float32)
    return pixels[:: int(rng.choice((1, -1))), :: int(rng.choice((1, -1)))]


def _recolour(rng: np.random.Generator, pixels: Pixels) -> Pixels:
    """Another hue in one of two, another saturation, grey in one of six, another tone, contrast and brightness."""
    if rng.random() < 1 / 6:
        pixels = pixels.mean(2, keepdims=True).repeat(3, 2)
        pixels = pixels * rng.uniform(0.85, 1.15, 3).astype(np.float32) if rng.random() < 0.3 else pixels
    else:
        angle = np.float32(rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.normal(0, 0.15))
        saturation = np.float32(rng.uniform(0.3, 1.5))
        turn = np.cos(angle) * (np.eye(3, dtype=np.float32) - _GREY_AXIS) + np.sin(angle) * _TURN_ROUND_GREY
        pixels = pixels @ (_GREY_AXIS + saturation * turn).T
    if rng.random() < 0.5:
        levels = np.arange(256, dtype=np.float32) / 255
        curve = 255 * levels ** np.float32(np.exp(rng.uniform(-0.6, 0.6)))
        pixels = (curve[::-1] if rng.random() < 0.15 else curve)[pixels.clip(0, 255).astype(np.uint8)]
    mean = pixels.mean()
    pixels = (pixels - mean) * np.float32(rng.uniform(0.65, 1.3)) + mean + np.float32(rng.uniform(-30, 30))
    return pixels.clip(0, 255).astype(np.float32)


@cache
def _handy_photograph(photograph: Photograph) -> Image.Image:
    """The photograph, scaled down where it is much larger than any crop needs."""
    picture = load_photograph(photograph)
    factor = min(1.0, LARGEST_SHORT_SIDE_PX / min(picture.size))
    size = (round(picture.width * factor), round(picture.height * factor))
    return picture.resize(size, Image.Resampling.LANCZOS)
