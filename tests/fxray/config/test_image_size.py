import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxray.config.image_size import TOKEN_PX, most_tokens
from fxray.data.frame import smart_frame


def tokens(width_px, height_px, **bounds):
    frame = smart_frame(width_px, height_px, **bounds)
    return frame.model_width_px * frame.model_height_px // TOKEN_PX**2


@given(
    short=st.integers(1, 600),
    ratio=st.floats(1, 200),
    least=st.integers(1, 2000 * 784),
    most=st.integers(784, 2000 * 784),
)
def test_no_image_makes_more(short, ratio, least, most):
    bounds = {"min_pixels": min(least, most), "max_pixels": most}
    assert tokens(short, math.floor(short * ratio), **bounds) <= most_tokens(**bounds)


@pytest.mark.parametrize(
    ("min_pixels", "max_pixels", "expected"),
    [
        (3136, 1280 * 784, 1280),  # no image exceeds a large bound of which the smallest are far
        (3136, 16 * 784, 56),  # sqrt(16 x 200) tokens long, one broad
    ],
)
def test_the_most_tokens_of_common_bounds(min_pixels, max_pixels, expected):
    assert most_tokens(min_pixels, max_pixels) == expected


def test_images_that_are_enlarged_make_more_than_the_bound():
    bounds = {"min_pixels": 1280 * 784, "max_pixels": 1280 * 784}
    assert tokens(1420, 10, **bounds) == most_tokens(**bounds) == 4 * 427
