"""Training images as they reach a detector: cropped, made smaller, blurred or noisy, saved again.

What is done to an image is drawn from a key, so that a visit of training meets the same pixels however often it is
repeated. Blur and JPEG in training make detectors of generated images hold under both, and under others (Wang et al.,
"CNN-generated images are surprisingly easy to spot... for now", CVPR 2020, section 4.2).
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from fxray.data.changes import (
    MAX_WEBP_SIDE_PX,
    Changed,
    add_noise,
    blur,
    change_sample,
    crop,
    crop_anywhere,
    resize,
    save_as_jpeg,
    save_as_webp,
)
from fxray.data.frame import Frame
from fxray.data.order import derived_seed
from fxray.errors import DataError
from fxray.geometry import area
from fxray.schema import Sample

STEP_FRAC = 0.5
"""How often each step is taken of an image that is changed."""
CROP_FRACS = (0.6, 1.0)
"""Of width and height."""
KEPT_FRAC = 0.5
"""Share of each region that a crop leaves in view at least; what cuts off more is not done."""
SHRINK_FACTORS = (0.4, 1.0)
BLUR_SIGMAS_PX = (0.2, 2.0)
NOISE_SIGMAS = (1.0, 16.0)
"""In levels of 255."""
QUALITIES = (30, 95)
"""Of JPEG and WebP, the upper end included."""


def drawn(share: float, *key: object) -> np.random.Generator | None:
    """What decides how an image is changed; None for one that stays as it is.

    Args:
        share: Of the keys that are not None.
        key: Of the visit.
    """
    rng = np.random.default_rng(derived_seed("augment", *key))
    return rng if rng.random() < share else None


def augment(image: Image.Image, sample: Sample, rng: np.random.Generator) -> tuple[Image.Image, Sample]:
    """An image as it might arrive, and its truth: regions move with the pixels, and verdict and tags stay.

    Args:
        image: RGB pixels of the sample.
        sample: Its size and regions.
        rng: From `drawn`.
    """
    for step in (_cropped, _shrunk, _softened, _saved):
        if rng.random() < STEP_FRAC:
            changed = step(image, sample, rng)
            image, sample = changed.image, change_sample(sample, changed)
    return image, sample


def arriving(
    image: Image.Image, sample: Sample, rng: np.random.Generator, frame_of: Callable[[Sample], Frame]
) -> tuple[Image.Image, Sample] | None:
    """`augment`; None where no frame could hold the image, or it would make more tokens than as it is.

    Args:
        image: RGB pixels of the sample.
        sample: Its size and regions.
        rng: From `drawn`.
        frame_of: The frame in which the model sees a sample.

    Raises:
        DataError: The frame of the image as it is cannot be had.
    """
    most_tokens = frame_of(sample).num_tokens
    try:
        changed, moved = augment(image, sample, rng)
        is_larger = frame_of(moved).num_tokens > most_tokens
    except DataError:  # a cut that made it too long for its breadth
        return None
    return None if is_larger else (changed, moved)


def _cropped(image: Image.Image, sample: Sample, rng: np.random.Generator) -> Changed:
    """A window anywhere; the whole image where a region would be lost."""
    changed = crop_anywhere(image, rng.uniform(*CROP_FRACS), rng)
    for region in sample.annotation.regions:
        seen = changed.in_view(region.box)
        if seen is None or area(seen) < KEPT_FRAC * area(region.box):
            return crop(image, 0, 0, image.width, image.height)
    return changed


def _shrunk(image: Image.Image, _: Sample, rng: np.random.Generator) -> Changed:
    return resize(image, rng.uniform(*SHRINK_FACTORS))


def _softened(image: Image.Image, _: Sample, rng: np.random.Generator) -> Changed:
    if rng.random() < 0.5:
        return blur(image, rng.uniform(*BLUR_SIGMAS_PX))
    return add_noise(image, rng.uniform(*NOISE_SIGMAS), rng)


def _saved(image: Image.Image, _: Sample, rng: np.random.Generator) -> Changed:
    """JPEG or WebP; an image that is longer than a WebP may be stays as it is."""
    quality = int(rng.integers(QUALITIES[0], QUALITIES[1] + 1))
    save = save_as_jpeg if rng.random() < 0.5 else partial(save_as_webp, effort=0)
    return save(image, quality) if max(image.size) <= MAX_WEBP_SIDE_PX else crop(image, 0, 0, image.width, image.height)
