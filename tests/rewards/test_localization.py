import pytest

from fxray.schema import Box
from rewards.localization import relaxed_iou

LEFT, RIGHT = Box(0, 0, 10, 10), Box(20, 0, 30, 10)


@pytest.mark.parametrize(
    ("predicted", "truth", "union", "nearest"),
    [
        ([], [], 1.0, 1.0),
        ([LEFT], [], 0.0, 0.0),
        ([], [LEFT], 0.0, 0.0),
        ([LEFT, RIGHT], [RIGHT, LEFT], 1.0, 1.0),
        # Half of the one truth box: IoU 0.5, relaxed 0.55 either way.
        ([Box(0, 0, 5, 10)], [LEFT], 0.55, 0.55),
        # IoU 10/11 is the least that earns the whole reward.
        ([Box(0, 0, 11, 10)], [LEFT], 1.0, 1.0),
        ([Box(0, 0, 12.5, 10)], [LEFT], 0.88, 0.88),
        # One of two truth boxes: IoU 100/200, mean over two truth boxes 1/2.
        ([LEFT], [LEFT, RIGHT], 0.55, 0.55),
        # The same box twice: the union is LEFT; the second one is matched with RIGHT, which it does not touch.
        ([LEFT, LEFT], [LEFT, RIGHT], 0.55, 0.55),
        # One box over both: 200/300 of the union; nearest pairs it with one (100/300), over two truth boxes.
        ([Box(0, 0, 30, 10)], [LEFT, RIGHT], 1.1 * 2 / 3, 1.1 / 6),
        # Two halves of one truth box: the union is whole, but only the first half is matched.
        ([Box(0, 0, 5, 10), Box(5, 0, 10, 10)], [LEFT], 1.0, 0.55),
        # A box too many: 100/125 of the union; nearest does not punish it.
        ([LEFT, Box(40, 0, 45, 5)], [LEFT], 1.1 * 100 / 125, 1.0),
        # A tie of centres goes to the earlier truth box, where the IoU is 0 as well as in the other.
        ([Box(10, 0, 20, 10)], [LEFT, RIGHT], 0.0, 0.0),
    ],
)
def test_relaxed_iou(predicted, truth, union, nearest):
    assert relaxed_iou(predicted, truth, eta=1.1, matching="union") == pytest.approx(union)
    assert relaxed_iou(predicted, truth, eta=1.1, matching="nearest") == pytest.approx(nearest)


def test_eta_one_is_the_plain_iou():
    assert relaxed_iou([Box(0, 0, 5, 10)], [LEFT], eta=1.0, matching="union") == 0.5
