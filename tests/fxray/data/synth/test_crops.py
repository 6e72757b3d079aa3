import numpy as np

from fxray.data.synth.crops import draw_varied_crop
from fxray.data.synth.leaves import draw_dead_leaves
from fxray.data.synth.photographs import photographs_of

PHOTOGRAPHS = photographs_of("train")


def varied(seed, **shares):
    return draw_varied_crop(np.random.default_rng(seed), PHOTOGRAPHS, PHOTOGRAPHS[seed % 16], 84, 112, **shares)


def test_dead_leaves_have_edges_everywhere_and_are_another_picture_for_each_draw():
    pictures = [draw_dead_leaves(np.random.default_rng(seed), 84, 112) for seed in range(8)]
    for picture in pictures:
        assert picture.shape == (112, 84, 3)
        assert picture.dtype == np.float32
        quarters = (picture[:56, :42], picture[:56, 42:], picture[56:, :42], picture[56:, 42:])
        assert min(float(quarter.std()) for quarter in quarters) > 2
    assert len({float(picture.mean()) for picture in pictures}) == 8
    again = draw_dead_leaves(np.random.default_rng(3), 84, 112)
    np.testing.assert_array_equal(again, pictures[3])


def test_crops_are_blended_with_what_they_shall_be():
    plain = [varied(seed, leaves_frac=0.0, others_frac=0.0) for seed in range(12)]
    with_leaves = [varied(seed, leaves_frac=1.0, others_frac=0.0) for seed in range(12)]
    with_others = [varied(seed, leaves_frac=0.0, others_frac=1.0) for seed in range(12)]
    for crops in (plain, with_leaves, with_others):
        assert all(crop.shape == (112, 84, 3) and crop.min() >= 0 and crop.max() <= 255 for crop in crops)
    for pair in (zip(plain, with_leaves, strict=True), zip(with_leaves, with_others, strict=True)):
        assert all(np.abs(one - other).mean() > 1 for one, other in pair)


def test_a_half_is_blended_with_others_unless_told():
    plain = [varied(seed, others_frac=0.0) for seed in range(40)]
    by_default = [varied(seed) for seed in range(40)]
    num_same = sum(bool((one == other).all()) for one, other in zip(plain, by_default, strict=True))
    assert 12 <= num_same <= 28
