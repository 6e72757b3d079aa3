"""Quality control of annotations (paper section 3): a drawn part is compared with a reference set, box by box.

The paper asks for an IoU of at least 20 % and a tag accuracy of at least 33.3 % on 5 % of the images. It leaves open
how boxes are paired, how many of them must pass and what accuracy of tag sets is. Here boxes are matched one to one
with the largest total IoU, a box without partner on either side has IoU 0, a given share must pass, and the accuracy of
an image's tags is the multi-label one: |both| / |either|, 1 where neither side names a tag.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fxray.counts import counted
from fxray.data.strata import by_luck, draw_rows
from fxray.errors import DataError
from fxray.geometry import match_optimal
from fxray.schema import Annotation, Sample, Verdict

UNKNOWN = "(unknown)"
"""Stands for the annotator of rows that name none."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What annotations must reach.

    Attributes:
        min_iou: IoU from which on a box agrees with the reference.
        min_box_share: Share of boxes that must agree.
        min_tag_accuracy: Mean accuracy of an image's tags.
    """

    min_iou: float
    min_box_share: float
    min_tag_accuracy: float


@dataclass(frozen=True, slots=True)
class ImageQuality:
    """How one image's annotation compares with its reference.

    Attributes:
        sample_id: The image.
        annotator: Who marked it.
        ious: One per pair of boxes, then 0 for each box without partner, on whichever side.
        num_boxes: Annotated boxes.
        num_reference_boxes: Boxes of the reference.
        tag_accuracy: |both| / |either|.
    """

    sample_id: str
    annotator: str
    ious: tuple[float, ...]
    num_boxes: int
    num_reference_boxes: int
    tag_accuracy: float


@dataclass(frozen=True, slots=True)
class Quality:
    """What some images say of an annotator, or of all.

    Attributes:
        annotator: Whose annotations.
        num_images: Images compared.
        num_boxes: Annotated boxes.
        num_reference_boxes: Boxes of the reference.
        mean_iou: Over all boxes, those without partner included; NaN where neither side has a box.
        box_share: Share of boxes that agree; NaN where neither side has a box.
        tag_accuracy: Mean over the images.
        failures: Which thresholds are missed; none of them where there is no box to judge.
    """

    annotator: str
    num_images: int
    num_boxes: int
    num_reference_boxes: int
    mean_iou: float
    box_share: float
    tag_accuracy: float
    failures: tuple[str, ...]

    @property
    def is_passed(self) -> bool:
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Numbers by name; null for what cannot be said."""
        return {
            "annotator": self.annotator,
            "num_images": self.num_images,
            "num_boxes": self.num_boxes,
            "num_reference_boxes": self.num_reference_boxes,
            "mean_iou": None if math.isnan(self.mean_iou) else self.mean_iou,
            "box_share": None if math.isnan(self.box_share) else self.box_share,
            "tag_accuracy": self.tag_accuracy,
            "is_passed": self.is_passed,
            "failures": list(self.failures),
        }


def draw_for_control(samples: Sequence[Sample], *, fraction: float, seed: int) -> list[int]:
    """Rows to compare: a fraction of the generated images, by annotator and generator; of each annotator at least one.

    Raises:
        DataError: There is no generated image; real ones carry no annotation.
    """
    strata: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for row, sample in enumerate(samples):
        if sample.annotation.verdict is Verdict.GENERATED:
            strata.setdefault((annotator_of(sample), sample.generator), []).append((row, sample.sample_id))
    if not strata:
        raise DataError("no row is labelled generated, so nothing is annotated", remedy="give annotated images")
    rows = draw_rows(strata, fraction=fraction, seed=seed)
    missing = {annotator for annotator, _ in strata} - {annotator_of(samples[row]) for row in rows}
    for annotator in sorted(missing):
        members = [member for (name, _), some in strata.items() if name == annotator for member in some]
        rows.append(by_luck(members, seed)[0][0])
    return sorted(rows)


def annotator_of(sample: Sample) -> str:
    """Who marked a sample, or a word for nobody known."""
    return sample.annotator or UNKNOWN


def compare(samples: Sequence[Sample], references: Mapping[str, Sample]) -> list[ImageQuality]:
    """Compares each sample with the reference of its id.

    Raises:
        DataError: A sample has no reference, or one of an image of another size.
    """
    if lacking := [sample.sample_id for sample in samples if sample.sample_id not in references]:
        raise DataError(
            f"{len(lacking)} of {counted(len(samples), 'drawn image has', 'drawn images have')} no reference, such as "
            f"{lacking[0]!r}",
            where="field sample_id",
            remedy="mark them (the command without --reference lists the drawn ids), or draw only among those that "
            "have a reference with --covered",
        )
    return [_compare(sample, references[sample.sample_id]) for sample in samples]


def judge(images: Sequence[ImageQuality], thresholds: Thresholds) -> tuple[Quality, list[Quality]]:
    """All images together, and each annotator's."""
    by_annotator: dict[str, list[ImageQuality]] = {}
    for image in images:
        by_annotator.setdefault(image.annotator, []).append(image)
    return _judge("all", images, thresholds), [
        _judge(annotator, by_annotator[annotator], thresholds) for annotator in sorted(by_annotator)
    ]


def box_ious(left: Annotation, right: Annotation) -> tuple[float, ...]:
    """IoU of each pair of boxes under the match of largest total IoU, then 0 for each box without partner."""
    a, b = [region.box for region in left.regions], [region.box for region in right.regions]
    matched = [iou for _, _, iou in match_optimal(a, b)]
    return (*matched, *[0.0] * (max(len(a), len(b)) - len(matched)))


def tag_accuracy(left: Annotation, right: Annotation) -> float:
    """|both| / |either|; 1 where neither side names a tag."""
    a, b = set(left.tags), set(right.tags)
    return len(a & b) / len(a | b) if a | b else 1.0


def _compare(sample: Sample, reference: Sample) -> ImageQuality:
    if (sample.width_px, sample.height_px) != (reference.width_px, reference.height_px):
        raise DataError(
            f"the reference is of an image of {reference.width_px}x{reference.height_px} px, expected "
            f"{sample.width_px}x{sample.height_px}",
            where=f"sample {sample.sample_id!r}",
            remedy="mark the same image; boxes are in its pixels",
        )
    return ImageQuality(
        sample_id=sample.sample_id,
        annotator=annotator_of(sample),
        ious=box_ious(sample.annotation, reference.annotation),
        num_boxes=len(sample.annotation.regions),
        num_reference_boxes=len(reference.annotation.regions),
        tag_accuracy=tag_accuracy(sample.annotation, reference.annotation),
    )


def _judge(name: str, images: Sequence[ImageQuality], thresholds: Thresholds) -> Quality:
    ious = [iou for image in images for iou in image.ious]
    box_share = sum(iou >= thresholds.min_iou for iou in ious) / len(ious) if ious else math.nan
    accuracy = sum(image.tag_accuracy for image in images) / len(images)
    failures = []
    if box_share < thresholds.min_box_share:
        failures.append("boxes")
    if accuracy < thresholds.min_tag_accuracy - 1e-9:
        failures.append("tags")
    return Quality(
        annotator=name,
        num_images=len(images),
        num_boxes=sum(image.num_boxes for image in images),
        num_reference_boxes=sum(image.num_reference_boxes for image in images),
        mean_iou=sum(ious) / len(ious) if ious else math.nan,
        box_share=box_share,
        tag_accuracy=accuracy,
        failures=tuple(failures),
    )
