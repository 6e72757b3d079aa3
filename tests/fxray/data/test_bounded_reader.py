"""Images of very many parts: hostile ones are refused, ordinary ones are not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fxray.data.bounded_reader import MAX_READS
from fxray.data.images import decode_image, open_image
from fxray.errors import DataError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NUM_PARTS = MAX_READS * 2


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(*, before: bytes = b"", within: bytes = b"", behind: bytes = b"", split: int = 10**9) -> bytes:
    """A PNG of 8 x 8 px with more between its parts."""
    pixels = zlib.compress(b"".join(b"\0" + bytes(range(8)) for _ in range(8)))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    data = [chunk(b"IDAT", pixels[at : at + split]) for at in range(0, len(pixels), split)]
    return SIGNATURE + header + before + within.join([*data, b""]) + behind + chunk(b"IEND")


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "encoded",
    [
        png_of(before=chunk(b"teXt") * NUM_PARTS),
        jpeg()[:2] + b"\xff\xfe\x00\x02" * NUM_PARTS + jpeg()[2:],
        jpeg()[:2] + b"\xff" * NUM_PARTS + jpeg()[2:],
    ],
    ids=["chunks", "segments", "padding"],
)
def test_a_header_of_too_many_parts_is_refused(encoded):
    with pytest.raises(DataError, match="too many parts"):
        open_image(encoded, "here")


@pytest.mark.parametrize(
    "encoded",
    [png_of(behind=chunk(b"teXt") * NUM_PARTS), png_of(within=chunk(b"IDAT") * NUM_PARTS, split=9)],
    ids=["behind", "within"],
)
def test_too_many_chunks_behind_the_header_are_refused_with_the_pixels(encoded):
    assert open_image(encoded, "here").size == (8, 8)
    with pytest.raises(DataError, match="too many parts"):
        decode_image(encoded, "here")


def test_a_few_thousand_chunks_are_read():
    encoded = png_of(before=chunk(b"teXt") * 4000, behind=chunk(b"teXt") * 2000, split=1)
    assert np.asarray(decode_image(encoded, "here"))[3, :, 0].tolist() == list(range(8))


def test_pixels_that_are_read_byte_by_byte_are_no_parts():
    """A BMP of 200 x 200 px whose run lengths are all 1: 80,000 reads."""
    row = b"".join(bytes((1, column)) for column in range(200)) + b"\0\0"
    pixels = row * 200 + b"\0\1"
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, 200, 200, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    start = 14 + len(info) + len(palette)
    encoded = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels
    assert MAX_READS + len(encoded) // 256 < 2 * 200 * 200
    assert np.asarray(decode_image(encoded, "here"))[7, :, 0].tolist() == list(range(200))
