"""Average precision of boxes: what the order of a file, and the size of a block, must not change."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxray.evaluate import boxes as module
from fxray.evaluate.bootstrap import resamples
from fxray.evaluate.boxes import AP_THRESHOLDS, BoxHits, average_precisions, find_hits, hits_of_image
from fxray.schema import Box

SIDES = st.integers(0, 6)
BOXES = st.builds(lambda x, y, w, h: Box(x, y, x + w + 1, y + h + 1), SIDES, SIDES, SIDES, SIDES)
SCORED = st.lists(st.tuples(BOXES, st.sampled_from([0.25, 0.5])), max_size=8)


def precisions(images: list[tuple[list[tuple[Box, float]], list[Box]]]) -> list[float]:
    predicted = [[box for box, _ in scored] for scored, _ in images]
    scores = [[score for _, score in scored] for scored, _ in images]
    hits = find_hits(predicted, scores, [truth for _, truth in images])
    return average_precisions(hits, np.ones((1, len(images))))[:, 0].tolist()


def test_of_tied_boxes_the_pair_that_overlaps_most_comes_first() -> None:
    truth = [Box(0, 0, 10, 10), Box(6, 0, 16, 10)]
    wide, exact = Box(0, 0, 12, 10), Box(0, 0, 10, 10)  # wide overlaps the second truth by 6 / 16
    for boxes in ([wide, exact], [exact, wide]):
        is_hit = hits_of_image(boxes, [0.5, 0.5], truth)
        assert is_hit[:, boxes.index(exact)].all()
        assert is_hit[:, boxes.index(wide)].tolist() == [True, True, True, False, False]
    assert hits_of_image([wide, exact], [0.9, 0.5], truth)[:, 0].all()  # its score lets it choose first


@given(st.lists(st.tuples(SCORED, st.lists(BOXES, max_size=4)), min_size=1, max_size=4), st.randoms())
def test_the_order_of_tied_boxes_does_not_matter(images, random) -> None:
    shuffled = [(random.sample(scored, len(scored)), truth) for scored, truth in images]
    assert np.array_equal(precisions(images), precisions(shuffled), equal_nan=True)


@pytest.mark.parametrize("predicted", [[[], []], [[Box(0, 0, 5, 5)], [Box(0, 0, 5, 5)]]])
def test_a_resample_without_a_true_box_has_no_precision_and_leaves_the_others_alone(predicted: list[list[Box]]) -> None:
    hits = find_hits(predicted, [[0.5] * len(boxes) for boxes in predicted], [[Box(0, 0, 5, 5)], []])
    found = average_precisions(hits, np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
    expected = [1, np.nan, 0.5] if predicted[0] else [0, np.nan, 0]  # true boxes that nothing finds are a 0
    assert np.array_equal(found, [expected] * len(AP_THRESHOLDS), equal_nan=True)


def many_boxes(num_images: int, num_boxes: int) -> BoxHits:
    rng = np.random.default_rng(0)
    num = num_images * num_boxes
    return BoxHits(
        np.repeat(np.arange(num_images), num_boxes),
        rng.random(num).round(3),  # some are tied
        rng.random((len(AP_THRESHOLDS), num)) < 0.3,
        rng.integers(0, num_boxes, num_images),
    )


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_blocks_of_resamples_give_the_same_bits(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hits = many_boxes(20, 30)
    (counts,) = resamples(20, 200, seed=0)
    monkeypatch.setattr(module, "_MAX_CELLS", 200 * 600)
    at_once = average_precisions(hits, counts)
    monkeypatch.setattr(module, "_MAX_CELLS", rows * 600)
    assert np.array_equal(average_precisions(hits, counts), at_once)
    assert 0.05 < at_once.min() < at_once.max() < 0.95


def test_memory_is_bounded_however_many_boxes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    hits = many_boxes(20, 100)
    (counts,) = resamples(20, 400, seed=0)
    monkeypatch.setattr(module, "_MAX_CELLS", 2**16)
    tracemalloc.start()
    try:
        average_precisions(hits, counts)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 6 * 8 * 2**16 < 400 * 2000 * 8  # one array of all resamples alone is larger


def plain_precision(hits: BoxHits, is_hit_D: np.ndarray, counts_N: np.ndarray) -> float:
    """As the text says it: the best precision at any score whose recall is so high, averaged over 101 recalls."""
    num_true = (counts_N * hits.num_true_N).sum()
    curve = []
    for score in sorted(set(hits.scores_D), reverse=True):
        counts_D = counts_N[hits.image_D] * (hits.scores_D >= score)
        found, true = counts_D.sum(), (counts_D * is_hit_D).sum()
        curve.append((true / num_true, true / found if found else 0.0))
    best = [max((precision for recall, precision in curve if recall >= r), default=0.0) for r in np.linspace(0, 1, 101)]
    return float(np.mean(best))


@pytest.mark.parametrize("shares", [(0.9, 0.7, 0.5, 0.2, 0.05), (0.6, 0.3, 0.1, 0.02, 0.0), (1.0, 1.0, 0.0, 0.0, 0.0)])
def test_precision_is_that_of_its_definition_where_scores_tie_or_find_nothing(shares: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    images, is_hit = np.repeat(np.arange(12), 5), rng.random((5, 60)) < np.array(shares)[:, None]
    scores = np.where(rng.random(60) < 0.1, -np.inf, rng.integers(0, 9, 60) / 8)  # few: ties, and scores without a hit
    hits = BoxHits(images, scores, is_hit, rng.integers(4, 6, 12))
    (counts,) = resamples(12, 40, seed=2)
    plain = [[plain_precision(hits, is_hit_D, counts_N) for counts_N in counts] for is_hit_D in is_hit]
    assert average_precisions(hits, counts) == pytest.approx(np.array(plain), abs=1e-12)
