"""Families of generators, as the paper's Table 2 sorts its 28, planted defects of synthetic data, sizes of flaws."""

from collections.abc import Iterable

from fxray.data.generators import plain_name
from fxray.data.synth.families import FAMILIES
from fxray.geometry import union_area
from fxray.schema import Sample

_DIFFUSION = (
    "DALL-E 2", "DALL-E 3", "DDIM", "DDPM", "FLUX.1-dev", "FLUX.1-schnell", "GLIDE", "Midjourney v4", "Midjourney v5",
    "SD 1.4", "SD 1.5", "SD 2.1", "SD 3.5 Large", "SD 3.5 Large Turbo", "VQDM",
)  # fmt: skip
_GAN = ("BigGAN", "GALIP", "VQGAN", "StyleGAN-XL")
_DIT = ("PixArtAlpha", "PixArtDelta", "PixArtSigma", "DiT")

REAL_GROUP, OTHER_GROUP, PLANTED_GROUP = "Real", "Others", "Planted defects"
GROUPS = ("Diffusion", "GAN", "DiT", OTHER_GROUP, PLANTED_GROUP, REAL_GROUP)
"""In the order of the table."""

_SIZE_LIMITS = {"flaws up to 5 %": 0.05, "flaws of 5 to 20 %": 0.20, "flaws over 20 %": 1.0}
SIZES = tuple(_SIZE_LIMITS)
"""By the share of the image that its true regions cover together."""

_GROUP_BY_NAME = {
    plain_name(name): group
    for group, names in (("Diffusion", _DIFFUSION), ("GAN", _GAN), ("DiT", _DIT))
    for name in names
}


def group_of(generator: str, *, is_generated: bool, is_synthetic: bool) -> str:
    """The group that a sample is reported in.

    Args:
        generator: Who made the image; case, spaces and punctuation do not matter.
        is_generated: The truth.
        is_synthetic: True where defects were planted in photographs, and the "generator" is a defect family.
    """
    if not is_generated:
        return REAL_GROUP
    if is_synthetic:
        return PLANTED_GROUP
    return _GROUP_BY_NAME.get(plain_name(generator), OTHER_GROUP)


def has_planted_defects(generators: Iterable[str]) -> bool:
    """True where any of the makers of some images is a family of planted defects: such data are synthetic."""
    return not {family.name for family in FAMILIES}.isdisjoint(generators)


def size_of(sample: Sample) -> str:
    """Which of `SIZES` an image is of; empty where no region is marked on it."""
    regions = sample.annotation.regions
    if not regions:
        return ""
    share = union_area([region.box for region in regions]) / (sample.width_px * sample.height_px)
    return next((name for name, limit in _SIZE_LIMITS.items() if share <= limit), SIZES[-1])
