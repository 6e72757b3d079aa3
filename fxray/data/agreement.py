"""How far several annotators of the same images agree: boxes by IoU, tags and labels by Krippendorff's alpha."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from fxray.counts import counted
from fxray.data.alpha import nominal_alpha
from fxray.data.quality import box_ious
from fxray.errors import DataError
from fxray.schema import Annotation, Tag


@dataclass(frozen=True, slots=True)
class Mark:
    """What one annotator says of one image.

    Attributes:
        image: What identifies the image: an id, or a checksum of it.
        annotator: Who.
        size_px: Width and height of the image that was marked.
        annotation: The mark.
        where: File and row, for errors.
    """

    image: str
    annotator: str
    size_px: tuple[int, int]
    annotation: Annotation
    where: str


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """Two annotators on the images that both marked.

    Attributes:
        annotators: The two, in alphabetical order.
        num_images: Images that both marked.
        box_iou: Mean over the images on which either drew a box; NaN where there is none.
        same_tags_frac: Share of images with the same set of tags.
    """

    annotators: tuple[str, str]
    num_images: int
    box_iou: float
    same_tags_frac: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far annotators agree.

    Attributes:
        num_images: Images that at least two of them marked.
        num_single: Images that only one marked, which say nothing.
        box_iou: Per image the mean over pairs of annotators of their boxes' mean IoU (matched one to one, 0 for a box
            without partner), then over the images on which anybody drew a box; NaN where there is none.
        tag_alpha: Over all pairs of image and tag: present or not.
        alpha_by_tag: Each tag alone; NaN where all or none name it always.
        label_alpha: Real or generated.
        pairs: Each two annotators.
    """

    num_images: int
    num_single: int
    box_iou: float
    tag_alpha: float
    alpha_by_tag: dict[Tag, float]
    label_alpha: float
    pairs: tuple[PairAgreement, ...]

    def to_json(self) -> dict[str, Any]:
        """Numbers by name; null for what cannot be said."""
        return {
            "num_images": self.num_images,
            "num_single": self.num_single,
            "box_iou": _or_null(self.box_iou),
            "tag_alpha": _or_null(self.tag_alpha),
            "alpha_by_tag": {tag.value: _or_null(alpha) for tag, alpha in self.alpha_by_tag.items()},
            "label_alpha": _or_null(self.label_alpha),
            "pairs": [
                {
                    "annotators": list(pair.annotators),
                    "num_images": pair.num_images,
                    "box_iou": _or_null(pair.box_iou),
                    "same_tags_frac": pair.same_tags_frac,
                }
                for pair in self.pairs
            ],
        }


def agree(marks: Iterable[Mark]) -> Agreement:
    """Compares all annotators of each image.

    Raises:
        DataError: Nobody shares an image with another, an annotator marked an image twice, or images that should be one
            differ in size.
    """
    by_image: dict[str, dict[str, Mark]] = {}
    for mark in marks:
        _add(by_image.setdefault(mark.image, {}), mark)
    shared = [list(found.values()) for found in by_image.values() if len(found) > 1]
    if not shared:
        raise DataError(
            f"none of {counted(len(by_image), 'image')} was marked by two annotators",
            remedy="give files that share sample ids, or compare the images themselves with --by-image; rows without "
            "annotator count as their file's",
        )
    images = [[mark.annotation for mark in image] for image in shared]
    pairs: dict[tuple[str, str], list[tuple[Annotation, Annotation]]] = {}
    for image in shared:
        for a, b in combinations(sorted(image, key=lambda mark: mark.annotator), 2):
            pairs.setdefault((a.annotator, b.annotator), []).append((a.annotation, b.annotation))
    by_tag = {tag: [[tag in annotation.tags for annotation in image] for image in images] for tag in Tag}
    return Agreement(
        num_images=len(shared),
        num_single=len(by_image) - len(shared),
        box_iou=_mean([_mean([_pair_iou(a, b) for a, b in combinations(image, 2)]) for image in images]),
        tag_alpha=nominal_alpha(unit for units in by_tag.values() for unit in units),
        alpha_by_tag={tag: nominal_alpha(units) for tag, units in by_tag.items()},
        label_alpha=nominal_alpha([annotation.verdict for annotation in image] for image in images),
        pairs=tuple(_pair(names, pairs[names]) for names in sorted(pairs)),
    )


def _add(found: dict[str, Mark], mark: Mark) -> None:
    if mark.annotator in found:
        raise DataError(
            f"annotator {mark.annotator!r} marked image {mark.image!r} before ({found[mark.annotator].where})",
            where=mark.where,
            remedy="keep one mark of each annotator, or give each annotator a file",
        )
    for other in found.values():
        if other.size_px != mark.size_px:
            raise DataError(
                f"image {mark.image!r} is {mark.size_px[0]}x{mark.size_px[1]} px here, {other.size_px[0]}x"
                f"{other.size_px[1]} px in {other.where}",
                where=mark.where,
                remedy="boxes are in pixels of the image: compare marks of the same one",
            )
    found[mark.annotator] = mark


def _pair(names: tuple[str, str], images: Sequence[tuple[Annotation, Annotation]]) -> PairAgreement:
    num_same = sum(set(a.tags) == set(b.tags) for a, b in images)
    box_iou = _mean([_pair_iou(a, b) for a, b in images])
    return PairAgreement(names, len(images), box_iou, num_same / len(images))


def _pair_iou(a: Annotation, b: Annotation) -> float:
    return _mean(box_ious(a, b))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
