from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fxray.data.augment import augment, drawn
from fxray.data.changes import MAX_WEBP_SIDE_PX, Changed, add_noise
from fxray.geometry import area
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

RED = (250, 10, 10)
BOXES = (Box(20.0, 30.0, 60.0, 70.0), Box(120.0, 90.0, 160.0, 130.0))


def red_squares() -> tuple[Image.Image, Sample]:
    pixels = np.random.default_rng(0).integers(80, 140, (160, 200, 3), dtype=np.uint8)
    for box in BOXES:
        x_min, y_min, x_max, y_max = map(int, box)
        pixels[y_min:y_max, x_min:x_max] = RED
    regions = tuple(Region(box, "Red square, out of place") for box in BOXES)
    annotation = Annotation(Verdict.GENERATED, regions, (Tag.UNKNOWN,))
    return Image.fromarray(pixels), Sample("a", 200, 160, annotation, "squares", "noise", "seed")


def generator(*key: object) -> np.random.Generator:
    rng = drawn(1.0, *key)
    assert rng is not None
    return rng


def test_a_key_gives_the_same_pixels_each_time_and_another_key_others() -> None:
    image, sample = red_squares()
    first, again, other = (augment(image, sample, generator(0, "a", epoch)) for epoch in (1, 1, 2))
    assert first[1] == again[1]
    assert first[0].tobytes() == again[0].tobytes()
    assert first[0].tobytes() != other[0].tobytes()


def test_noise_is_drawn_by_the_key_and_not_by_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    def noise(image: Image.Image, sigma: float, rng: np.random.Generator | None = None) -> Changed:
        assert rng is not None
        fields.append(np.asarray(add_noise(grey, sigma, rng).image).astype(float) - 128)
        return add_noise(image, sigma, rng)

    fields: list[np.ndarray] = []
    grey = Image.new("RGB", (200, 160), (128, 128, 128))
    monkeypatch.setattr("fxray.data.augment.add_noise", noise)
    image, sample = red_squares()
    for epoch in range(40):
        augment(image, sample, generator(epoch))
    assert len(fields) > 4
    together = np.corrcoef([field.ravel() for field in fields])
    assert np.abs(together[np.triu_indices(len(fields), 1)]).max() < 0.05


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_so_many_of_the_keys_change_their_image(share: float) -> None:
    changed = sum(drawn(share, 0, name, epoch) is not None for name in range(1000) for epoch in range(2))
    assert changed / 2000 == pytest.approx(share, abs=0.04 if 0 < share < 1 else 0)


def test_regions_stay_on_what_they_show_and_none_is_lost() -> None:
    image, sample = red_squares()
    sizes = set()
    for key in range(200):
        changed, moved = augment(image, sample, generator(key))
        sizes.add(changed.size)
        assert (moved.width_px, moved.height_px) == changed.size
        assert replace(moved.annotation, regions=sample.annotation.regions) == sample.annotation
        assert [region.caption for region in moved.annotation.regions] == ["Red square, out of place"] * 2
        pixels = np.asarray(changed).astype(int)
        for region in moved.annotation.regions:
            x_min, y_min, x_max, y_max = region.box
            inside = pixels[round(y_min) : round(y_max), round(x_min) : round(x_max)]
            red = (inside[..., 0] - inside[..., 1] > 120).mean()
            assert red > 0.75, (key, red, region.box)
        is_red = (pixels[..., 0] - pixels[..., 1] > 120).sum()
        assert is_red < 1.1 * sum(area(region.box) for region in moved.annotation.regions) + 20
    assert len(sizes) > 50


def test_a_crop_keeps_at_least_half_of_each_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxray.data.augment.SHRINK_FACTORS", (1.0, 1.0))
    image, sample = red_squares()
    wide = replace(sample, annotation=replace(sample.annotation, regions=(Region(Box(0, 0, 200, 160), "All of it"),)))
    shares = []
    for key in range(200):
        changed, moved = augment(image, wide, generator(key))
        shares.append(changed.width * changed.height / (200 * 160))
        assert len(moved.annotation.regions) == 1
    assert 0.5 <= min(shares) < 0.6


def test_an_image_longer_than_a_webp_is_changed_too() -> None:
    sample = Sample("long", 40_000, 300, Annotation(Verdict.REAL, (), ()), "squares", "", "seed")
    widths = []
    for key in range(8):
        changed, moved = augment(Image.new("RGB", (40_000, 300)), sample, generator(key))
        assert (moved.width_px, moved.height_px) == changed.size
        widths.append(changed.width)
    assert max(widths) > MAX_WEBP_SIDE_PX > min(widths)
