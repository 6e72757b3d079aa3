"""What each prediction is worth, sample by sample, against the truth.

Legend: N samples. A value that does not apply to a sample is NaN and leaves the mean: accuracy on generated images for
a real one, IoU for an image without annotated regions. An unread verdict applies, and is wrong.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxray.errors import DataError
from fxray.evaluate.predictions import Prediction
from fxray.geometry import clip, match_optimal, union_iou
from fxray.schema import Box, Region, Sample, Verdict

METRICS = {
    "accuracy": "share of images with the right verdict",
    "balanced_accuracy": "mean of the accuracies on real and on generated images",
    "accuracy_real": "share of real images called real",
    "accuracy_generated": "share of generated images called generated",
    "iou": "intersection over union of predicted and true regions, generated images only",
    "matched_iou": "IoU of boxes matched one to one, a box without partner counts 0, generated images only",
    "parse_rate": "share of answers that keep to the grammar (of readable verdicts, where there is no grammar)",
    "boxes_per_image": "predicted boxes on generated images",
}


@dataclass(frozen=True, slots=True)
class SampleScores:
    """Scores of N samples, in the order of the samples.

    Attributes:
        sample_ids: N ids.
        generators: N makers.
        is_generated_N: The truth.
        values: Per metric of `METRICS`, except the balanced accuracy, float64 [N]; NaN where it does not apply.
    """

    sample_ids: tuple[str, ...]
    generators: tuple[str, ...]
    is_generated_N: NDArray[np.bool_]
    values: dict[str, NDArray[np.float64]]


def score_samples(
    predictions: Sequence[Prediction], samples: Sequence[Sample], *, has_boxes: bool = True
) -> SampleScores:
    """Scores exactly one prediction for each sample.

    Args:
        predictions: In any order.
        samples: The truth.
        has_boxes: False for a detector that was taught none; then IoU and boxes do not apply (paper, section 5.3).

    Raises:
        DataError: There is no sample, or the predictions are not those of just these samples.
    """
    if not samples:
        raise DataError("there is no sample to score", remedy="give a dataset with at least one row")
    by_id = {prediction.sample_id: prediction for prediction in predictions}
    _check_same_samples(by_id.keys(), {sample.sample_id for sample in samples})
    pairs = [(by_id[sample.sample_id], sample) for sample in samples]
    is_generated = np.array([sample.annotation.verdict is Verdict.GENERATED for sample in samples])
    is_right = np.array([float(p.verdict is s.annotation.verdict) for p, s in pairs])
    is_parsed = [p.verdict is not None if p.is_strict is None else p.is_strict for p, _ in pairs]
    ious = np.array([_ious(prediction, sample) if has_boxes else (np.nan, np.nan) for prediction, sample in pairs])
    values = {
        "accuracy": is_right,
        "accuracy_real": np.where(is_generated, np.nan, is_right),
        "accuracy_generated": np.where(is_generated, is_right, np.nan),
        "iou": ious[:, 0],
        "matched_iou": ious[:, 1],
        "parse_rate": np.array(is_parsed, dtype=np.float64),
        "boxes_per_image": np.where(is_generated & has_boxes, [len(p.regions) for p, _ in pairs], np.nan),
    }
    return SampleScores(tuple(s.sample_id for s in samples), tuple(s.generator for s in samples), is_generated, values)


def region_ious(predicted: Sequence[Region], sample: Sample) -> tuple[float, float]:
    """IoU of the unions, and mean IoU of the best one-to-one match with a partnerless box on either side counting 0.

    Args:
        predicted: Regions in pixels of the original image; what lies outside the image is cut off.
        sample: Sample with at least one true region.
    """
    boxes, truth = _boxes(predicted, sample), _boxes(sample.annotation.regions, sample)
    matched = sum(iou for _, _, iou in match_optimal(boxes, truth))
    return union_iou(boxes, truth), matched / max(len(boxes), len(truth), 1)


def _ious(prediction: Prediction, sample: Sample) -> tuple[float, float]:
    if sample.annotation.verdict is Verdict.REAL or not sample.annotation.regions:
        return np.nan, np.nan
    return region_ious(prediction.regions, sample)


def _boxes(regions: Sequence[Region], sample: Sample) -> list[Box]:
    clipped = (clip(region.box, sample.width_px, sample.height_px) for region in regions)
    return [box for box in clipped if box is not None]


def _check_same_samples(predicted: AbstractSet[str], samples: AbstractSet[str]) -> None:
    for problem, ids in (("have no prediction", samples - predicted), ("are not in the dataset", predicted - samples)):
        if ids:
            raise DataError(
                f"{len(ids)} samples {problem}, such as {min(ids)!r}",
                remedy="score predictions against the dataset, and the rows of it, that they were made for",
            )
