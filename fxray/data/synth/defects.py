"""How each family's flaw is painted into a rectangle of a picture.

Legend: H, W sides of the rectangle in pixels. Sizes are for pictures of 168 px, of which the tiny model sees 112.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from fxray.data.synth.crops import Pixels

Paint = Callable[[np.random.Generator, Pixels, Pixels], Pixels]
"""Draws from the generator, the pixels under the flaw (H, W, 3) and the whole picture; returns new pixels (H, W, 3)."""


def tile_texture(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """One small piece repeats in both directions."""
    height, width = under.shape[:2]
    tile = min(int(rng.integers(10, 16)), height, width)
    piece = _stress(_liveliest_piece(rng, under, tile, tile), rng.uniform(45, 60))
    return piece[np.arange(height) % tile][:, np.arange(width) % tile]


def smear(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """Detail is drawn out into streaks, along the rows or along the columns."""
    streaks = under.mean(int(rng.integers(0, 2)), keepdims=True)
    return np.broadcast_to(_stress(streaks, rng.uniform(55, 75)), under.shape)


def duplicate_part(rng: np.random.Generator, under: Pixels, picture: Pixels) -> Pixels:
    """A part of the picture stands two by two times beside itself, each copy cut out with a rim."""
    height, width = under.shape[:2]
    part = _resize(_liveliest_piece(rng, picture, height, width), width // 2, height // 2)
    part = _stress(part, rng.uniform(35, 50))
    rim = 245 if rng.random() < 0.5 else 10
    part[:3], part[-3:], part[:, :3], part[:, -3:] = rim, rim, rim, rim
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
    return grey + (under - grey)[..., [1, 2, 0]] + rng.uniform(75, 110) * away


def bend_geometry(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """Rows and columns swing sideways like rubber, light on one flank of each wave and dark on the other."""
    height, width = under.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    reach, phase = rng.uniform(6, 10), rng.uniform(0, 6.28)
    wave = 2 * np.pi * (y + reach * np.sin(2 * np.pi * x / rng.uniform(30, 50) + phase)) / rng.uniform(14, 22)
    bent_x = x + reach * np.sin(wave)
    bent = under[y, bent_x.astype(int).clip(0, width - 1)]
    return bent + (rng.uniform(50, 75) * np.cos(wave))[..., None].astype(np.float32)


def lay_checker(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """A checkerboard or a grid of seams shines through."""
    height, width = under.shape[:2]
    cell = int(rng.integers(5, 9))
    y, x = np.mgrid[0:height, 0:width] // cell
    strength = rng.uniform(40, 60)
    if rng.random() < 0.5:
        return under + np.where((x + y) % 2 == 0, strength, -strength)[..., None].astype(np.float32)
    inner_y, inner_x = np.mgrid[0:height, 0:width] % (2 * cell)
    return under + np.where((inner_x < 3) | (inner_y < 3), -2, 0.6)[..., None].astype(np.float32) * strength


def cast_shadow(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """Darkness that nothing casts."""
    return under * rng.uniform(0.1, 0.3)


def burst_noise(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """Coarse grain."""
    height, width = under.shape[:2]
    grain = rng.normal(0, rng.uniform(65, 90), (height // 4 + 1, width // 4 + 1, 3)).astype(np.float32)
    return under + grain.repeat(4, 0).repeat(4, 1)[:height, :width]


def put_object(rng: np.random.Generator, under: Pixels, _picture: Pixels) -> Pixels:
    """A shaded lump of one colour."""
    height, width = under.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    lit_x, lit_y = rng.uniform(0.25, 0.75, 2)
    distance = np.hypot(x / width - lit_x, y / height - lit_y)[..., None]
    colour = rng.uniform(30, 225, 3)
    colour = colour + np.sign(colour - under.mean((0, 1))) * 40
    return (colour * (1.25 - 0.9 * distance)).astype(np.float32)


def _liveliest_piece(rng: np.random.Generator, pixels: Pixels, height: int, width: int) -> Pixels:
    """Of five pieces of this size at random places the one whose colours differ most."""
    tops = rng.integers(0, max(1, pixels.shape[0] - height), 5)
    lefts = rng.integers(0, max(1, pixels.shape[1] - width), 5)
    pieces = [pixels[top : top + height, left : left + width] for top, left in zip(tops, lefts, strict=True)]
    return max(pieces, key=lambda piece: float(piece.std()))


def _stress(pixels: Pixels, contrast: float) -> Pixels:
    """The pixels, their differences from the mean colour stretched to at least this standard deviation."""
    mean = pixels.mean((0, 1))
    away = pixels - mean
    return away * max(1.0, contrast / max(float(away.std()), 4.0)) + mean


def _resize(pixels: Pixels, width: int, height: int) -> Pixels:
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)


PAINTS: dict[str, Paint] = {
    "texture-tiling": tile_texture,
    "blur-patch": smear,
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
