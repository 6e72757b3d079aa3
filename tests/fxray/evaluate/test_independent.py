"""Every metric against somebody else's implementation, on random inputs."""

import contextlib
import io
import random

import numpy as np
import pytest

from fxray.evaluate.boxes import AP_THRESHOLDS, average_precisions, find_hits
from fxray.evaluate.captions import bleu, bleu_counts, can_score_captions, rouge_l
from fxray.evaluate.estimates import estimate_means
from fxray.evaluate.predictions import Prediction
from fxray.evaluate.probabilities import probability_metrics
from fxray.evaluate.scores import score_samples
from fxray.geometry import union_iou
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

SEEDS = range(5)


def random_boxes(rng: random.Random, most: int) -> list[Box]:
    boxes = []
    for _ in range(rng.randint(0, most)):
        x, y = rng.randint(0, 60), rng.randint(0, 60)
        boxes.append(Box(x, y, x + rng.randint(1, 40), y + rng.randint(1, 40)))
    return boxes


@pytest.mark.parametrize("seed", SEEDS)
def test_box_ap_is_that_of_pycocotools(seed: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = random.Random(seed)
    truth = [random_boxes(rng, 3) for _ in range(40)]
    predicted = [
        [Box(*(side + rng.randint(-6, 6) for side in box)) for box in boxes if rng.random() < 0.7]
        + random_boxes(rng, 2)
        for boxes in truth
    ]
    predicted = [[box for box in boxes if box.x_min < box.x_max and box.y_min < box.y_max] for boxes in predicted]
    scores = [[rng.random() for _ in boxes] for boxes in predicted]
    found = average_precisions(find_hits(predicted, scores, truth), np.ones((1, 40)))[:, 0]

    def as_coco(box: Box) -> dict[str, object]:
        width, height = box.x_max - box.x_min, box.y_max - box.y_min
        return {"bbox": [box.x_min, box.y_min, width, height], "area": width * height, "iscrowd": 0, "category_id": 1}

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        annotations = [(image, box) for image, boxes in enumerate(truth) for box in boxes]
        coco.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(40)],
            "categories": [{"id": 1}],
            "annotations": [
                {"id": i + 1, "image_id": image} | as_coco(box) for i, (image, box) in enumerate(annotations)
            ],
        }
        coco.createIndex()
        results = [
            {"image_id": image, "score": score} | as_coco(box)
            for image, (boxes, of_image) in enumerate(zip(predicted, scores, strict=True))
            for box, score in zip(boxes, of_image, strict=True)
        ]
        scored = COCOeval(coco, coco.loadRes(results), "bbox")
        scored.params.iouThrs = np.array(AP_THRESHOLDS)
        scored.evaluate(), scored.accumulate()
    theirs = scored.eval["precision"][:, :, 0, 0, -1].mean(axis=1)
    assert 0.05 < theirs.min() < theirs.max() < 0.95
    assert found == pytest.approx(theirs, abs=1e-9)


def test_a_resample_that_draws_images_twice_is_a_set_that_holds_them_twice() -> None:
    rng = random.Random(1)
    truth, predicted = ([random_boxes(rng, 3) for _ in range(12)] for _ in range(2))
    scores = [[rng.random() for _ in boxes] for boxes in predicted]
    counts = np.array([rng.randint(0, 3) for _ in truth])
    drawn = [i for i, count in enumerate(counts) for _ in range(count)]
    weighted = average_precisions(find_hits(predicted, scores, truth), counts[None].astype(float))
    repeated = find_hits([predicted[i] for i in drawn], [scores[i] for i in drawn], [truth[i] for i in drawn])
    assert weighted.max() > 0
    assert weighted == pytest.approx(average_precisions(repeated, np.ones((1, len(drawn)))))


@pytest.mark.parametrize("seed", SEEDS)
def test_union_iou_is_that_of_shapely(seed: int) -> None:
    shapely = pytest.importorskip("shapely")
    rng = random.Random(seed)
    for _ in range(40):
        ours, theirs = random_boxes(rng, 6), random_boxes(rng, 6)
        if ours and theirs:
            a, b = (shapely.union_all([shapely.box(*box) for box in boxes]) for boxes in (ours, theirs))
            assert union_iou(ours, theirs) == pytest.approx(a.intersection(b).area / a.union(b).area, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_verdicts_tags_and_probabilities_are_scored_as_by_scikit_learn(seed: int) -> None:
    from sklearn import metrics

    rng = random.Random(seed)
    truth = [rng.random() < 0.4 for _ in range(60)]
    said = [rng.random() < (0.7 if is_generated else 0.3) for is_generated in truth]
    score = np.array([rng.random() ** (0.5 if is_generated else 1) for is_generated in truth]).round(1)
    tags = [[{tag for tag in Tag if rng.random() < 0.4} for _ in truth] for _ in range(2)]

    def verdict(is_generated: bool) -> Verdict:
        return Verdict.GENERATED if is_generated else Verdict.REAL

    samples = [
        Sample(
            str(i),
            9,
            9,
            Annotation(verdict(is_generated), (), tuple(tags[0][i]) if is_generated else ()),
            "g",
            "c",
            "s",
        )
        for i, is_generated in enumerate(truth)
    ]
    predictions = [
        Prediction(str(i), verdict(says), tags=tuple(tags[1][i]), probability=float(score[i]))
        for i, says in enumerate(said)
    ]
    found = estimate_means(score_samples(predictions, samples), num_bootstrap=10, seed=0)
    assert found["precision"].value == pytest.approx(metrics.precision_score(truth, said))
    assert found["accuracy_generated"].value == pytest.approx(metrics.recall_score(truth, said))
    assert found["f1"].value == pytest.approx(metrics.f1_score(truth, said))
    assert found["balanced_accuracy"].value == pytest.approx(metrics.balanced_accuracy_score(truth, said))
    tagged = [i for i, is_generated in enumerate(truth) if is_generated and tags[0][i]]
    as_rows = [np.array([[tag in tags[side][i] for tag in Tag] for i in tagged]) for side in (0, 1)]
    theirs = metrics.f1_score(*as_rows, average="samples", zero_division=0)
    assert found["tag_f1"].value == pytest.approx(theirs)
    ours = probability_metrics(score, np.array(truth), np.ones((1, 60)))
    assert ours["auroc"][0] == pytest.approx(metrics.roc_auc_score(truth, score))
    assert ours["average_precision"][0] == pytest.approx(metrics.average_precision_score(truth, score))
    assert ours["brier"][0] == pytest.approx(metrics.brier_score_loss(truth, score))


@pytest.mark.skipif(not can_score_captions(), reason="needs fxray[captions]")
def test_captions_are_scored_as_by_sacrebleu_and_rouge_score() -> None:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    rng = random.Random(3)
    words = ["hand", "with", "six", "fingers", "melts", "into", "the", "blurred", "edge", "of", "a", "bent", ",", "leg"]
    for size in (2, 30):
        pairs = [
            (" ".join(rng.sample(words, rng.randint(1, 9))), " ".join(rng.sample(words, rng.randint(1, 9))))
            if i % 3
            else (" ".join(words), " ".join(words))
            for i in range(size)
        ]
        summed = sum(bleu_counts(pairs[start : start + 2]) for start in range(0, size, 2))
        theirs = BLEU().corpus_score([said for said, _ in pairs], [[truth for _, truth in pairs]]).score
        assert 100 * bleu(np.array([summed], float))[0] == pytest.approx(theirs)
        assert theirs > 0
        scorer = RougeScorer(["rougeL"])
        expected = [scorer.score(truth, said)["rougeL"].fmeasure for said, truth in pairs]
        assert rouge_l(pairs) == pytest.approx(np.mean(expected))


@pytest.mark.skipif(not can_score_captions(), reason="needs fxray[captions]")
def test_short_captions_have_no_bleu_and_long_ones_that_are_wrong_have_one() -> None:
    short, wrong = [("a bent hand", "a bent hand")], [("nothing of this is true", "a hand with six fingers")]
    found = bleu(np.array([bleu_counts(short), bleu_counts(wrong), bleu_counts([])], float))
    assert np.isnan(found).tolist() == [True, False, True]
    assert found[1] == 0


@pytest.mark.skipif(not can_score_captions(), reason="needs fxray[captions]")
def test_captions_that_say_less_pay_for_it_in_bleu() -> None:
    less, more = "a hand with six", "a hand with six long fingers"  # each n-gram of less is in more
    found = bleu(np.array([bleu_counts([(less, more)]), bleu_counts([(more, less)])], float))
    assert found[0] == pytest.approx(np.exp(1 - 6 / 4))
    assert found[1] == pytest.approx((4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


@pytest.mark.skipif(not can_score_captions(), reason="needs fxray[captions]")
def test_only_captions_of_matched_regions_count() -> None:
    near, far = Box(0, 0, 5, 5), Box(6, 6, 9, 9)
    truth = Annotation(Verdict.GENERATED, (Region(near, "a hand with six long fingers"),))
    said = (Region(far, "nothing of this is true here"), Region(near, "a hand with six long fingers"))
    samples = [Sample("a", 10, 10, truth, "g", "c", "s"), Sample("b", 10, 10, truth, "g", "c", "s")]
    answers = [Prediction("a", Verdict.GENERATED, said), Prediction("b", Verdict.GENERATED)]
    found = estimate_means(score_samples(answers, samples), num_bootstrap=10, seed=0)
    assert found["bleu"].value == pytest.approx(1)
    assert found["rouge_l"].value == 1
