"""Near duplicates: the same picture in other clothes is found, other pictures are not, and none is lost."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from fxray.data import near_duplicates
from fxray.data.near_duplicates import MAX_DISTANCE, MAX_LAYOUT_DISTANCE, components, fingerprint, near_pairs


def picture(seed: int, side: int = 160) -> Image.Image:
    """Smooth noise over several scales, as a photograph has them."""
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side, 3))
    for cells in (3, 6, 12, 24):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), float) / cells
    return Image.fromarray((255 * (total - total.min()) / np.ptp(total)).astype(np.uint8))


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


CHANGES = {
    "jpeg 80": lambda image: through_jpeg(image, 80),
    "jpeg 30": lambda image: through_jpeg(image, 30),
    "half the size": lambda image: image.resize((80, 80)),
    "stretched": lambda image: image.resize((200, 160)),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "grey": lambda image: image.convert("L"),
    "a tiny crop": lambda image: image.crop((1, 1, 159, 159)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_same_picture_is_found_in_other_clothes(name: str) -> None:
    prints = [fingerprint(picture(seed)) for seed in range(40)]
    changed = [fingerprint(CHANGES[name](picture(seed))) for seed in range(40)]
    pairs = near_pairs(np.array(prints + changed, np.float32))
    assert pairs.tolist() == [[seed, seed + 40] for seed in range(40)]


def test_other_pictures_are_not_near() -> None:
    assert len(near_pairs(np.array([fingerprint(picture(seed)) for seed in range(300)], np.float32))) == 0


def test_a_flat_image_has_no_fingerprint() -> None:
    assert fingerprint(Image.new("RGB", (50, 50), (200, 10, 10))) is None
    assert fingerprint(Image.new("RGB", (1, 1))) is None


def test_a_fingerprint_has_length_one_and_ignores_brightness() -> None:
    grey = np.tile(np.linspace(60, 120, 64), (64, 1))
    dark, bright = (fingerprint(Image.fromarray((factor * grey).astype(np.uint8))) for factor in (1, 2))
    assert np.linalg.norm(dark) == pytest.approx(1, abs=1e-6)
    assert np.abs(dark - bright).max() < 0.02
    assert abs(dark[0]) == pytest.approx(0.98, abs=0.02)  # a ramp from left to right: the first horizontal frequency


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(0, 80), spread=st.sampled_from([0.0, 0.01, 0.05, 0.2]))
def test_the_search_finds_the_pairs_that_comparing_all_finds(seed: int, num: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    weights = near_duplicates._WEIGHTS
    centres = rng.standard_normal((5, 63))
    raw = centres[rng.integers(5, size=num)] + spread * rng.standard_normal((num, 63))
    prints = near_duplicates._unit(raw / weights).astype(np.float32)
    weighted = near_duplicates._unit(prints * weights.astype(np.float32))
    expected = [
        [i, j]
        for i in range(num)
        for j in range(i + 1, num)
        if np.linalg.norm(prints[i] - prints[j]) <= MAX_LAYOUT_DISTANCE
        and np.linalg.norm(weighted[i] - weighted[j]) <= MAX_DISTANCE
    ]
    assert near_pairs(prints).tolist() == expected


def test_a_crowd_of_copies_costs_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    placeholder = rng.standard_normal(63) / near_duplicates._WEIGHTS
    crowd = placeholder + 0.001 * rng.standard_normal((6000, 63))
    others = rng.standard_normal((500, 63)) / near_duplicates._WEIGHTS
    prints = near_duplicates._unit(np.concatenate([crowd, others])).astype(np.float32)
    pairs = near_pairs(prints)
    assert len(pairs) < 600_000  # 6000 x 6000 / 2 = 18 million in full
    numbers = components(len(prints), pairs)
    assert len(set(numbers[:6000].tolist())) == 1
    assert len(set(numbers.tolist())) == 501


@pytest.mark.parametrize("seed", range(40))
def test_crowds_that_touch_hang_together(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two crowds whose centres may be further apart than near duplicates are, while some of their members are not."""
    rng = np.random.default_rng(seed)
    middle, way = rng.standard_normal((2, 63)) / near_duplicates._WEIGHTS
    way -= way @ middle / (middle @ middle) * middle

    def prints_at(places: np.ndarray) -> np.ndarray:
        return near_duplicates._unit(middle + places[:, None] * way).astype(np.float32)

    ends = prints_at(np.array([-0.005, 0.005]))
    weighted = near_duplicates._unit(ends * near_duplicates._WEIGHTS.astype(np.float32))
    unit = 0.01 / near_duplicates._apart(ends, weighted, np.array([0]), 1)[0]  # so far two just are near duplicates
    prints = prints_at(unit * np.concatenate([rng.uniform(-0.65, -0.45, 30), rng.uniform(0.45, 0.65, 30)]))
    expected = components(60, near_pairs(prints))
    monkeypatch.setattr(near_duplicates, "_CROWD", 10)
    assert components(60, near_pairs(prints)).tolist() == expected.tolist()


def test_components_join_chains() -> None:
    assert components(6, np.array([[0, 3], [3, 5], [1, 2]])).tolist() == [0, 1, 1, 0, 2, 0]
    assert components(2, np.empty((0, 2), np.int64)).tolist() == [0, 1]
