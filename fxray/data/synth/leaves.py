"""Dead leaves: pictures of shapes that hide one another, whose statistics are near those of photographs.

Sixteen photographs are few, such pictures as many as one likes (Lee, Mumford and Huang, "Occlusion models for natural
images", 2001; Baradad et al., "Learning to see by looking at noise", 2021).
"""

import numpy as np
from PIL import Image, ImageDraw

SMALLEST_RADIUS_FRAC = 0.03
LARGEST_RADIUS_FRACS = (0.15, 0.5)
"""The largest leaf of a picture has a radius between these shares of the width."""
NUM_LEAVES = (20, 90)
NUM_CORNERS = (3, 24)
FEWEST_CORNERS_OF_AN_ELLIPSE = 9


def draw_dead_leaves(rng: np.random.Generator, width_px: int, height_px: int) -> np.ndarray:
    """Leaves of all sizes, each of one colour near the picture's own, under light and grain that change smoothly.

    Returns:
        Float32 colours (height, width, 3), a little below 0 or above 255 in places.
    """
    colour, spread = rng.uniform(40, 215, 3), rng.uniform(15, 70)
    picture = Image.new("RGB", (width_px, height_px), _rgb(colour))
    draw = ImageDraw.Draw(picture)
    largest_px = rng.uniform(*LARGEST_RADIUS_FRACS) * width_px
    for _ in range(int(rng.integers(*NUM_LEAVES))):
        radius_px = float(np.exp(rng.uniform(np.log(SMALLEST_RADIUS_FRAC * width_px), np.log(largest_px))))
        outline = _outline(rng, radius_px) + rng.uniform(0, 1, 2) * (width_px, height_px)
        leaf_colour = colour + rng.normal(0, spread) + rng.normal(0, spread / 2, 3)
        draw.polygon([(float(x), float(y)) for x, y in outline], fill=_rgb(leaf_colour))
    light = [_smooth_noise(rng, int(rng.integers(2, 7)), width_px, height_px) for _ in range(2)]
    grain = _smooth_noise(rng, int(rng.integers(10, width_px // 2)), width_px, height_px)
    strengths = rng.uniform(0, 90, 3).astype(np.float32)
    return np.asarray(picture, np.float32) + sum(s * noise for s, noise in zip(strengths, [*light, grain], strict=True))


def _outline(rng: np.random.Generator, radius_px: float) -> np.ndarray:
    """Corners (N, 2) around the origin of an ellipse, or of a polygon within one, turned by any angle."""
    num = int(rng.integers(*NUM_CORNERS))
    is_ellipse = num >= FEWEST_CORNERS_OF_AN_ELLIPSE
    angles = np.arange(num) * 2 * np.pi / num if is_ellipse else np.sort(rng.uniform(0, 2 * np.pi, num))
    axes = radius_px * np.exp(rng.normal(0, 0.4, 2))
    turn = rng.uniform(0, 2 * np.pi)
    x, y = axes[0] * np.cos(angles), axes[1] * np.sin(angles)
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1)


def _smooth_noise(rng: np.random.Generator, cells: int, width_px: int, height_px: int) -> np.ndarray:
    """Noise of `cells` by `cells` values, made as large as the picture: (height, width, 1) from -0.5 to 0.5."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    levels = coarse.resize((width_px, height_px), Image.Resampling.BICUBIC)
    return np.asarray(levels, np.float32)[..., None] / 255 - np.float32(0.5)


def _rgb(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(level) for level in colour.clip(0, 255))
    return red, green, blue
