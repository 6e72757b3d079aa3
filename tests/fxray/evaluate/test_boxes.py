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
