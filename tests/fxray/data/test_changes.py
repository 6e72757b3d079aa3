import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fxray.data.changes import (
    CHANGES,
    HARDSHIPS,
    add_noise,
    change_sample,
    crop_at_random,
    crop_to_centre,
    refuse_too_long,
    resize,
    save_as_jpeg,
    save_as_webp,
    share_twice,
    take_screenshot,
)
from fxray.errors import DataError
from fxray.schema import Annotation, Box, Region, Sample, Verdict

BY_NAME = {change.name: change for change in CHANGES}
HARD = {change.name: change for change in HARDSHIPS}


def marked(width: int, height: int, box: Box) -> Image.Image:
    """A grey image with a white rectangle."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)] = 250
    return Image.fromarray(pixels)


def bright(image: Image.Image) -> Box:
    """Where a changed image shows the rectangle."""
    rows, columns = np.nonzero(np.asarray(image.convert("L")) > 155)
    return Box(float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))


def test_the_changes_are_those_that_are_promised():
    assert list(BY_NAME) == [
        "jpeg-90", "jpeg-70", "jpeg-50", "jpeg-30", "resize-0.5", "resize-0.75", "resize-1.5", "crop", "screenshot",
    ]  # fmt: skip
    assert BY_NAME["jpeg-70"].title == "JPEG, quality 70"


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("size", [(168, 168), (301, 97)])
def test_a_box_comes_back_to_where_it_was(name, size):
    box = Box(size[0] // 4, size[1] // 4, size[0] // 2, size[1] * 2 // 3)
    changed = BY_NAME[name].apply(marked(*size, box))
    found = changed.to_original(bright(changed.image))
    assert found is not None
    assert np.abs(np.subtract(list(found), list(box))).max() <= 2.0


@pytest.mark.parametrize("name", BY_NAME)
def test_a_change_is_the_same_every_time_and_leaves_the_image_alone(name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8))
    before = image.tobytes()
    first, second = BY_NAME[name].apply(image), BY_NAME[name].apply(image)
    assert image.tobytes() == before
    assert first.image.tobytes() == second.image.tobytes() != before
    assert first.image.mode == "RGB"


def test_sizes_and_qualities_are_what_was_asked_for():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8))
    assert resize(image, 0.5).image.size == (65, 45)
    assert take_screenshot(image, 0.9, 80).image.size == (117, 81)
    saved = io.BytesIO()
    image.save(saved, "JPEG", quality=30, subsampling="4:2:0")
    assert save_as_jpeg(image, 30).image.tobytes() == Image.open(saved).convert("RGB").tobytes()
    cropped = crop_to_centre(image, 0.8)
    assert cropped.window == Box(13, 9, 117, 81)
    assert cropped.image.tobytes() == image.crop((13, 9, 117, 81)).tobytes()


def test_what_is_cut_off_is_out_of_view():
    cropped = crop_to_centre(Image.new("RGB", (100, 100)), 0.8)
    assert cropped.in_view(Box(0, 0, 10, 100)) is None
    assert cropped.in_view(Box(0, 0, 20, 50)) == Box(10, 10, 20, 50)
    assert cropped.to_original(Box(0, 0, 80, 80)) == Box(10, 10, 90, 90)
    assert cropped.to_original(Box(70, 70, 90, 90)) == Box(80, 80, 90, 90)
    smaller = resize(Image.new("RGB", (128, 64)), 0.5)
    assert smaller.window == Box(0, 0, 128, 64)
    assert smaller.to_original(Box(0, 0, 8, 9)) == Box(0, 0, 16, 18)
    assert smaller.from_original(Box(0, 0, 16, 18)) == Box(0, 0, 8, 9)


@given(st.integers(1, 40), st.integers(1, 40))
def test_tiny_images_stay_images(width, height):
    for change in (*CHANGES, *HARDSHIPS):
        changed = change.apply(Image.new("RGB", (width, height), "white"))
        whole = changed.to_original(Box(0, 0, changed.image.width, changed.image.height))
        assert whole is not None
        assert list(whole) == pytest.approx(list(changed.window))


@pytest.mark.parametrize("name", HARD)
def test_under_every_hardship_the_truth_moves_with_the_pixels(name):
    box = Box(75, 24, 150, 64)
    before = marked(301, 97, box)
    changed = HARD[name].apply(before)
    regions = (Region(box, "Flaw"),)
    truth = change_sample(Sample("a", 301, 97, Annotation(Verdict.GENERATED, regions), "g", "c", "s"), changed)
    assert (truth.width_px, truth.height_px) == changed.image.size
    [moved] = truth.annotation.regions
    assert np.abs(np.subtract(list(moved.box), list(bright(changed.image)))).max() <= 1.5
    again = HARD[name].apply(before)
    assert again.image.tobytes() == changed.image.tobytes()


def test_hardships_are_the_papers_and_more():
    assert {"jpeg-80", "jpeg-30", "crop-random", "resize-0.5"} < HARD.keys()
    assert {name.split("-")[0] for name in HARD} == {
        "jpeg", "crop", "resize", "webp", "blur", "noise", "screenshot", "social",
    }  # fmt: skip


def test_what_a_crop_cuts_off_is_no_longer_true():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (100, 100, 3), np.uint8))
    cropped = crop_at_random(image, 0.5)
    view = cropped.window
    assert (cropped.image.size, view.x_max - view.x_min) == ((50, 50), 50)
    assert cropped.image.tobytes() == image.crop(tuple(map(int, view))).tobytes()
    corners = [
        Box(0, 0, 4, 4),
        Box(96, 96, 100, 100),
        Box(view.x_min - 5, view.y_min + 1, view.x_min + 5, view.y_min + 9),
    ]
    regions = tuple(Region(box, str(i)) for i, box in enumerate(corners))
    truth = change_sample(Sample("a", 100, 100, Annotation(Verdict.GENERATED, regions), "g", "c", "s"), cropped)
    assert truth.annotation.verdict is Verdict.GENERATED
    assert Region(Box(0, 1, 5, 9), "2") in truth.annotation.regions
    assert len(truth.annotation.regions) < 3
    other = Image.fromarray(np.random.default_rng(2).integers(0, 255, (100, 100, 3), np.uint8))
    assert crop_at_random(other, 0.5).window != view


def test_noise_is_as_strong_as_it_says_and_sharing_makes_small():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    noise = np.asarray(add_noise(grey, 8).image).astype(float) - 128
    assert (abs(noise.mean()), noise.std()) == (pytest.approx(0, abs=0.1), pytest.approx(8, rel=0.02))
    assert share_twice(Image.new("RGB", (2000, 1000)), 1080, 75).image.size == (972, 486)


def test_noise_is_drawn_in_bands_as_in_one_piece():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (130, 40, 3), np.uint8))
    drawn = np.random.default_rng(7).normal(0.0, 8.0, (130, 40, 3))
    expected = np.clip(np.rint(np.asarray(image) + drawn), 0, 255)
    assert (np.asarray(add_noise(image, 8.0, np.random.default_rng(7)).image) == expected).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("save", [save_as_jpeg, save_as_webp])
def test_a_large_photograph_is_no_bomb(save, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert save(Image.new("RGB", (40, 30)), 80).image.size == (40, 30)


def test_what_is_longer_than_a_jpeg_may_be_is_told():
    longest = Image.new("RGB", (65_500, 1))
    assert save_as_jpeg(longest, 90).image.size == longest.size
    with pytest.raises(DataError, match="65501 x 1 px, expected at most 65500 a side in a JPEG"):
        save_as_jpeg(Image.new("RGB", (65_501, 1)), 90)


def test_what_is_longer_than_a_webp_may_be_is_told():
    longest = Image.new("RGB", (1, 16_383))
    assert save_as_webp(longest, 80).image.size == longest.size
    with pytest.raises(DataError, match="16384 x 100 px, expected at most 16383 a side in a WebP"):
        save_as_webp(Image.new("RGB", (16_384, 100)), 80)


def test_images_that_a_change_cannot_be_made_of_are_named_by_their_sizes_alone():
    def sized(width_px):
        return Sample("long", width_px, 100, Annotation(Verdict.REAL), "real", "thing", "web")

    refuse_too_long([sized(16_383)], HARDSHIPS)
    refuse_too_long([sized(16_384)], [HARD["jpeg-80"], HARD["resize-0.5"]])
    with pytest.raises(DataError, match=r"'long'.*16384 x 100 px.*in a WebP: WebP, quality 80 cannot be tried"):
        refuse_too_long([sized(16_384)], HARDSHIPS)
