"""Average precision of boxes: what the order of a file, and the size of a block, must not change."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fxray.evaluate.boxes import average_precisions, find_hits, hits_of_image
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
def test_the_order_of_tied_boxes_does_not_matter(images, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = [(random.sample(scored, len(scored)), truth) for scored, truth in images]
    assert np.array_equal(precisions(images), precisions(shuffled), equal_nan=True)
