import math

import pytest

from fxray.data.agreement import Mark, agree
from fxray.errors import DataError
from fxray.schema import Annotation, Box, Region, Tag, Verdict

A, B = Tag.TEXTURE, Tag.STRUCTURE


def mark(image, annotator, *boxes, tags=(), verdict=Verdict.GENERATED, size=(100, 100)):
    regions = tuple(Region(Box(*box), "hand fused") for box in boxes)
    return Mark(image, annotator, size, Annotation(verdict, regions, tuple(tags)), f"{annotator}.parquet")


def test_by_hand():
    result = agree(
        [
            mark("one", "ana", (0, 0, 10, 10), tags=(A,)),
            mark("one", "ben", (0, 0, 10, 5), tags=(A,)),  # with ana 0.5
            mark("one", "cleo", (0, 0, 10, 10), (50, 50, 60, 60), tags=(B,)),  # ana 1 and 0: 0.5; ben 0.5 and 0: 0.25
            mark("two", "ana", (0, 0, 10, 10), tags=(A,)),
            mark("two", "ben", tags=(A,)),  # nothing beside a box: 0
            mark("three", "ben"),
            mark("three", "cleo", verdict=Verdict.REAL),  # no box on either side: not counted
            mark("four", "ana", (0, 0, 5, 5)),
        ]
    )
    assert (result.num_images, result.num_single) == (3, 1)
    assert result.box_iou == pytest.approx(((0.5 + 0.5 + 0.25) / 3 + 0) / 2)
    by_name = {pair.annotators: pair for pair in result.pairs}
    assert set(by_name) == {("ana", "ben"), ("ana", "cleo"), ("ben", "cleo")}
    assert (by_name["ana", "ben"].num_images, by_name["ana", "ben"].box_iou) == (2, pytest.approx(0.25))
    assert (by_name["ana", "ben"].same_tags_frac, by_name["ana", "cleo"].same_tags_frac) == (1, 0)
    assert by_name["ben", "cleo"].box_iou == pytest.approx(0.25)
    # Texture: units 110, 11, 00. n = 7, four 1 and three 0; observed (9 - 4 - 1) / 2 = 2, expected 24 / 6 = 4.
    assert result.alpha_by_tag[A] == pytest.approx(0.5)
    # Structure: units 001, 00, 00. Six 0 and one 1; observed 2, expected 12 / 6 = 2.
    assert result.alpha_by_tag[B] == pytest.approx(0)
    assert math.isnan(result.alpha_by_tag[Tag.OTHER])
    # All tags: 42 values, five of them 1; observed 4, expected 2 x 5 x 37 / 41.
    assert result.tag_alpha == pytest.approx(1 - 4 * 41 / 370)
    # Labels: units ggg, gg, gr: six g, one r; observed 2, expected 2.
    assert result.label_alpha == pytest.approx(0)
    assert result.to_json()["alpha_by_tag"]["other anomalies"] is None


def test_annotators_who_say_the_same_agree_wholly():
    marks = [mark(str(k), who, (k, 0, k + 9, 9), tags=(A, B)[: k % 3]) for k in range(6) for who in ("ana", "ben")]
    result = agree(marks)
    assert (result.box_iou, result.tag_alpha) == pytest.approx((1, 1))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="none of 2 images was marked by two annotators"):
        agree([mark("one", "ana"), mark("two", "ben")])
    with pytest.raises(DataError, match=r"annotator 'ana' marked image 'one' before \(ana\.parquet\)"):
        agree([mark("one", "ana"), mark("one", "ana")])
    with pytest.raises(DataError, match="image 'one' is 50x100 px here, 100x100 px in ana"):
        agree([mark("one", "ana"), mark("one", "ben", size=(50, 100))])
