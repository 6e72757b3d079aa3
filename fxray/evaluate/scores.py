"""What each prediction is worth, sample by sample, against the truth.

Legend: N samples. A value that does not apply to a sample is NaN and leaves the mean: accuracy on generated images for
a real one, IoU for an image without annotated regions. An unread verdict applies, and is wrong.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxray.data.pairing import check_same_samples
from fxray.errors import DataError
from fxray.evaluate.boxes import AP_THRESHOLDS, BoxHits, find_hits
from fxray.evaluate.captions import NUM_BLEU_COUNTS, Pair, bleu_counts, can_score_captions, rouge_l
from fxray.evaluate.predictions import Prediction
from fxray.geometry import clip, match_optimal, union_iou
from fxray.schema import Box, Region, Sample, Verdict

METRICS = {
    "accuracy": "share of images with the right verdict",
    "balanced_accuracy": "mean of the accuracies on real and on generated images",
    "accuracy_real": "share of real images called real",
    "accuracy_generated": "share of generated images called generated: recall",
    "precision": "share of images called generated that are, where there are real and generated ones",
    "f1": "harmonic mean of precision and recall",
    "iou": "intersection over union of predicted and true regions, generated images only",
    "matched_iou": "IoU of boxes matched one to one, a box without partner counts 0, generated images only",
    "parse_rate": "share of answers that keep to the grammar (of readable verdicts, where there is no grammar)",
    "boxes_per_image": "predicted boxes on generated images",
    "hallucination": "share of real images with a box",
    "boxes_per_real_image": "predicted boxes on real images",
    "box_ap": "average precision of boxes, mean over overlaps of 0.1 to 0.5",
    **{
        f"box_ap_{round(100 * t)}": f"average precision of boxes that overlap by {t:.0%} at least"
        for t in AP_THRESHOLDS
    },
    "bleu": "BLEU of the captions of matched regions, as a fraction of 1",
    "rouge_l": "ROUGE-L of the captions of matched regions, mean over images",
    "tag_f1": "F1 of the tags, mean over generated images with tags",
}
"""By mean over samples or, for the average precisions and BLEU, by what all samples come to together."""

_Pair = tuple[Prediction, Sample]


@dataclass(frozen=True, slots=True)
class SampleScores:
    """Scores of N samples, in the order of the samples.

    Attributes:
        sample_ids: N ids.
        generators: N makers.
        is_generated_N: The truth.
        values: Per metric of `METRICS` that is a mean, float64 [N]; NaN where it does not apply.
        probabilities_N: Of "generated"; NaN where an image has none.
        hits: For the average precisions; None for a detector without boxes.
        bleu_counts_N10: For BLEU; None where captions are not scored.
    """

    sample_ids: tuple[str, ...]
    generators: tuple[str, ...]
    is_generated_N: NDArray[np.bool_]
    values: dict[str, NDArray[np.float64]]
    probabilities_N: NDArray[np.float64]
    hits: BoxHits | None
    bleu_counts_N10: NDArray[np.int64] | None

    def part(self, is_in_N: NDArray[np.bool_]) -> "SampleScores":
        """Scores of some of the samples."""
        rows = np.flatnonzero(is_in_N)
        return SampleScores(
            tuple(self.sample_ids[row] for row in rows),
            tuple(self.generators[row] for row in rows),
            self.is_generated_N[rows],
            {name: numbers[rows] for name, numbers in self.values.items()},
            self.probabilities_N[rows],
            self.hits.part(is_in_N) if self.hits else None,
            None if self.bleu_counts_N10 is None else self.bleu_counts_N10[rows],
        )


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
    if len(by_id) < len(predictions):
        twice, count = Counter(prediction.sample_id for prediction in predictions).most_common(1)[0]
        raise DataError(f"sample {twice!r} is answered {count} times", remedy="keep one prediction for each sample")
    check_same_samples(by_id.keys(), {sample.sample_id for sample in samples})
    pairs = [(by_id[sample.sample_id], sample) for sample in samples]
    is_generated = np.array([sample.annotation.verdict is Verdict.GENERATED for sample in samples])
    captions = [_caption_pairs(*pair) for pair in pairs] if has_boxes and _has_captions(predictions) else None
    return SampleScores(
        tuple(sample.sample_id for sample in samples),
        tuple(sample.generator for sample in samples),
        is_generated,
        _verdict_values(pairs, is_generated)
        | _box_values(pairs, is_generated, has_boxes=has_boxes)
        | {
            "rouge_l": np.array([rouge_l(each) for each in captions] if captions else np.full(len(samples), np.nan)),
            "tag_f1": _tag_values(pairs, has_tags=any(prediction.tags for prediction in predictions)),
        },
        np.array([np.nan if p.probability is None else p.probability for p, _ in pairs]),
        _box_hits(pairs) if has_boxes else None,
        np.array([bleu_counts(each) for each in captions]).reshape(-1, NUM_BLEU_COUNTS) if captions else None,
    )


def region_ious(predicted: Sequence[Region], sample: Sample) -> tuple[float, float]:
    """IoU of the unions, and mean IoU of the best one-to-one match with a partnerless box on either side counting 0.

    Args:
        predicted: Regions in pixels of the original image; what lies outside the image is cut off.
        sample: Sample with at least one true region.
    """
    boxes, truth = _boxes(predicted, sample), _boxes(sample.annotation.regions, sample)
    matched = sum(iou for _, _, iou in match_optimal(boxes, truth))
    return union_iou(boxes, truth), matched / max(len(boxes), len(truth), 1)


def _verdict_values(pairs: Sequence[_Pair], is_generated_N: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    is_right = np.array([float(p.verdict is s.annotation.verdict) for p, s in pairs])
    is_parsed = [p.verdict is not None if p.is_strict is None else p.is_strict for p, _ in pairs]
    is_flagged = np.array([p.verdict is Verdict.GENERATED for p, _ in pairs])
    return {
        "accuracy": is_right,
        "accuracy_real": np.where(is_generated_N, np.nan, is_right),
        "accuracy_generated": np.where(is_generated_N, is_right, np.nan),
        "precision": np.where(is_flagged, is_right, np.nan),
        "parse_rate": np.array(is_parsed, dtype=np.float64),
    }


def _box_values(
    pairs: Sequence[_Pair], is_generated_N: NDArray[np.bool_], *, has_boxes: bool
) -> dict[str, NDArray[np.float64]]:
    ious = np.array([_ious(prediction, sample) if has_boxes else (np.nan, np.nan) for prediction, sample in pairs])
    counts = np.array([float(len(prediction.regions)) if has_boxes else np.nan for prediction, _ in pairs])
    on_real = np.where(is_generated_N, np.nan, counts)
    return {
        "iou": ious[:, 0],
        "matched_iou": ious[:, 1],
        "boxes_per_image": np.where(is_generated_N, counts, np.nan),
        "hallucination": np.minimum(on_real, 1.0),
        "boxes_per_real_image": on_real,
    }


def _tag_values(pairs: Sequence[_Pair], *, has_tags: bool) -> NDArray[np.float64]:
    """F1 of the sets of tags; NaN on real images, without true tags, and for a detector that never gives any."""
    values = np.full(len(pairs), np.nan)
    for row, (prediction, sample) in enumerate(pairs):
        said, truth = set(prediction.tags), set(sample.annotation.tags)
        if has_tags and truth and sample.annotation.verdict is Verdict.GENERATED:
            values[row] = 2 * len(said & truth) / (len(said) + len(truth))
    return values


def _box_hits(pairs: Sequence[_Pair]) -> BoxHits:
    """Boxes ranked by their own scores, else by the image's probability of "generated", else last.

    One that lies outside the image finds nothing there, and counts as a false one.
    """
    predicted, scores, truth = [], [], []
    for prediction, sample in pairs:
        of_image = -math.inf if prediction.probability is None else prediction.probability
        boxes = [clip(r.box, sample.width_px, sample.height_px) or r.box for r in prediction.regions]
        predicted.append(boxes)
        scores.append(prediction.box_scores or [of_image] * len(boxes))
        truth.append(_boxes(sample.annotation.regions, sample))
    return find_hits(predicted, scores, truth)


def _has_captions(predictions: Sequence[Prediction]) -> bool:
    return can_score_captions() and any(region.caption for p in predictions for region in p.regions)


def _caption_pairs(prediction: Prediction, sample: Sample) -> list[Pair]:
    """Captions of the regions that match; of a region that lies outside the image nothing does."""
    said = [(box, r.caption) for r in prediction.regions if (box := clip(r.box, sample.width_px, sample.height_px))]
    truth = sample.annotation.regions
    matches = match_optimal([box for box, _ in said], [region.box for region in truth])
    return [(said[i][1], truth[j].caption) for i, j, _ in matches]


def _ious(prediction: Prediction, sample: Sample) -> tuple[float, float]:
    if sample.annotation.verdict is Verdict.REAL or not sample.annotation.regions:
        return np.nan, np.nan
    return region_ious(prediction.regions, sample)


def _boxes(regions: Sequence[Region], sample: Sample) -> list[Box]:
    clipped = (clip(region.box, sample.width_px, sample.height_px) for region in regions)
    return [box for box in clipped if box is not None]
