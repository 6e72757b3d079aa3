import pytest

from rewards.stage import RightWrong, StageRewards, weights_at

LINEAR = StageRewards("linear", 0.0, 0.5, RightWrong(1, -1), RightWrong(1, -1), w_iou_final=1.0)
FIXED = StageRewards("alpha", 0.0, 1.0, RightWrong(1, -1), RightWrong(2, -1))


@pytest.mark.parametrize(("t", "w_iou"), [(0, 0.5), (1, 0.625), (2, 0.75), (3, 0.875), (4, 1.0)])
def test_linear_weight_grows_by_equal_steps(t, w_iou):
    assert weights_at(LINEAR, t / 4).w_iou == w_iou


def test_weights_in_force_do_not_move_again():
    now = weights_at(LINEAR, 0.5)
    assert weights_at(now, 1.0) == now
    assert (now.name, now.label, now.format, now.w_label, now.w_format) == ("linear", LINEAR.label, LINEAR.format, 1, 1)


def test_weights_without_schedule_stay():
    assert weights_at(FIXED, 0.7) == FIXED
