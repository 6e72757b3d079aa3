"""What happens to images on their way: saved again, resized, cropped, photographed off a screen.

Each change is a pure function from an image to an image, and says where a place in the changed image lay before. The
same image and change always give the same pixels.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from PIL import Image

from fxray.geometry import clip
from fxray.schema import Box

JPEG_QUALITIES = (90, 70, 50, 30)
RESIZES = (0.5, 0.75, 1.5)
CROP_FRAC = 0.8
"""Of width and height, around the centre."""
SCREEN_SCALE, SCREEN_QUALITY = 0.9, 80


@dataclass(frozen=True, slots=True)
class Changed:
    """A changed image.

    Attributes:
        image: RGB pixels.
        scale_x: Original pixels per pixel of `image`, across.
        scale_y: Likewise, down.
        left_px: Where the left edge of `image` lies in the original.
        top_px: Likewise, its top edge.
        window: The part of the original that is still in view, in original pixels.
    """

    image: Image.Image
    scale_x: float
    scale_y: float
    left_px: float
    top_px: float
    window: Box

    def to_original(self, box: Box) -> Box | None:
        """Where a box of the changed image lies in the original; None where nothing of it is in view."""
        return self.in_view(
            Box(
                self.left_px + self.scale_x * box.x_min,
                self.top_px + self.scale_y * box.y_min,
                self.left_px + self.scale_x * box.x_max,
                self.top_px + self.scale_y * box.y_max,
            )
        )

    def in_view(self, box: Box) -> Box | None:
        """The part of a box of the original, in original pixels, that the changed image still shows."""
        view = self.window
        moved = Box(box.x_min - view.x_min, box.y_min - view.y_min, box.x_max - view.x_min, box.y_max - view.y_min)
        inside = clip(moved, view.x_max - view.x_min, view.y_max - view.y_min)
        if inside is None:
            return None
        return Box(
            inside.x_min + view.x_min, inside.y_min + view.y_min, inside.x_max + view.x_min, inside.y_max + view.y_min
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that can happen to an image.

    Attributes:
        name: For files: "jpeg-70".
        title: For people: "JPEG, quality 70".
        apply: RGB image to changed image.
    """

    name: str
    title: str
    apply: Callable[[Image.Image], Changed]


def save_as_jpeg(image: Image.Image, quality: int) -> Changed:
    """Saved as JPEG and opened again, its colours at half the resolution as most programs do."""
    return _whole(_through_jpeg(image, quality), image)


def resize(image: Image.Image, factor: float) -> Changed:
    """Width and height times `factor`, rounded, with Lanczos resampling."""
    return _whole(image.resize(_scaled(image, factor), Image.Resampling.LANCZOS), image)


def crop_to_centre(image: Image.Image, frac: float) -> Changed:
    """The middle `frac` of width and height, at least a pixel of each; nothing is resampled."""
    width, height = _scaled(image, frac)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    window = Box(float(left), float(top), float(left + width), float(top + height))
    return Changed(image.crop((left, top, left + width, top + height)), 1.0, 1.0, float(left), float(top), window)


def take_screenshot(image: Image.Image, scale: float, quality: int) -> Changed:
    """Shown smaller by a viewer that interpolates linearly, captured, and sent on as JPEG."""
    return _whole(_through_jpeg(image.resize(_scaled(image, scale), Image.Resampling.BILINEAR), quality), image)


CHANGES = (
    *(Change(f"jpeg-{q}", f"JPEG, quality {q}", partial(save_as_jpeg, quality=q)) for q in JPEG_QUALITIES),
    *(Change(f"resize-{f:g}", f"resized to {f:.0%}", partial(resize, factor=f)) for f in RESIZES),
    Change("crop", f"cropped to the middle {CROP_FRAC:.0%}", partial(crop_to_centre, frac=CROP_FRAC)),
    Change(
        "screenshot",
        f"screenshot at {SCREEN_SCALE:.0%}, JPEG {SCREEN_QUALITY}",
        partial(take_screenshot, scale=SCREEN_SCALE, quality=SCREEN_QUALITY),
    ),
)
"""What an image is tried under, mildest of a kind first."""


def _scaled(image: Image.Image, factor: float) -> tuple[int, int]:
    return max(1, round(image.width * factor)), max(1, round(image.height * factor))


def _through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(encoded).convert("RGB")


def _whole(image: Image.Image, original: Image.Image) -> Changed:
    """A changed image that shows all of the original."""
    window = Box(0.0, 0.0, float(original.width), float(original.height))
    return Changed(image, original.width / image.width, original.height / image.height, 0.0, 0.0, window)
