"""Draws one sample: a crop of a photograph, and for the class "generated" the flaws of one family in it.

Both classes go the same way to the end: the same crops, and each only where its family's flaws would show, the same
augmentation and the same encoder. So neither texture, size nor compression tells the class.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fxray.data.dataset import Row
from fxray.data.synth.crops import Pixels, draw_crop, draw_varied_crop
from fxray.data.synth.defects import PAINTS
from fxray.data.synth.families import Family
from fxray.data.synth.photographs import Photograph, Split, photographs_of
from fxray.errors import DataError
from fxray.schema import Annotation, Box, Region, Sample, Verdict

REGION_COUNT_FRACS = (0.40, 0.30, 0.20, 0.10)
"""How often there are one, two, three and four flaws."""
LARGEST_SIDE_FRACS = (0.50, 0.42, 0.36, 0.34)
"""The longest side of a flaw, as a share of the image's, where there are one, two, three and four."""
SMALLEST_SIDE_FRAC = 0.22
GAP_FRAC = 0.03
MIN_CHANGE = 30.0
"""A flaw that changes colours (0 to 255) by less on average would not show, and is drawn elsewhere."""
LEAVES_FRAC, OTHERS_FRAC = 0.45, 0.25
"""How many train crops are blended with dead leaves, and with one of another photograph."""
CROPS_PER_PHOTOGRAPH = 4
MAX_PHOTOGRAPHS = 100
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Planted:
    """A picture with flaws and without, and the boxes of the flaws from top to bottom."""

    clean: Pixels
    flawed: Pixels
    boxes: tuple[Box, ...]


def draw_row(
    rng: np.random.Generator,
    sample_id: str,
    split: Split,
    family: Family,
    verdict: Verdict,
    size_px: int,
) -> Row:
    """One dataset row of `size_px` squared, its image a JPEG crop of any photograph of `split`."""
    photograph, planted = plant(rng, split, family, size_px)
    is_generated = verdict is Verdict.GENERATED
    regions = tuple(Region(box, family.caption) for box in planted.boxes)
    annotation = Annotation(verdict, regions, family.tags) if is_generated else Annotation(verdict)
    sample = Sample(
        sample_id=sample_id,
        width_px=size_px,
        height_px=size_px,
        annotation=annotation,
        generator=family.name if is_generated else "real",
        category=photograph.category,
        source=photograph.name,
    )
    return Row(sample, image=encode(planted.flawed if is_generated else planted.clean))


def plant(rng: np.random.Generator, split: Split, family: Family, size_px: int) -> tuple[Photograph, Planted]:
    """Draws crops until the family's flaws show in one; a blur, say, does not show in a plain sky.

    Train crops are varied (`draw_varied_crop`), those of the other splits are not.

    Raises:
        DataError: They show in none of many crops of any photograph.
    """
    photographs = photographs_of(split)
    num_regions = 1 + int(rng.choice(len(REGION_COUNT_FRACS), p=REGION_COUNT_FRACS))
    for _ in range(MAX_PHOTOGRAPHS):
        photograph = photographs[int(rng.integers(len(photographs)))]
        for _ in range(CROPS_PER_PHOTOGRAPH):
            if split == "train":
                crop = draw_varied_crop(
                    rng,
                    photographs,
                    photograph,
                    size_px,
                    size_px,
                    leaves_frac=LEAVES_FRAC,
                    others_frac=OTHERS_FRAC,
                )
            else:
                crop = draw_crop(rng, photograph, size_px, size_px)
            planted = _plant_in_crop(rng, crop, family, num_regions)
            if planted is not None:
                return photograph, planted
    raise DataError(
        f"flaws of family {family.name!r} show in none of {MAX_PHOTOGRAPHS * CROPS_PER_PHOTOGRAPH} crops",
        where=f"photographs of split {split}",
        remedy="lower MIN_CHANGE, or take photographs with more detail",
    )


def _plant_in_crop(rng: np.random.Generator, clean: Pixels, family: Family, num_regions: int) -> Planted | None:
    """The crop with its flaws, or None where fewer than `num_regions` found a place that shows them."""
    flawed, boxes = clean.copy(), list[Box]()
    for _ in range(6 * num_regions):
        box = _draw_box(rng, boxes, len(clean), LARGEST_SIDE_FRACS[num_regions - 1])
        if box is not None and _paint(rng, family, clean, flawed, box):
            boxes.append(box)
        if len(boxes) == num_regions:
            return Planted(clean, flawed, tuple(sorted(boxes, key=lambda box: (box.y_min, box.x_min))))
    return None


def encode(pixels: Pixels) -> bytes:
    """The pixels as a JPEG; both classes come through here."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _draw_box(rng: np.random.Generator, taken: list[Box], size_px: int, largest_frac: float) -> Box | None:
    """A box of whole pixels with a gap to all `taken` ones, or None where the draw hit one of them."""
    shortest, longest = round(SMALLEST_SIDE_FRAC * size_px), round(largest_frac * size_px)
    width, height = (int(side) for side in rng.integers(shortest, longest, 2))
    x, y = int(rng.integers(0, size_px - width + 1)), int(rng.integers(0, size_px - height + 1))
    gap = round(GAP_FRAC * size_px)
    for box in taken:
        if x < box.x_max + gap and box.x_min < x + width + gap and y < box.y_max + gap and box.y_min < y + height + gap:
            return None
    return Box(x, y, x + width, y + height)


def _paint(rng: np.random.Generator, family: Family, clean: Pixels, flawed: Pixels, box: Box) -> bool:
    """Paints one flaw with soft rounded corners into `flawed`; says whether it shows, and leaves no trace if not."""
    x_min, y_min, x_max, y_max = (int(edge) for edge in box)
    under = clean[y_min:y_max, x_min:x_max]
    painted = PAINTS[family.name](rng, under, clean).clip(0, 255)
    height, width = under.shape[:2]
    y, x = np.ogrid[0:height, 0:width]
    v, u = np.abs((y + 0.5) / height * 2 - 1), np.abs((x + 0.5) / width * 2 - 1)
    inside = 1 - (u**6 + v**6) ** (1 / 6)
    mask = (inside * min(height, width) / 2 / 2.0).clip(0, 1)[..., None].astype(np.float32)
    blended = under + mask * (painted - under)
    if np.abs(blended - under).mean() < MIN_CHANGE:
        return False
    flawed[y_min:y_max, x_min:x_max] = blended
    return True
