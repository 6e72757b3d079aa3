import math
from collections import Counter
from dataclasses import replace

import pytest

from fxray.data.quality import Thresholds, box_ious, compare, draw_for_control, judge, tag_accuracy
from fxray.errors import DataError
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

PAPER = Thresholds(min_iou=0.2, min_box_share=0.5, min_tag_accuracy=1 / 3)
A, B, C = Tag.TEXTURE, Tag.STRUCTURE, Tag.OTHER


def marked(sample_id, *boxes, tags=(), annotator=None, generator="sdxl", verdict=Verdict.GENERATED):
    annotation = Annotation(verdict, tuple(Region(Box(*box), "hand fused") for box in boxes), tuple(tags))
    return Sample(sample_id, 100, 100, annotation, generator, "dog", "web", annotator)


def ids(*samples):
    return {sample.sample_id: sample for sample in samples}


def test_boxes_are_matched_one_to_one_and_a_lonely_one_has_iou_0():
    # (0,0,10,10) and (0,0,10,5): 50 / 100; (50,50,60,60) and (55,50,65,60): 50 / 150.
    left = marked("a", (50, 50, 60, 60), (0, 0, 10, 10), (80, 80, 90, 90)).annotation
    right = marked("a", (0, 0, 10, 5), (55, 50, 65, 60)).annotation
    assert sorted(box_ious(left, right)) == pytest.approx([0, 1 / 3, 0.5])
    assert sorted(box_ious(right, left)) == pytest.approx([0, 1 / 3, 0.5])
    assert box_ious(left, marked("a").annotation) == (0, 0, 0)
    assert box_ious(marked("a").annotation, marked("a").annotation) == ()
    apart = marked("a", (90, 0, 99, 9)).annotation  # they do not touch: one pair of boxes, no IoU
    assert box_ious(apart, marked("a", (0, 0, 10, 10)).annotation) == (0,)


def test_tag_accuracy_is_both_over_either():
    def accuracy(left, right):
        return tag_accuracy(marked("a", tags=left).annotation, marked("a", tags=right).annotation)

    assert accuracy((A, B), (B, C)) == pytest.approx(1 / 3)
    assert accuracy((A,), (B,)) == 0
    assert accuracy((A,), ()) == 0
    assert accuracy((A, B), (B, A)) == 1
    assert accuracy((), ()) == 1


def test_annotators_are_judged_each_and_together():
    good = marked("a", (0, 0, 10, 10), (50, 50, 60, 60), tags=(A,), annotator="ana")
    poor = marked("b", (0, 0, 10, 10), (50, 50, 60, 60), (70, 70, 80, 80), tags=(A, B, C), annotator="ben")
    references = ids(
        marked("a", (0, 0, 10, 5), (50, 50, 60, 60), tags=(A,)),  # IoU 0.5 and 1
        marked("b", (0, 0, 10, 1), (90, 90, 99, 99), tags=(B,)),  # IoU 0.1, then two without partner
    )
    overall, (ana, ben) = judge(compare([good, poor], references), PAPER)
    assert (ana.annotator, ana.num_images, ana.num_boxes, ana.num_reference_boxes) == ("ana", 1, 2, 2)
    assert (ana.mean_iou, ana.box_share, ana.tag_accuracy) == pytest.approx((0.75, 1, 1))
    assert ana.is_passed
    assert (ben.mean_iou, ben.box_share, ben.tag_accuracy) == pytest.approx((0.1 / 3, 0, 1 / 3))
    assert ben.failures == ("boxes",)  # a third of the tags is enough
    assert (overall.mean_iou, overall.box_share, overall.tag_accuracy) == pytest.approx((1.6 / 5, 2 / 5, 2 / 3))
    assert (overall.num_images, overall.num_boxes, overall.num_reference_boxes) == (2, 5, 4)
    assert overall.failures == ("boxes",)
    worse = replace(poor, annotation=replace(poor.annotation, tags=(A, C)))
    assert judge(compare([worse], references), PAPER)[0].failures == ("boxes", "tags")


def test_the_threshold_itself_is_enough():
    at = marked("a", (0, 0, 10, 10))
    references = ids(marked("a", (0, 0, 10, 2)))  # IoU 0.2 exactly
    assert judge(compare([at], references), PAPER)[0].box_share == 1
    assert judge(compare([at], references), Thresholds(0.21, 0.5, 0))[0].box_share == 0
    half = marked("a", (0, 0, 10, 10), (50, 50, 60, 60))
    assert judge(compare([half], references), PAPER)[0].is_passed  # one of two boxes


def test_thirds_that_add_up_to_a_little_less_are_a_third():
    marks = [marked(f"a{k}", (0, 0, 9, 9), tags=(A, B)) for k in range(15)]
    references = ids(*(marked(f"a{k}", (0, 0, 9, 9), tags=(B, C)) for k in range(15)))
    overall, (nobody,) = judge(compare(marks, references), PAPER)
    assert overall.tag_accuracy == pytest.approx(1 / 3, abs=1e-12)  # from Python 3.12 on it is a third
    assert overall.is_passed
    assert nobody.annotator == "(unknown)"


def test_without_any_box_there_is_nothing_to_fail():
    overall, _ = judge(compare([marked("a", tags=(A,))], ids(marked("a", tags=(A,)))), PAPER)
    assert math.isnan(overall.box_share)
    assert overall.is_passed
    assert overall.to_json()["mean_iou"] is None


def test_a_missing_reference_and_one_of_another_size_are_named():
    with pytest.raises(DataError, match="1 of 2 drawn images have no reference, such as 'b'"):
        compare([marked("a"), marked("b")], ids(marked("a")))
    with pytest.raises(DataError, match="'a': the reference is of an image of 50x100 px, expected 100x100"):
        compare([marked("a")], ids(replace(marked("a"), width_px=50)))


def test_the_draw_is_stratified_over_annotators_and_generators_and_leaves_real_images_out():
    samples = [marked(f"r{k}", verdict=Verdict.REAL, generator="real") for k in range(100)]
    for annotator, count in (("ana", 100), ("ben", 60), ("cleo", 2)):
        samples += [marked(f"{annotator}{k}", annotator=annotator, generator=f"g{k % 2}") for k in range(count)]
    rows = draw_for_control(samples, fraction=0.05, seed=0)
    drawn = Counter((samples[row].annotator, samples[row].generator) for row in rows)
    counts = Counter(samples[row].annotator for row in rows)
    assert set(counts) == {"ana", "ben", "cleo"}  # two images are 0.1 of one at 5 %; still she is looked at
    assert sum(counts.values()) in (9, 10)  # 8.1 rounded up, and one more where cleo had no luck
    assert abs(drawn["ana", "g0"] - 2.5) < 1
    assert abs(drawn["ben", "g1"] - 1.5) < 1
    assert rows == sorted(set(rows)) == draw_for_control(samples, fraction=0.05, seed=0)
    with pytest.raises(DataError, match="no row is labelled generated"):
        draw_for_control(samples[:100], fraction=0.05, seed=0)
