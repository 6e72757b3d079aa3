"""Scores against numbers worked out by hand."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fxray.errors import DataError
from fxray.evaluate.boxes import AP_THRESHOLDS, average_precisions
from fxray.evaluate.captions import can_score_captions
from fxray.evaluate.predictions import Prediction
from fxray.evaluate.scores import score_samples
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict


def sample(sample_id: str, *boxes: Box, verdict: Verdict = Verdict.GENERATED) -> Sample:
    regions = tuple(Region(box, "Flaw") for box in boxes)
    return Sample(sample_id, 10, 10, Annotation(verdict, regions), "family", "thing", "photograph")


def predicted(sample_id: str, *boxes: Box, verdict: Verdict | None = Verdict.GENERATED) -> Prediction:
    return Prediction(sample_id, verdict, tuple(Region(box, "Flaw") for box in boxes))


LEFT, TOP, CORNER = Box(0, 0, 5, 10), Box(0, 0, 10, 5), Box(0, 0, 5, 5)


@pytest.mark.parametrize(
    ("boxes", "truth", "iou", "matched_iou"),
    [
        ([LEFT], [LEFT], 1, 1),
        ([TOP], [LEFT], 25 / 75, 25 / 75),
        ([CORNER], [LEFT], 25 / 50, 25 / 50),
        ([], [LEFT], 0, 0),
        ([LEFT, LEFT], [LEFT], 1, 1 / 2),  # the surplus box has no partner
        ([LEFT], [CORNER, Box(0, 5, 5, 10)], 1, 0.5 / 2),  # one box over two flaws
        ([CORNER, TOP], [TOP, CORNER], 1, 1),  # the order of boxes does not matter
        ([Box(-90, -90, 5, 10)], [LEFT], 1, 1),  # outside the image nothing counts
        ([Box(20, 20, 30, 30)], [LEFT], 0, 0),
        # unions are TOP and LEFT; in the best match CORNER finds itself and leaves LEFT to TOP
        ([CORNER, TOP], [LEFT, CORNER], 25 / 75, (1 + 25 / 75) / 2),
    ],
)
def test_iou(boxes: list[Box], truth: list[Box], iou: float, matched_iou: float) -> None:
    scores = score_samples([predicted("a", *boxes)], [sample("a", *truth)])
    assert scores.values["iou"][0] == pytest.approx(iou)
    assert scores.values["matched_iou"][0] == pytest.approx(matched_iou)
    assert scores.values["boxes_per_image"][0] == len(boxes)


def test_an_unread_verdict_is_wrong_not_missing() -> None:
    scores = score_samples(
        [predicted("a", verdict=None), predicted("b", verdict=None)],
        [sample("a", LEFT), sample("b", verdict=Verdict.REAL)],
    )
    assert scores.values["accuracy"].tolist() == [0, 0]
    assert scores.values["accuracy_generated"][0] == 0
    assert scores.values["accuracy_real"][1] == 0
    assert scores.values["parse_rate"].tolist() == [0, 0]


def test_real_images_have_no_iou_whatever_is_predicted() -> None:
    scores = score_samples([predicted("a", LEFT)], [sample("a", verdict=Verdict.REAL)])
    assert math.isnan(scores.values["iou"][0])
    assert math.isnan(scores.values["matched_iou"][0])
    assert math.isnan(scores.values["boxes_per_image"][0])


def test_a_detector_that_was_taught_no_boxes_has_no_iou_but_all_the_rest() -> None:
    samples = [sample("a", LEFT), sample("b", verdict=Verdict.REAL)]
    predictions = [predicted("a"), predicted("b", verdict=Verdict.REAL)]
    values = score_samples(predictions, samples, has_boxes=False).values
    assert all(math.isnan(value) for name in ("iou", "matched_iou", "boxes_per_image") for value in values[name])
    assert values["accuracy"].tolist() == values["parse_rate"].tolist() == [1, 1]
    assert score_samples(predictions, samples).values["iou"][0] == 0


def test_the_label_decides_the_class_never_the_absence_of_regions() -> None:
    scores = score_samples([predicted("a")], [sample("a")])
    assert scores.is_generated_N.tolist() == [True]
    assert scores.values["accuracy"].tolist() == [1]
    assert math.isnan(scores.values["iou"][0])


def test_boxes_count_even_where_the_verdict_is_wrong() -> None:
    scores = score_samples([predicted("a", LEFT, verdict=Verdict.REAL)], [sample("a", LEFT)])
    assert (scores.values["accuracy"][0], scores.values["iou"][0]) == (0, 1)


@pytest.mark.parametrize("ranked", [{"probability": 0.1}, {"box_scores": (-5.0,)}])
@pytest.mark.parametrize("num_wrong", [1, 3])
def test_boxes_of_an_answer_without_a_probability_rank_below_all_others(ranked: dict[str, Any], num_wrong: int) -> None:
    found = replace(predicted("a", LEFT), **ranked)
    unread = predicted("b", *[Box(9 - i, 0, 10 - i, 1) for i in range(num_wrong)], verdict=None)
    hits = score_samples([found, unread], [sample("a", LEFT), sample("b", verdict=Verdict.REAL)]).hits
    assert hits is not None
    assert average_precisions(hits, np.ones((1, 2))).tolist() == [[1.0]] * len(AP_THRESHOLDS)


def test_boxes_that_nothing_ranks_count_together() -> None:
    answers = [predicted("a", LEFT), predicted("b", CORNER)]
    hits = score_samples(answers, [sample("a", LEFT), sample("b", verdict=Verdict.REAL)]).hits
    assert hits is not None
    assert average_precisions(hits, np.ones((1, 2))).tolist() == [[0.5]] * len(AP_THRESHOLDS)


def test_a_box_outside_the_image_is_a_false_one() -> None:
    def precisions(*wrong: Box) -> list[float]:
        said = replace(predicted("a", *wrong, LEFT), box_scores=(*[0.9] * len(wrong), 0.5))
        hits = score_samples([said], [sample("a", LEFT)]).hits
        assert hits is not None
        return average_precisions(hits, np.ones((1, 1)))[:, 0].tolist()

    assert precisions() == [1.0] * len(AP_THRESHOLDS)
    inside, outside = precisions(*[Box(9, i, 10, i + 1) for i in range(9)]), precisions(*[Box(50, 0, 60, 10)] * 9)
    assert outside == inside == pytest.approx([0.1] * len(AP_THRESHOLDS))


def test_a_box_over_the_border_is_ranked_as_what_lies_inside() -> None:
    hits = score_samples([predicted("a", Box(-90, -90, 5, 10))], [sample("a", LEFT)]).hits
    assert hits is not None
    assert hits.is_hit_TD.all()


def test_boxes_on_a_real_image_are_one_hallucination_however_many() -> None:
    real = [sample(name, verdict=Verdict.REAL) for name in "ab"]
    values = score_samples([predicted("a", LEFT, TOP, CORNER), predicted("b")], real).values
    assert values["hallucination"].tolist() == [1, 0]
    assert values["boxes_per_real_image"].tolist() == [3, 0]


@pytest.mark.parametrize("has_boxes", [True, False])
def test_a_detector_that_gives_no_tags_or_captions_is_not_scored_on_them(has_boxes: bool) -> None:
    flaw, tags = (Region(LEFT, "A hand with six long fingers"),), (Tag.STRUCTURE,)
    truth = [Sample(name, 10, 10, Annotation(Verdict.GENERATED, flaw, tags), "x", "y", "z") for name in "ab"]
    mute = [Prediction(name, Verdict.GENERATED, (Region(LEFT, ""),)) for name in "ab"]
    scores = score_samples(mute, truth, has_boxes=has_boxes)
    assert scores.bleu_counts_N10 is None
    assert (scores.hits is None) == (not has_boxes)
    assert np.isnan([scores.values["rouge_l"], scores.values["tag_f1"]]).all()
    spoken = [replace(mute[0], tags=tags, regions=flaw), mute[1]]  # one that is silent of an image is wrong there
    scores = score_samples(spoken, truth, has_boxes=has_boxes)
    assert scores.values["tag_f1"].tolist() == [1, 0]
    is_scored = has_boxes and can_score_captions()
    assert np.array_equal(scores.values["rouge_l"], [1, 0] if is_scored else [np.nan] * 2, equal_nan=True)
    assert (scores.bleu_counts_N10 is None) == (not is_scored)


def test_scores_of_a_part_are_those_of_its_samples() -> None:
    said = "A hand with six long fingers"
    truth = [
        Sample(str(i), 10, 10, Annotation(Verdict.GENERATED, (Region(box, said),), (Tag.OTHER,)), f"g{i}", "y", "z")
        for i, box in enumerate((LEFT, TOP, CORNER, LEFT))
    ]
    answers = [
        Prediction(str(i), Verdict.GENERATED, tuple(Region(b, said) for b in boxes), (Tag.OTHER,), probability=i / 8)
        for i, boxes in enumerate(([LEFT], [TOP, CORNER], [], [CORNER, LEFT, TOP]))
    ]
    is_in = np.array([False, True, False, True])
    part, alone = score_samples(answers, truth).part(is_in), score_samples(answers[1::2], truth[1::2])
    assert part.sample_ids == alone.sample_ids == ("1", "3")
    assert part.generators == alone.generators
    assert part.values.keys() == alone.values.keys()
    assert part.hits is not None
    assert alone.hits is not None
    pairs = [(part.is_generated_N, alone.is_generated_N), (part.probabilities_N, alone.probabilities_N)]
    pairs += [(part.values[name], alone.values[name]) for name in part.values]
    pairs += [(getattr(part.hits, name), getattr(alone.hits, name)) for name in part.hits.__slots__]
    assert part.probabilities_N.tolist() == [1 / 8, 3 / 8]
    if can_score_captions():
        pairs.append((part.bleu_counts_N10, alone.bleu_counts_N10))
        assert part.bleu_counts_N10 is not None
        assert part.bleu_counts_N10[:, -1].tolist() == [6, 6]
    assert all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)


def test_the_grammar_decides_the_parse_rate_where_there_is_one() -> None:
    answers = [
        Prediction("strict", Verdict.REAL, is_strict=True),
        Prediction("loose", Verdict.REAL, is_strict=False),
        Prediction("foreign", Verdict.REAL),
        Prediction("mute", None),
    ]
    samples = [sample(p.sample_id, verdict=Verdict.REAL) for p in answers]
    assert score_samples(answers, samples).values["parse_rate"].tolist() == [1, 0, 1, 0]


def test_rows_follow_the_samples() -> None:
    samples = [sample("b", LEFT), sample("a", LEFT)]
    scores = score_samples([predicted("a", LEFT), predicted("b")], samples)
    assert scores.sample_ids == ("b", "a")
    assert scores.values["iou"].tolist() == [0, 1]


def test_predictions_and_samples_must_be_the_same() -> None:
    with pytest.raises(DataError, match="1 sample has no prediction, such as 'b'"):
        score_samples([predicted("a")], [sample("a"), sample("b")])
    with pytest.raises(DataError, match="1 sample is not in the dataset, such as 'c'"):
        score_samples([predicted("a"), predicted("c")], [sample("a")])
    with pytest.raises(DataError, match="sample 'a' is answered 2 times"):
        score_samples([predicted("b"), predicted("a"), predicted("a", LEFT)], [sample("a"), sample("b")])
    with pytest.raises(DataError, match="no sample"):
        score_samples([], [])
