"""Planted flaws: where they are said to be, and nowhere else."""

import io

import numpy as np
import pytest
from PIL import Image

from fxray.data.synth.families import FAMILIES, Family
from fxray.data.synth.photographs import PHOTOGRAPHS, load_photograph
from fxray.data.synth.samples import MIN_CHANGE, SMALLEST_SIDE_FRAC, draw_row, plant
from fxray.grammar import parse, render
from fxray.schema import Annotation, Box, Region, Verdict

SIZE_PX = 168


def test_there_are_at_least_eight_families_and_every_tag_is_used() -> None:
    assert len({family.name for family in FAMILIES}) >= 8
    assert len({tag for family in FAMILIES for tag in family.tags}) == 6


def test_no_two_splits_share_a_photograph() -> None:
    assert len({photograph.name for photograph in PHOTOGRAPHS}) == len(PHOTOGRAPHS)
    files = [(photograph.package, photograph.file) for photograph in PHOTOGRAPHS]
    assert len(set(files)) == len(files)
    assert {photograph.split for photograph in PHOTOGRAPHS} == {"train", "validation", "test"}


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda photograph: photograph.name)
def test_every_photograph_is_there_and_is_no_plain_colour(photograph: object) -> None:
    picture = load_photograph(photograph)
    assert min(picture.size) >= SIZE_PX
    assert np.asarray(picture).std() > 10


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_boxes_are_true(family: Family) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        _, planted = plant(rng, "train", family, SIZE_PX)
        is_outside = np.ones((SIZE_PX, SIZE_PX), bool)
        change = np.abs(planted.flawed - planted.clean).mean(2)
        assert 1 <= len(planted.boxes) <= 4
        for box in planted.boxes:
            x_min, y_min, x_max, y_max = (int(edge) for edge in box)
            assert min(x_max - x_min, y_max - y_min) >= round(SMALLEST_SIDE_FRAC * SIZE_PX)
            assert is_outside[y_min:y_max, x_min:x_max].all()
            is_outside[y_min:y_max, x_min:x_max] = False
            inside = change[y_min:y_max, x_min:x_max]
            assert inside.mean() >= MIN_CHANGE
        assert change[is_outside].max() == 0
        assert list(planted.boxes) == sorted(planted.boxes, key=lambda box: (box.y_min, box.x_min))


def test_a_pair_differs_only_inside_the_boxes_up_to_encoding() -> None:
    family = FAMILIES[0]
    rows = [draw_row(np.random.default_rng(5), "id", "test", family, verdict, SIZE_PX) for verdict in Verdict]
    real, generated = (np.asarray(Image.open(io.BytesIO(row.image or b"")), np.float32) for row in rows)
    is_inside = np.zeros((SIZE_PX, SIZE_PX), bool)
    for region in rows[1].sample.annotation.regions:
        x_min, y_min, x_max, y_max = (int(edge) for edge in region.box)
        is_inside[max(0, y_min - 8) : y_max + 8, max(0, x_min - 8) : x_max + 8] = True  # JPEG works in blocks of 8
    assert rows[0].sample.annotation == Annotation(Verdict.REAL)
    assert np.abs(real - generated)[~is_inside].max() == 0
    assert np.abs(real - generated)[is_inside].mean() > 3


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_captions_and_tags_survive_the_grammar(family: Family) -> None:
    regions = (Region(Box(1, 2, 30, 40), family.caption),)
    answer = parse(render(Annotation(Verdict.GENERATED, regions, family.tags)))
    assert answer.is_strict
    assert (answer.regions, answer.tags) == (regions, family.tags)
    assert len(family.caption) < 40
    assert family.caption[0].islower()
