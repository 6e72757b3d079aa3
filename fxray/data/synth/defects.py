"""How each family's flaw is painted into a rectangle of a picture.

Legend: H, W sides of the rectangle in pixels. Sizes are for pictures of 168 px, of which the tiny model sees 112.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fxray.data.synth.crops import Pixels

Paint = Callable[[np.random.Generator, Pixels, Pixels], Pixels]
"""Draws from the generator, the pixels under the flaw (H, W, 3) and the whole picture; returns new pixels (H, W, 3)."""


def tile_texture(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """One small piece repeats in both directions."""
    height, width = under.shape[:2]
    tile = int(rng.integers(11, 18))
    top, left = int(rng.integers(0, height - tile)), int(rng.integers(0, width - tile))
    piece = under[top : top + tile, left : left + tile]
    piece = (piece - piece.mean((0, 1))) * rng.uniform(1.2, 1.6) + piece.mean((0, 1))
    return piece[np.arange(height) % tile][:, np.arange(width) % tile]


def blur(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """Detail melts away."""
    return _smooth(under, rng.uniform(5, 8))


def duplicate_part(rng: np.random.Generator, under: Pixels, picture: Pixels) -> Pixels:
    """A part of the picture stands two by two times beside itself."""
    height, width = under.shape[:2]
    side = picture.shape[0]
    top, left = int(rng.integers(0, side - height)), int(rng.integers(0, side - width))
    part = _resize(picture[top : top + height, left : left + width], width // 2, height // 2)
    part = (part - part.mean((0, 1))) * 1.2 + part.mean((0, 1))
    return part[np.arange(height) % (height // 2)][:, np.arange(width) % (width // 2)]


def break_text(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """Rows of strokes that look like letters of no script, on a plate."""
    height, width = under.shape[:2]
    paper, ink = (235, 25) if rng.random() < 0.5 else (25, 235)
    plate = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(plate)
    size = int(rng.integers(10, 15))
    for top in range(3, height - size // 2, size + 3):
        for left in range(3, width - size // 2, int(size * 0.8) + 2):
            points = [(left + float(rng.uniform(0, size * 0.7)), top + float(rng.uniform(0, size))) for _ in range(4)]
            draw.line(points, fill=ink, width=2)
    tint = rng.uniform(0.8, 1.0, 3).astype(np.float32)
    return np.asarray(plate, np.float32)[..., None] * tint * 0.85 + under * 0.15


def shift_colour(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """Another hue at the same brightness, and more of it."""
    grey = under.mean(2, keepdims=True)
    angle = rng.uniform(0, 2 * np.pi)
    away = np.array([np.cos(angle), np.cos(angle - 2.09), np.cos(angle + 2.09)], np.float32)
    return grey + (under - grey)[..., [1, 2, 0]] + rng.uniform(55, 80) * away


def bend_geometry(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """Rows and columns swing sideways."""
    height, width = under.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    reach, phase = rng.uniform(6, 10), rng.uniform(0, 6.28)
    bent_x = x + reach * np.sin(2 * np.pi * y / rng.uniform(16, 26) + phase)
    bent_y = y + 0.6 * reach * np.sin(2 * np.pi * x / rng.uniform(16, 26))
    bent = under[bent_y.astype(int).clip(0, height - 1), bent_x.astype(int).clip(0, width - 1)]
    return (bent - bent.mean((0, 1))) * 1.25 + bent.mean((0, 1))


def lay_checker(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """A checkerboard or a grid of seams shines through."""
    height, width = under.shape[:2]
    cell = int(rng.integers(5, 9))
    y, x = np.mgrid[0:height, 0:width] // cell
    strength = rng.uniform(24, 40)
    if rng.random() < 0.5:
        return under + np.where((x + y) % 2 == 0, strength, -strength)[..., None].astype(np.float32)
    inner_y, inner_x = np.mgrid[0:height, 0:width] % (2 * cell)
    return under + np.where((inner_x < 3) | (inner_y < 3), -2, 0.6)[..., None].astype(np.float32) * strength


def cast_shadow(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """Darkness that nothing casts."""
    return under * rng.uniform(0.25, 0.45)


def burst_noise(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """Coarse grain."""
    height, width = under.shape[:2]
    grain = rng.normal(0, rng.uniform(40, 60), (height // 2 + 1, width // 2 + 1, 3)).astype(np.float32)
    return under + grain.repeat(2, 0).repeat(2, 1)[:height, :width]


def put_object(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """A shaded lump of one colour."""
    height, width = under.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    lit_x, lit_y = rng.uniform(0.25, 0.75, 2)
    distance = np.hypot(x / width - lit_x, y / height - lit_y)[..., None]
    colour = rng.uniform(30, 225, 3)
    colour = colour + np.sign(colour - under.mean((0, 1))) * 40
    return (colour * (1.25 - 0.9 * distance)).astype(np.float32)


def _smooth(pixels: Pixels, radius_px: float) -> Pixels:
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius_px)), np.float32)


def _resize(pixels: Pixels, width: int, height: int) -> Pixels:
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)


PAINTS: dict[str, Paint] = {
    "texture-tiling": tile_texture,
    "blur-patch": blur,
    "duplicated-part": duplicate_part,
    "broken-text": break_text,
    "colour-error": shift_colour,
    "geometry-bend": bend_geometry,
    "checker-artefact": lay_checker,
    "shadow-error": cast_shadow,
    "noise-burst": burst_noise,
    "unknown-object": put_object,
}
"""By the name of the family."""
