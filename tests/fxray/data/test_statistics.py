import json
import math

import numpy as np
import pytest

from fxray.data.statistics import HEAT_CELLS, Summary, summarise
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

A, B = Tag.TEXTURE, Tag.STRUCTURE


def sample(sample_id, *marks, tags=(), generator="sdxl", category="dog", size=(64, 32), annotator=None):
    regions = tuple(Region(Box(*box), caption) for box, caption in marks)
    verdict = Verdict.REAL if generator == "real" else Verdict.GENERATED
    return Sample(sample_id, *size, Annotation(verdict, regions, tuple(tags)), generator, category, "web", annotator)


SAMPLES = [
    sample("a", ((0, 0, 32, 32), "hand"), ((16, 0, 48, 16), "hand fused badly"), tags=(A, B)),
    sample("b", ((32, 16, 64, 32), "hand"), tags=(A,), generator="flux", category="cat", annotator="ana"),
    sample("c", generator="flux", size=(128, 64)),
    sample("d", generator="real", annotator="ana"),
]


def test_counts_by_hand():
    found = summarise(SAMPLES)
    assert (found.num_real, found.num_generated) == (1, 3)
    assert (found.width_px.low, found.width_px.high, found.width_px.mean) == (64, 128, 80)
    assert found.region_counts == {0: 1, 1: 1, 2: 1}
    assert found.regions.mean == 1
    assert found.box_sides_B2.tolist() == [[0.5, 1], [0.5, 0.5], [0.5, 0.5]]
    assert found.box_areas.tolist() == [0.5, 0.25, 0.25]
    assert found.caption_words.tolist() == [1, 3, 1]
    assert found.num_distinct_captions == 2
    assert {tag: count for tag, count in found.tags.items() if count} == {A: 2, B: 1}
    assert set(found.tags) == set(Tag)
    assert found.tag_counts == {0: 1, 1: 1, 2: 1}
    assert found.tag_pairs == {(B, A): 1}  # in the order of the tags
    assert found.generators == {"flux": 2, "sdxl": 1, "real": 1}
    assert found.categories == {"dog": 3, "cat": 1}
    assert found.cells[("flux", "cat")] == 1
    assert found.annotators == {None: 2, "ana": 2}


def test_the_heat_map_is_the_share_of_images_that_cover_each_cell():
    heat = summarise(SAMPLES).heat_map
    half, quarter = HEAT_CELLS // 2, HEAT_CELLS // 4
    # Image a covers the left half, and right of it a quarter of the width in the upper half; where its boxes overlap
    # it counts once. Image b covers the lower right quarter. Three generated images.
    expected = np.zeros((HEAT_CELLS, HEAT_CELLS))
    expected[:, :half] = 1 / 3
    expected[:half, half : half + quarter] = 1 / 3
    expected[half:, half:] = 1 / 3
    np.testing.assert_allclose(heat, expected, atol=1e-12)


def test_a_box_smaller_than_a_cell_counts_by_its_area():
    heat = summarise([sample("a", ((1, 1, 2, 3), "dot"), size=(640, 640))]).heat_map
    assert heat.sum() == pytest.approx(2 / 100)  # a cell is 10 x 10 pixels
    assert heat[0, 0] == heat.sum()


def test_boxes_that_overlap_within_a_cell_count_once():
    boxes = [((0, 0, 6, 6), "dot"), ((0, 0, 6, 6), "dot"), ((4, 4, 8, 12), "dot")]
    heat = summarise([sample("a", *boxes, size=(640, 640))]).heat_map
    assert heat[0, 0] == pytest.approx((36 + 24 - 4) / 100)  # a cell is 10 x 10 pixels
    assert heat[1, 0] == pytest.approx(8 / 100)
    assert heat.sum() == pytest.approx((36 + 32 - 4) / 100)


def test_an_empty_distribution_says_nothing_and_json_says_null():
    found = summarise([sample("d", generator="real")])
    assert math.isnan(found.regions.mean)
    numbers = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert numbers["box_area_frac"] == {
        "count": 0, "mean": None, "low": None, "median": None, "p95": None, "high": None,
    }  # fmt: skip
    assert numbers["num_generated"] == 0


def test_the_json_says_width_and_height_apart():
    numbers = summarise(SAMPLES).to_json()
    means = [numbers[f"box_{name}_frac"]["mean"] for name in ("width", "height", "area")]
    assert means == pytest.approx([0.5, 2 / 3, 1 / 3])
    assert (numbers["width_px"]["mean"], numbers["height_px"]["mean"]) == (80, 40)


def test_summaries():
    assert Summary.of([1, 2, 3, 10]) == Summary(4, 4, 1, 2.5, pytest.approx(8.95), 10)
    assert json.dumps(summarise(SAMPLES).to_json(), allow_nan=False).count("flux") == 3
