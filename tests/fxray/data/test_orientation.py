"""The eight orientations, checked on the pixels that Pillow gives, in every file format that carries them."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fxray.data.images import decode_image
from fxray.data.orientation import to_stored, to_upright, upright_size
from fxray.data.probe import probe_image
from fxray.schema import Box

BOX = Box(3, 4, 11, 7)  # of a 20x12 raster


def encoded(form, orientation):
    pixels = np.zeros((12, 20, 3), np.uint8)
    pixels[4:7, 3:11] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    options = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
        "WEBP": {"lossless": True},
    }.get(form, {})
    Image.fromarray(pixels).save(buffer, form, exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_lands_on_the_same_pixels(form, orientation):
    content = encoded(form, orientation)
    upright = decode_image(content, "here")
    probe = probe_image(content, "image", "here")
    assert probe.upright_px == upright.size
    rows, columns = np.nonzero(np.asarray(upright.convert("L")) > 127)
    seen = Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert probe.stored_px == (20, 12)
    assert to_upright(BOX, *probe.stored_px, probe.orientation) == seen
    assert to_stored(seen, *upright.size, probe.orientation) == BOX


@given(st.integers(1, 8), st.tuples(*[st.floats(0, 4000, width=32).map(lambda value: max(value, 2**-17))] * 4))
def test_there_and_back_is_nothing(orientation, corners):
    width, height = 4032, 3024  # from 2^-17 px on, 53 bits hold their difference to a corner in full
    x = sorted((corners[0], corners[2]))
    y = sorted(min(value, 3000) for value in (corners[1], corners[3]))
    box = Box(x[0], y[0], x[1], y[1])
    there = to_upright(box, width, height, orientation)
    back = to_stored(there, *upright_size(width, height, orientation), orientation)
    assert np.float32(back).tolist() == list(box)
