import numpy as np

from fxray.baselines.crops import centre_crop, random_crop, with_short_side
from fxray.baselines.frequency import NUM_STEPS, radial_spectrum
from fxray.baselines.pictures import Masks
from fxray.evaluate.foreign import boxes_of_mask
from fxray.schema import Annotation, Box, Region, Sample, Verdict


def test_a_mask_is_the_union_of_the_boxes_and_gives_them_back():
    boxes = [Box(1.0, 2.0, 4.0, 5.0), Box(6.4, -1.0, 12.0, 2.6)]
    regions = tuple(Region(box, "") for box in boxes)
    sample = Sample("a", 10, 8, Annotation(Verdict.GENERATED, regions), "any", "", "")
    mask = Masks([sample]).is_flawed(0)
    assert mask.shape == (8, 10)
    assert mask.sum() == 3 * 3 + 4 * 3
    assert sorted(boxes_of_mask(mask)) == [Box(1.0, 2.0, 4.0, 5.0), Box(6.0, 0.0, 10.0, 3.0)]


def test_a_wave_stands_at_its_frequency_whatever_its_direction_and_the_size_of_the_image():
    for height, width, y_cycles, x_cycles in ((64, 64, 0.25, 0.0), (48, 80, 0.0, 0.25), (64, 96, 0.15, 0.2)):
        y, x = np.indices((height, width))
        wave = 128 + 100 * np.cos(2 * np.pi * (y_cycles * y + x_cycles * x))
        spectrum = radial_spectrum(np.repeat(wave[..., None], 3, 2).astype(np.uint8))
        assert abs(int(spectrum.argmax()) - NUM_STEPS // 2) <= 1  # a quarter of a cycle is half of what can be seen
    assert np.isfinite(radial_spectrum(np.zeros((1, 3, 3), np.uint8))).all()


def test_crops_of_images_of_any_size():
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    assert np.array_equal(centre_crop(image, 10), image[5:15, 10:20])
    assert centre_crop(image, 25).shape == (20, 25, 3)
    assert with_short_side(image, 10).shape == (10, 15, 3)
    assert with_short_side(image, 20) is image
    crop = random_crop(image, 24, np.random.default_rng(0))  # mirrored below, where the image ends
    assert crop.shape == (24, 24, 3)
    assert np.array_equal(crop[20:], crop[16:20][::-1])
