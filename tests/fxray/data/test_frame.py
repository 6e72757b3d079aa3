"""Frames of non-square images whose two sides scale differently; sizes against transformers' own function."""

import ast
import functools
import importlib.util
import math
import random
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import fxray
from fxray.config.image_size import most_tokens
from fxray.data.frame import Frame, Sight, sight_of, smart_frame
from fxray.errors import DataError, ModelError
from fxray.schema import Box

SKEWED = Frame(width_px=1000, height_px=300, model_width_px=252, model_height_px=84)  # 0.252 and 0.28


def transformers_functions(file, *names):
    """transformers' functions out of their source file: importing its module would take ten seconds for torch."""
    package = importlib.util.find_spec("transformers")
    source = Path(package.submodule_search_locations[0], "models", file).read_text()
    functions = [node for node in ast.parse(source).body if getattr(node, "name", "") in names]
    namespace = {"math": math, "lru_cache": functools.lru_cache}
    exec(compile(ast.Module(functions, []), file, "exec"), namespace)
    return [namespace[name] for name in names]


def transformers_smart_resize():
    return transformers_functions("qwen2_vl/image_processing_qwen2_vl.py", "smart_resize")[0]


def test_sides_scale_independently():
    assert SKEWED.to_model(Box(100, 100, 500, 200)) == Box(25, 28, 126, 56)
    assert SKEWED.to_original(Box(126, 42, 252, 84)) == Box(500, 150, 1000, 300)


def test_whole_image_fills_the_frame_both_ways():
    assert SKEWED.to_model(Box(0, 0, 1000, 300)) == Box(0, 0, 252, 84)
    assert SKEWED.to_original(Box(0, 0, 252, 84)) == Box(0, 0, 1000, 300)


def test_a_family_that_names_thousandths_is_asked_and_read_in_them():
    frame = smart_frame(1000, 300, min_pixels=1024, max_pixels=128 * 128, sight=Sight(token_px=32, box_grid=1000))
    assert (frame.model_width_px, frame.model_height_px, frame.num_tokens) == (224, 64, 14)
    assert (frame.box_width, frame.box_height) == (1000, 1000)
    assert frame.to_model(Box(100, 100, 500, 201)) == Box(100, 333, 500, 670)
    assert frame.to_original(Box(100, 500, 1000, 1000)) == Box(100, 150, 1000, 300)
    assert frame.to_model(Box(999.9, 299.9, 1000, 300)) == Box(999, 999, 1000, 1000)


def test_how_a_model_sees_is_read_from_its_config_json(tmp_path):
    assert sight_of(Path(fxray.__file__).parent / "assets" / "tiny") == Sight(28, 0) == Sight()
    shapes = Path(fxray.__file__).parent / "assets" / "shapes"
    (tmp_path / "config.json").write_text((shapes / "qwen3-vl-8b.json").read_text())
    assert sight_of(tmp_path) == Sight(32, 1000)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ModelError, match="must hold a model of type qwen2_5_vl or qwen3_vl"):
        sight_of(tmp_path)


def test_enlarging_frame():
    frame = Frame(30, 20, 84, 56)
    assert frame.to_model(Box(10, 5, 20, 15)) == Box(28, 14, 56, 42)
    assert frame.to_original(Box(28, 14, 56, 42)) == Box(10, 5, 20, 15)


def test_what_sticks_out_is_cut():
    assert SKEWED.to_model(Box(-50, -50, 2000, 150)) == Box(0, 0, 252, 42)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(100, 100, 101, 101), Box(25, 28, 26, 29)),  # a pixel of the original, a quarter of a model pixel
        (Box(999, 299, 1000, 300), Box(251, 83, 252, 84)),  # in the last corner
        (Box(0, 0, 0.001, 0.001), Box(0, 0, 1, 1)),
        (Box(999.999, 0, 1000, 300), Box(251, 0, 252, 84)),
    ],
)
def test_small_box_keeps_a_pixel(box, expected):
    assert SKEWED.to_model(box) == expected


@pytest.mark.parametrize("box", [Box(1000, 0, 1100, 10), Box(-5, 0, 0, 10), Box(9, 9, 3, 3), Box(5, 5, 5, 9)])
def test_box_outside_the_image_is_refused(box):
    with pytest.raises(DataError, match="1000x300 px"):
        SKEWED.to_model(box)


@given(st.data())
def test_conversion_never_degenerates_and_is_true_to_half_a_model_pixel(data):
    sides = [data.draw(st.integers(1, 3000)) for _ in range(2)] + [data.draw(st.integers(1, 40)) * 28 for _ in range(2)]
    frame = Frame(*sides)
    x_min = data.draw(st.floats(0, sides[0] * 0.999))
    y_min = data.draw(st.floats(0, sides[1] * 0.999))
    box = Box(
        x_min,
        y_min,
        data.draw(st.floats(x_min, sides[0], exclude_min=True)),
        data.draw(st.floats(y_min, sides[1], exclude_min=True)),
    )
    model_box = frame.to_model(box)
    assert all(isinstance(value, int) for value in model_box)
    assert 0 <= model_box.x_min < model_box.x_max <= frame.model_width_px
    assert 0 <= model_box.y_min < model_box.y_max <= frame.model_height_px
    back = frame.to_original(model_box)
    scales = (frame.width_px / frame.model_width_px, frame.height_px / frame.model_height_px) * 2
    for value, value_back, scale in zip(box, back, scales, strict=True):
        assert abs(value - value_back) <= scale * 1.000001  # a vanishing box is off by up to one, all others by half
    if model_box.x_max - model_box.x_min > 2:  # a vanishing box becomes the one or two pixels that it touches
        assert abs(box.x_min - back.x_min) <= 0.500001 * scales[0]


def test_size_is_that_of_transformers():
    smart_resize = transformers_smart_resize()
    rng = random.Random(0)
    bounds = [(56 * 56, 1280 * 28 * 28), (112 * 112, 112 * 112), (448 * 448, 448 * 448), (3136, 12845056)]
    sizes = list(range(1, 60)) + [round(2 ** rng.uniform(0, 13)) for _ in range(4000)]
    num_compared = 0
    for width, height in zip(sizes, sizes[::-1], strict=True):
        for min_pixels, max_pixels in bounds:
            if max(width, height) / min(width, height) > 200:
                continue
            frame = smart_frame(width, height, min_pixels=min_pixels, max_pixels=max_pixels)
            expected = smart_resize(height, width, 28, min_pixels, max_pixels)
            assert (frame.model_height_px, frame.model_width_px) == expected, (width, height)
            assert (frame.width_px, frame.height_px) == (width, height)
            num_compared += 1
    assert num_compared > 10_000


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    max_pixels=st.integers(1, 14 * 448 * 448),
    tile_px=st.sampled_from([56, 448]),
)
def test_tiles_are_those_of_transformers(width, height, max_pixels, tile_px):
    assume(max(width, height) <= 200 * min(width, height))
    names = ("get_optimal_tiled_canvas", "get_all_supported_aspect_ratios")
    best, _ = transformers_functions("got_ocr2/image_processing_got_ocr2.py", *names)
    most = min(12, max(1, max_pixels // tile_px**2))
    bounds = {"min_pixels": 1, "max_pixels": most * tile_px**2}
    frame = smart_frame(width, height, **bounds, sight=Sight(28, 1000, tile_px))
    columns, rows = best((height, width), (tile_px, tile_px), 1, most)
    assert (frame.model_width_px, frame.model_height_px) == (columns * tile_px, rows * tile_px)
    num_tiles = columns * rows + (columns * rows > 1)
    assert frame.num_tokens == num_tiles * (tile_px // 28) ** 2
    assert (frame.box_width, frame.box_height) == (1000, 1000)
    assert frame.num_tokens <= most_tokens(**bounds, token_px=28, tile_px=tile_px)


def test_other_patch_factor():
    expected = transformers_smart_resize()(500, 333, 32, 65536, 262144)
    frame = smart_frame(333, 500, min_pixels=65536, max_pixels=262144, sight=Sight(token_px=32))
    assert (frame.model_height_px, frame.model_width_px) == expected


def test_aspect_ratio_of_two_hundred_is_the_last_that_is_taken():
    bounds = {"min_pixels": 3136, "max_pixels": 1003520}
    assert smart_frame(2000, 10, **bounds).width_px == 2000
    with pytest.raises(DataError, match="200 times"):
        smart_frame(2001, 10, **bounds)
    with pytest.raises(DataError, match="200 times"):
        smart_frame(10, 2001, **bounds)


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 0), (-3, 10)])
def test_image_without_pixels_is_refused(width, height):
    with pytest.raises(DataError, match="no pixels"):
        smart_frame(width, height, min_pixels=3136, max_pixels=1003520)
