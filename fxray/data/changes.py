"""What happens to images on their way: saved again, resized, cropped, photographed off a screen.

Each change is a pure function from an image to an image, and says where a place in the changed image lay before. The
same image and change always give the same pixels: what is random about one is drawn from the image itself.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from fxray.data.images import decode_image
from fxray.errors import DataError
from fxray.geometry import clip
from fxray.schema import Box, Region, Sample

JPEG_QUALITIES = (90, 70, 50, 30)
RESIZES = (0.5, 0.75, 1.5)
MAX_JPEG_SIDE_PX = 65_500
"""Of libjpeg, which reads and writes nothing longer."""
MAX_WEBP_SIDE_PX = 16_383
"""Of the format."""
CROP_FRAC = 0.8
"""Of width and height, around the centre."""
SCREEN_SCALE, SCREEN_QUALITY = 0.9, 80
SOCIAL_SIDE_PX, SOCIAL_QUALITY = 1080, 75
ROWS_OF_NOISE = 64
"""Drawn at a time: numbers of 64 bits for all of a photograph are 24 bytes a pixel."""


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

    def from_original(self, box: Box) -> Box:
        """Where a box of the original lies in the changed image."""
        return Box(
            (box.x_min - self.left_px) / self.scale_x,
            (box.y_min - self.top_px) / self.scale_y,
            (box.x_max - self.left_px) / self.scale_x,
            (box.y_max - self.top_px) / self.scale_y,
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
        apply: RGB image to changed image; raises a `DataError` where an image cannot be changed so.
    """

    name: str
    title: str
    apply: Callable[[Image.Image], Changed]


def save_as_jpeg(image: Image.Image, quality: int) -> Changed:
    """Saved as JPEG and opened again, its colours at half the resolution as most programs do.

    Raises:
        DataError: It is longer than a JPEG may be.
    """
    return _whole(_through_jpeg(image, quality), image)


def resize(image: Image.Image, factor: float) -> Changed:
    """Width and height times `factor`, rounded, with Lanczos resampling."""
    return _whole(image.resize(_scaled(image, factor), Image.Resampling.LANCZOS), image)


def fit(image: Image.Image, width_px: int, height_px: int) -> Changed:
    """So wide and so high, with bicubic resampling, as image processors do it."""
    return _whole(image.resize((width_px, height_px), Image.Resampling.BICUBIC), image)


def crop(image: Image.Image, left: int, top: int, width: int, height: int) -> Changed:
    """A window of an image, in its pixels; nothing is resampled."""
    window = Box(float(left), float(top), float(left + width), float(top + height))
    return Changed(image.crop((left, top, left + width, top + height)), 1.0, 1.0, window.x_min, window.y_min, window)


def crop_anywhere(image: Image.Image, frac: float, rng: np.random.Generator) -> Changed:
    """A window of `frac` of width and height, at least a pixel of each, wherever `rng` puts it."""
    width, height = _scaled(image, frac)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return crop(image, left, top, width, height)


def crop_to_centre(image: Image.Image, frac: float) -> Changed:
    """The middle `frac` of width and height, at least a pixel of each; nothing is resampled."""
    width, height = _scaled(image, frac)
    return crop(image, (image.width - width) // 2, (image.height - height) // 2, width, height)


def take_screenshot(image: Image.Image, scale: float, quality: int) -> Changed:
    """Shown smaller by a viewer that interpolates linearly, captured, and sent on as JPEG.

    Raises:
        DataError: It is longer than a JPEG may be.
    """
    return _whole(_through_jpeg(image.resize(_scaled(image, scale), Image.Resampling.BILINEAR), quality), image)


def crop_at_random(image: Image.Image, frac: float) -> Changed:
    """A window of `frac` of width and height anywhere in the image; nothing is resampled."""
    return crop_anywhere(image, frac, _random(image))


def save_as_webp(image: Image.Image, quality: int, effort: int = 4) -> Changed:
    """Saved as lossy WebP and opened again.

    Args:
        image: RGB pixels.
        quality: From 0 to 100.
        effort: Libwebp's method, from 0, the quickest, to 6.

    Raises:
        DataError: It is longer than a WebP may be.
    """
    _refuse_longer(image, MAX_WEBP_SIDE_PX, "WebP")
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=quality, method=effort)
    return _whole(decode_image(encoded.getvalue(), "a changed image"), image)


def blur(image: Image.Image, sigma_px: float) -> Changed:
    """Gaussian blur."""
    return _whole(image.filter(ImageFilter.GaussianBlur(sigma_px)), image)


def add_noise(image: Image.Image, sigma: float, rng: np.random.Generator | None = None) -> Changed:
    """Gaussian noise on each channel, in levels of 255, rounded and cut off at black and white.

    Args:
        image: RGB pixels.
        sigma: In levels.
        rng: Of the noise; the pixels seed it where it is None.
    """
    rng, pixels = rng or _random(image), np.array(image)
    for top in range(0, image.height, ROWS_OF_NOISE):
        rows = pixels[top : top + ROWS_OF_NOISE]
        noisy = rng.normal(0.0, sigma, rows.shape)
        noisy += rows
        rows[...] = np.clip(np.rint(noisy, out=noisy), 0, 255, out=noisy)
    return _whole(Image.fromarray(pixels), image)


def share_twice(image: Image.Image, side_px: int, quality: int) -> Changed:
    """Uploaded, made no longer than `side_px`, saved as JPEG; downloaded and uploaded once more, a little smaller."""
    shared = image
    for frac in (1.0, 0.9):
        factor = min(frac, side_px / max(shared.size))
        shared = _through_jpeg(shared.resize(_scaled(shared, factor), Image.Resampling.LANCZOS), quality)
    return _whole(shared, image)


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

HARDSHIPS = (
    *(Change(f"jpeg-{q}", f"JPEG, quality {q}", partial(save_as_jpeg, quality=q)) for q in (80, 50, 30, 10)),
    Change("crop-random", "random crop to 80%", partial(crop_at_random, frac=CROP_FRAC)),
    *(Change(f"resize-{f:g}", f"resized to {f:.0%}", partial(resize, factor=f)) for f in (0.75, 0.5, 0.25)),
    *(Change(f"webp-{q}", f"WebP, quality {q}", partial(save_as_webp, quality=q)) for q in (80, 50, 30)),
    *(Change(f"blur-{s:g}", f"blur, sigma {s:g} px", partial(blur, sigma_px=s)) for s in (0.5, 1.0, 2.0)),
    *(Change(f"noise-{s:g}", f"noise, sigma {s:g} of 255", partial(add_noise, sigma=s)) for s in (4, 8, 16)),
    Change(
        "screenshot",
        f"screenshot at {SCREEN_SCALE:.0%}, JPEG {SCREEN_QUALITY}",
        partial(take_screenshot, scale=SCREEN_SCALE, quality=SCREEN_QUALITY),
    ),
    Change(
        "social",
        f"shared twice, at most {SOCIAL_SIDE_PX} px, JPEG {SOCIAL_QUALITY}",
        partial(share_twice, side_px=SOCIAL_SIDE_PX, quality=SOCIAL_QUALITY),
    ),
)
"""What a detector is measured under by `fxray robustness`, mildest of a kind first; a name ends in its strength."""


def change_sample(sample: Sample, changed: Changed) -> Sample:
    """The truth of a changed image: regions move with the pixels, and what is no longer in view of them is gone."""
    regions = []
    for region in sample.annotation.regions:
        seen = changed.in_view(region.box)
        if seen is not None:
            regions.append(Region(changed.from_original(seen), region.caption))
    return replace(
        sample,
        width_px=changed.image.width,
        height_px=changed.image.height,
        annotation=replace(sample.annotation, regions=tuple(regions)),
    )


def refuse_too_long(samples: Sequence[Sample], changes: Sequence[Change]) -> None:
    """Sees to it that every change can be made, before anything is answered: by the sizes, no image is read.

    Raises:
        DataError: An image is longer than the format of a change allows.
    """
    for sample in samples:
        if max(sample.width_px, sample.height_px) > min(MAX_JPEG_SIDE_PX, MAX_WEBP_SIDE_PX):
            blank = Image.new("RGB", (sample.width_px, sample.height_px))
            for change in changes:
                try:
                    change.apply(blank)
                except DataError as error:
                    raise DataError(
                        f"{error.message}: {change.title} cannot be tried",
                        where=f"sample {sample.sample_id!r}",
                        remedy="scale the image down, or name the other changes",
                    ) from error


def _random(image: Image.Image) -> np.random.Generator:
    """A generator that the pixels seed."""
    return np.random.default_rng(list(hashlib.sha256(image.tobytes()).digest()))


def _scaled(image: Image.Image, factor: float) -> tuple[int, int]:
    return max(1, round(image.width * factor)), max(1, round(image.height * factor))


def _through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    _refuse_longer(image, MAX_JPEG_SIDE_PX, "JPEG")
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality, subsampling="4:2:0")
    return decode_image(encoded.getvalue(), "a changed image")


def _refuse_longer(image: Image.Image, max_side_px: int, name: str) -> None:
    if max(image.size) > max_side_px:
        raise DataError(
            f"{image.width} x {image.height} px, expected at most {max_side_px} a side in a {name}",
            remedy="scale the image down",
        )


def _whole(image: Image.Image, original: Image.Image) -> Changed:
    """A changed image that shows all of the original."""
    window = Box(0.0, 0.0, float(original.width), float(original.height))
    return Changed(image, original.width / image.width, original.height / image.height, 0.0, 0.0, window)
