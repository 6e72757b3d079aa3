"""The nouns of the paper as plain values: box, region, tag, verdict, sample.

A box is `(x_min, y_min, x_max, y_max)`. Everywhere in fxray its unit is the pixel of the ORIGINAL image, upright (EXIF
orientation applied), unless a name says `model_frame`; `fxray.data.frame` is the only place that converts.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Box(NamedTuple):
    """An axis-aligned rectangle `[x_min, x_max) x [y_min, y_max)`; corners in pixels."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


class Verdict(StrEnum):
    """The class of an image, and the word that stands for it in an answer."""

    REAL = "real"
    GENERATED = "generated"


class Tag(StrEnum):
    """The six image-level tags (the paper says "five" and lists six)."""

    PERSPECTIVE = "perspective errors"
    ARTISTIC = "artistic styles"
    UNKNOWN = "unknown objects"
    STRUCTURE = "structure errors"
    TEXTURE = "texture errors"
    OTHER = "other anomalies"


@dataclass(frozen=True, slots=True)
class Region:
    """One flaw: where it is, and a caption of it that starts with a noun."""

    box: Box
    caption: str


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is true of an image, or what an answer says of it."""

    verdict: Verdict
    regions: tuple[Region, ...] = ()
    tags: tuple[Tag, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a dataset, without its pixels.

    Attributes:
        sample_id: Unique within the dataset.
        width_px: Width of the upright original image.
        height_px: Height of the upright original image.
        annotation: Verdict, regions (original pixels) and tags. The label field decides the class, never the absence
            of regions.
        generator: Who made the image: a model, a defect family, or "real".
        category: What it shows.
        source: The photograph or collection it comes from; splits never share one.
        annotator: Who marked it; None where that is not known.
    """

    sample_id: str
    width_px: int
    height_px: int
    annotation: Annotation
    generator: str
    category: str
    source: str
    annotator: str | None = None
