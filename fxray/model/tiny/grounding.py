"""Generic grounding scenes: named shapes on photographs and painted backgrounds, with their boxes.

This is what the tiny base model is pretrained on. It knows no verdicts, no tags and no flaws.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from fxray.data.synth.crops import draw_crop, draw_varied_crop
from fxray.data.synth.photographs import Split, photographs_of

COLOURS = {
    "red": (215, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 75, 215),
    "yellow": (235, 215, 50),
    "orange": (240, 140, 30),
    "purple": (145, 50, 175),
    "white": (240, 240, 240),
    "black": (18, 18, 18),
}
PATTERNS = ("striped", "checkered", "dotted")
FILTERS = ("blurred", "noisy", "dark", "bright", "negative", "pixelated", "tiled", "tinted", "wavy")
FILLS = (*COLOURS, *PATTERNS, *FILTERS)
FORMS = ("disc", "square", "triangle", "diamond", "ring", "cross")
MAX_SHAPES = 4
MIN_CHANGE = 14.0
"""A shape that changes colours (0 to 255) by less on average would not show."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A planted shape; `box` is `(x_min, y_min, x_max, y_max)` in whole pixels of the scene."""

    fill: str
    form: str
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """What questions and answers call it, such as "red disc"."""
        return f"{self.fill} {self.form}"


@dataclass(frozen=True, slots=True)
class Scene:
    """Pixels (height, width, 3; uint8) and their shapes, from top to bottom."""

    pixels: np.ndarray
    shapes: tuple[Shape, ...]


def draw_scene(rng: np.random.Generator, width_px: int, height_px: int, split: Split = "train") -> Scene:
    """A random scene: in three of ten no shape, else one to four that do not overlap."""
    pixels = _background(rng, width_px, height_px, split)
    shapes: list[Shape] = []
    for box in _place(rng, width_px, height_px, 0 if rng.random() < 0.3 else int(rng.integers(1, MAX_SHAPES + 1))):
        form = str(rng.choice(FORMS, p=(0.19, 0.45, 0.09, 0.09, 0.09, 0.09)))
        mask = _mask(rng, form, box[2] - box[0], box[3] - box[1])
        inside = pixels[box[1] : box[3], box[0] : box[2]]
        fill, painted = _paint(rng, inside)
        if np.abs(painted - inside).mean() < MIN_CHANGE:
            continue
        inside += mask * (painted - inside)
        shapes.append(Shape(fill, form, box))
    if rng.random() < 0.3:
        pixels += rng.normal(0, rng.uniform(1, 5), pixels.shape).astype(np.float32)
    return Scene(
        pixels.clip(0, 255).astype(np.uint8), tuple(sorted(shapes, key=lambda shape: (shape.box[1], shape.box[0])))
    )


def _place(rng: np.random.Generator, width: int, height: int, count: int) -> list[tuple[int, int, int, int]]:
    """Up to `count` boxes with 2 px between them; fewer where no room is left."""
    boxes: list[tuple[int, int, int, int]] = []
    largest = 66 if count == 1 else 58 if count == 2 else 46
    for _ in range(count):
        for _ in range(12):
            w, h = (int(side) for side in rng.integers(18, largest, 2))
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            if all(x >= b[2] + 2 or x + w <= b[0] - 2 or y >= b[3] + 2 or y + h <= b[1] - 2 for b in boxes):
                boxes.append((x, y, x + w, y + h))
                break
    return boxes


def _mask(rng: np.random.Generator, form: str, width: int, height: int) -> np.ndarray:
    """How much of a shape of this form, which touches all sides of its box, covers each pixel (height, width, 1).

    Every other shape has soft edges; a soft square also has round corners.
    """
    y, x = np.ogrid[0:height, 0:width]
    v, u = (y + 0.5) / height * 2 - 1, (x + 0.5) / width * 2 - 1
    is_soft = rng.random() < 0.5
    match form:
        case "disc":
            inside = 1 - np.sqrt(u**2 + v**2)
        case "ring":
            inside = 0.23 - np.abs(np.sqrt(u**2 + v**2) - 0.77)
        case "triangle":
            inside = (v + 1) / 2 + 1 / height - np.abs(u)
        case "diamond":
            inside = 1 + 1 / width - np.abs(u) - np.abs(v)
        case "cross":
            inside = np.maximum(0.36 - np.abs(u), 0.36 - np.abs(v))
        case _:
            inside = 1 - (u**6 + v**6) ** (1 / 6) if is_soft else np.ones((height, width))
    edge_px = rng.uniform(1, 2.5) if is_soft else 1e-3
    return (inside * min(height, width) / 2 / edge_px).clip(0, 1)[..., None].astype(np.float32)


def _paint(rng: np.random.Generator, under: np.ndarray) -> tuple[str, np.ndarray]:
    """A fill and what it makes of the pixels `under` it; one that would not show mostly gives way to another."""
    for _ in range(4):
        kind = rng.random()
        if kind < 0.25:
            fill = str(rng.choice(list(COLOURS)))
            colour = np.asarray(COLOURS[fill], np.float32) + rng.normal(0, 9, 3)
            painted = colour + (1 - rng.uniform(0.75, 1.0)) * (under - under.mean())
        elif kind < 0.45:
            fill = str(rng.choice(PATTERNS))
            painted = _pattern(rng, fill, under)
        else:
            fill = str(rng.choice(FILTERS))
            painted = _filter(rng, fill, under)
        painted = painted.clip(0, 255)
        if np.abs(painted - under).mean() >= MIN_CHANGE:
            break
    return fill, painted


def _pattern(rng: np.random.Generator, fill: str, under: np.ndarray) -> np.ndarray:
    height, width = under.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    period = rng.uniform(5, 11)
    angle = rng.uniform(0, np.pi)
    if fill == "striped":
        on = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period) > 0
    elif fill == "checkered":
        on = ((x // (period / 2)).astype(int) + (y // (period / 2)).astype(int)) % 2 == 0
    else:
        on = ((x % period) - period / 2) ** 2 + ((y % period) - period / 2) ** 2 < (0.32 * period) ** 2
    if rng.random() < 0.5:
        strength = rng.uniform(22, 60)
        return under + np.where(on, strength, -strength)[..., None]
    first = rng.uniform(0, 255, 3)
    second = (first + rng.choice([-1, 1], 3) * rng.uniform(60, 128, 3)) % 256
    return np.where(on[..., None], first, second)


def _filter(rng: np.random.Generator, fill: str, under: np.ndarray) -> np.ndarray:
    height, width = under.shape[:2]
    match fill:
        case "blurred":
            picture = Image.fromarray(under.clip(0, 255).astype(np.uint8))
            return np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(2.5, 5))), np.float32)
        case "noisy":
            channels = 3 if rng.random() < 0.5 else 1
            return under + rng.normal(0, rng.uniform(22, 50), (height, width, channels))
        case "dark":
            return under * rng.uniform(0.3, 0.6)
        case "bright":
            share = rng.uniform(0.35, 0.65)
            return under * (1 - share) + 255 * share
        case "negative":
            return 255 - under
        case "pixelated":
            block = int(rng.integers(5, 9))
            rows, columns = np.arange(height) // block * block, np.arange(width) // block * block
            return under[rows][:, columns]
        case "tinted":
            return under + rng.choice([-1, 1], 3) * rng.uniform(25, 60, 3)
        case "wavy":
            y, x = np.mgrid[0:height, 0:width]
            shift = rng.uniform(3, 6) * np.sin(2 * np.pi * y / rng.uniform(8, 20))
            return under[y, (x + shift).astype(int) % width]
    tile = int(rng.integers(6, 11))
    rows = (np.arange(height) % tile) + int(rng.integers(0, max(1, height - tile)))
    columns = (np.arange(width) % tile) + int(rng.integers(0, max(1, width - tile)))
    return under[rows][:, columns]


def _background(rng: np.random.Generator, width: int, height: int, split: Split) -> np.ndarray:
    """A varied crop of a photograph in six of seven scenes, else a painted ground (height, width, 3; float32)."""
    if rng.random() < 1 / 7:
        return _painted_ground(rng, width, height)
    photographs = photographs_of(split)
    photograph = photographs[int(rng.integers(len(photographs)))]
    if split != "train":
        return draw_crop(rng, photograph, width, height)
    return draw_varied_crop(rng, photographs, photograph, width, height)


def _painted_ground(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Smooth clouds of colour at two scales, sometimes grainy."""
    ground = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((int(rng.integers(2, 5)), 70), (int(rng.integers(6, 20)), 30)):
        coarse = rng.normal(0, strength, (cells, cells, 3))
        picture = Image.fromarray((coarse + 128).clip(0, 255).astype(np.uint8))
        ground += np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), np.float32) - 128
    return (
        ground
        + rng.uniform(60, 190, 3).astype(np.float32)
        + rng.normal(0, rng.uniform(0, 8), ground.shape).astype(np.float32)
    )
