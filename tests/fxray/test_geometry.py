"""Areas against hand-counted numbers and against counting unit cells; matches against brute force."""

import itertools
import math
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxray.geometry import (
    area,
    box_iou,
    clip,
    intersection_area,
    match_nearest,
    match_optimal,
    union_area,
    union_iou,
)
from fxray.schema import Box

corners = st.integers(-2, 9)
any_box = st.builds(Box, corners, corners, corners, corners)
any_boxes = st.lists(any_box, max_size=6)


def cells(boxes: list[Box]) -> set[tuple[int, int]]:
    return {(x, y) for box in boxes for x in range(box.x_min, box.x_max) for y in range(box.y_min, box.y_max)}


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(10, 20, 30, 40), Box(10, 20, 30, 40)),
        (Box(-5, -5, 30, 40), Box(0, 0, 30, 40)),
        (Box(90, 40, 1e9, 1e9), Box(90, 40, 100, 50)),
        (Box(-1e18, -1e18, 1e18, 1e18), Box(0, 0, 100, 50)),
        (Box(100, 0, 120, 50), None),  # touches the right edge from outside
        (Box(-10, 0, 0, 50), None),
        (Box(30, 40, 10, 20), None),  # swapped
        (Box(10, 20, 10, 40), None),  # no width
        (Box(10, 20, 30, 20), None),  # no height
        (Box(math.nan, 0, 10, 10), None),
        (Box(0, 0, math.nan, 10), None),
        (Box(-math.inf, 0, math.inf, 10), Box(0, 0, 100, 10)),
    ],
)
def test_clip(box, expected):
    assert clip(box, 100, 50) == expected


def test_areas_of_overlapping_boxes():
    a, b = Box(0, 0, 4, 4), Box(2, 2, 6, 5)
    assert area(a) == 16
    assert area(b) == 12
    assert area(Box(4, 4, 0, 0)) == 0  # swapped twice is not positive
    assert union_area([a, b]) == 16 + 12 - 4
    assert union_area([a, a, a]) == 16
    assert union_area([]) == 0
    assert intersection_area([a], [b]) == 4
    assert intersection_area([a, b], []) == 0
    assert box_iou(a, b) == 4 / 24
    assert box_iou(a, Box(4, 0, 8, 4)) == 0  # they share an edge, not an area


def test_intersection_of_unions_counts_no_cell_twice():
    frame = [Box(0, 0, 10, 2), Box(0, 8, 10, 10), Box(0, 0, 2, 10), Box(8, 0, 10, 10)]  # a ring, 2 wide
    assert union_area(frame) == 100 - 36
    assert intersection_area(frame, [Box(1, 1, 9, 9)]) == 64 - 36
    assert union_iou(frame, [Box(1, 1, 9, 9)]) == pytest.approx(28 / 100)


def test_union_iou_of_empty_sides():
    box, nothing = Box(0, 0, 1, 1), Box(3, 3, 3, 5)
    assert union_iou([], []) == 1
    assert union_iou([nothing], []) == 1
    assert union_iou([box], []) == 0
    assert union_iou([], [box]) == 0
    assert union_iou([nothing], [box]) == 0


def test_fractional_boxes():
    assert union_area([Box(0, 0, 0.1, 0.1), Box(0.05, 0, 0.15, 0.1)]) == pytest.approx(0.015, rel=1e-12)


@given(any_boxes, any_boxes)
def test_areas_equal_counted_cells(a, b):
    cells_a, cells_b = cells(a), cells(b)
    assert union_area(a) == len(cells_a)
    assert intersection_area(a, b) == len(cells_a & cells_b)
    union = len(cells_a | cells_b)
    assert union_iou(a, b) == (len(cells_a & cells_b) / union if union else 1.0)
    assert union_iou(a, b) == union_iou(b, a)


@given(any_boxes, st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(boxes, rng):
    shuffled = boxes * 2
    rng.shuffle(shuffled)
    assert union_iou(boxes, shuffled) == 1


@given(any_box, any_box)
def test_iou_of_single_boxes_agrees_with_that_of_unions(a, b):
    if area(a) and area(b):
        assert box_iou(a, b) == pytest.approx(union_iou([a], [b]))


def test_hundreds_of_boxes_take_milliseconds():
    rng = random.Random(0)
    boxes = [
        Box(x, y, x + rng.random() * 200, y + rng.random() * 200)
        for x, y in ((rng.random() * 1000, rng.random() * 1000) for _ in range(600))
    ]
    start = time.process_time()
    assert 0 < union_iou(boxes[:300], boxes[300:]) < 1
    assert time.process_time() - start < 0.5


def test_optimal_match_gives_up_a_good_pair_for_a_better_total():
    truth = [Box(0, 0, 10, 10), Box(10, 0, 20, 10)]
    predicted = [Box(2, 0, 12, 10), Box(0, 0, 8, 10)]  # both lie nearest to truth 0
    matches = match_optimal(predicted, truth)
    assert [(i, j) for i, j, _ in matches] == [(0, 1), (1, 0)]
    assert [iou for _, _, iou in matches] == pytest.approx([20 / 180, 80 / 100])


def test_optimal_match_leaves_out_pairs_that_do_not_touch():
    assert match_optimal([Box(0, 0, 1, 1)], [Box(5, 5, 6, 6)]) == []
    assert match_optimal([], [Box(5, 5, 6, 6)]) == []
    assert match_optimal([Box(5, 5, 6, 6)], []) == []


@given(st.lists(any_box, max_size=4), st.lists(any_box, max_size=4))
def test_optimal_match_equals_brute_force(predicted, truth):
    short, long = sorted((predicted, truth), key=len)
    best = max(
        sum(box_iou(s, g) for s, g in zip(short, chosen, strict=True))
        for chosen in itertools.permutations(long, len(short))
    )
    matches = match_optimal(predicted, truth)
    assert sum(iou for _, _, iou in matches) == pytest.approx(best)
    assert len({i for i, _, _ in matches}) == len({j for _, j, _ in matches}) == len(matches)


def test_nearest_match_is_greedy_in_predicted_order():
    truth = [Box(0, 0, 10, 10), Box(20, 0, 30, 10)]
    predicted = [Box(2, 0, 12, 10), Box(0, 0, 10, 10), Box(20, 0, 30, 10)]
    # The first takes truth 0; the second, though equal to truth 0, gets truth 1; nothing is left for the third.
    assert match_nearest(predicted, truth) == [(0, 0, 80 / 120), (1, 1, 0.0)]


def test_nearest_match_gives_ties_to_the_earlier_truth_box():
    truth = [Box(10, 0, 14, 4), Box(0, 0, 4, 4)]
    assert match_nearest([Box(5, 0, 9, 4)], truth) == [(0, 0, 0.0)]
    assert match_nearest([], truth) == []
    assert match_nearest(truth, []) == []


@given(st.lists(any_box, max_size=5), st.lists(any_box, max_size=5))
def test_nearest_match_takes_for_each_box_the_free_one_whose_centre_is_nearest(predicted, truth):
    def centre(box):
        return complex(box.x_min + box.x_max, box.y_min + box.y_max) / 2

    free = list(range(len(truth)))
    matches = match_nearest(predicted, truth)
    assert len(matches) == min(len(predicted), len(truth))
    for number, (i, j, iou) in enumerate(matches):
        distances = [abs(centre(predicted[i]) - centre(truth[k])) for k in free]
        assert (i, j) == (number, free.pop(distances.index(min(distances))))
        assert iou == box_iou(predicted[i], truth[j])
