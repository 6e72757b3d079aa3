"""Hostile and ordinary image files."""

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fxray.data import images
from fxray.data.images import MAX_IMAGE_BYTES, decode_image, open_image, read_image_file, upright_rgb
from fxray.data.orientation import ORIENTATION_TAG
from fxray.errors import DataError


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_orientation_is_applied_once() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright: the stored left becomes the top
    upright = decode_image(_encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95), "here")
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5))[0] > 200
    assert upright.getpixel((10, 35))[0] < 50
    assert decode_image(_encoded(upright, "PNG"), "here").size == (20, 40)


@pytest.mark.parametrize("form", ["JPEG", "GIF"])
def test_a_comment_is_not_passed_on_to_what_is_made_of_the_pixels(form: str) -> None:
    encoded = _encoded(Image.new("RGB", (8, 8)), form, comment=b"Jane Doe, 12 Elm St")
    assert b"Jane" in encoded
    assert b"Jane" not in _encoded(decode_image(encoded, "here"), "JPEG")


def test_a_palette_whose_colours_are_transparent_one_by_one_is_read_without_a_warning() -> None:
    palette = Image.new("P", (4, 3))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1] * 6)
    encoded = _encoded(palette, "PNG", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode_image(encoded, "x.png")
    assert image.mode == "RGB"
    assert np.asarray(image)[0].tolist() == [[10, 20, 30], [200, 100, 50]] * 2


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("L", (8, 6), 128).convert(mode) if mode != "I;16" else Image.new("I;16", (8, 6), 128)
    form = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    decoded = decode_image(_encoded(image, form), "here")
    assert (decoded.mode, decoded.size) == ("RGB", (8, 6))


def test_sixteen_bits_become_the_upper_eight() -> None:
    ramp = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    for form in ("PNG", "TIFF"):
        decoded = np.asarray(decode_image(_encoded(Image.fromarray(ramp), form), "here"))
        assert decoded[..., 1].ravel().tolist() == list(range(256))


@pytest.mark.parametrize("header", ["P5 16 16 65535\n", "P5 16 16 4095\n"])
def test_sixteen_bits_of_a_portable_greymap_become_the_upper_eight(header: str) -> None:
    ramp = np.arange(0, 65536, 256, dtype=">u2").reshape(16, 16) >> (4 if "4095" in header else 0)
    decoded = np.asarray(decode_image(header.encode() + ramp.astype(">u2").tobytes(), "here"))
    assert decoded[..., 1].ravel().tolist() == list(range(256))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_of_32_bits_are_taken_where_they_can_be_8(dtype: type) -> None:
    ramp = np.arange(256, dtype=dtype).reshape(16, 16)
    decoded = np.asarray(decode_image(_encoded(Image.fromarray(ramp), "TIFF"), "here"))
    assert decoded[..., 1].ravel().tolist() == list(range(256))


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (np.array([[0, 65535]], np.int32), "from 0 to 65535"),
        (np.array([[-1, 255]], np.int32), "from -1 to 255"),
        (np.array([[0, 1]], np.float32), "from 0 to 1"),
        (np.array([[np.nan, 200]], np.float32), "from nan to nan"),
    ],
)
def test_numbers_without_a_known_white_are_refused_with_their_place(pixels: NDArray[Any], says: str) -> None:
    with pytest.raises(DataError, match=f"here: pixels are numbers {says}, expected 0 to 255"):
        decode_image(_encoded(Image.fromarray(pixels), "TIFF"), "here")


@pytest.mark.parametrize("tags", [{254: 1}, {50706: b"\x01\x04\0\0"}])
def test_camera_raw_data_are_refused_rather_than_their_preview_seen(tags: dict[int, Any]) -> None:
    preview = _encoded(Image.new("RGB", (16, 12)), "TIFF", tiffinfo=tags)
    with pytest.raises(DataError, match="here: camera raw data, of which only a preview could be seen"):
        decode_image(preview, "here")
    assert decode_image(_encoded(Image.new("RGB", (16, 12)), "TIFF", tiffinfo={254: 0}), "here").size == (16, 12)


def test_a_tag_of_another_type_than_its_standard_says_is_damage() -> None:
    encoded = bytearray(_encoded(Image.new("RGB", (16, 12)), "TIFF", tiffinfo={254: 0}))
    entry = encoded.index(struct.pack("<HHI", 254, 4, 1))
    encoded[entry : entry + 12] = struct.pack("<HHI", 254, 2, 4) + b"abc\0"  # text in place of a number
    with pytest.raises(DataError, match="damaged"):
        decode_image(bytes(encoded), "here")


@pytest.mark.parametrize("kept", [0, 45])
def test_the_remedy_for_a_damaged_image_fits_one_that_is_in_no_table(kept: int) -> None:
    whole = _encoded(Image.new("RGB", (16, 12)), "PNG")
    with pytest.raises(DataError) as caught:
        decode_image(whole[:kept], "here")
    assert caught.value.remedy == "fetch the file again, or leave it out"


def test_what_pillow_hands_to_other_programs_is_not_read() -> None:
    script = _encoded(Image.new("RGB", (8, 6)), "EPS")
    with pytest.raises(DataError, match="no image Pillow knows"):
        decode_image(script, "here")


@pytest.mark.parametrize(("encoded", "shown"), [(b"hello you", "'hello yo'"), (b"\xff\n\0a", r"'\xff\n\x00a'")])
def test_bytes_that_are_no_image_are_shown_as_text_on_one_line(encoded: bytes, shown: str) -> None:
    with pytest.raises(DataError) as caught:
        decode_image(encoded, "here")
    assert caught.value.message.endswith(f"(they start with {shown})")


def test_heic_and_svg_are_named() -> None:
    with pytest.raises(DataError, match="HEIC"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "here")
    for drawing in (b"<svg xmlns='x'/>", b"  <?xml version='1.0'?>\n<!-- x --><svg/>"):
        with pytest.raises(DataError, match="SVG"):
            decode_image(drawing, "here")


def test_only_plain_files_of_a_sensible_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"abc")
    assert read_image_file(tmp_path / "a.png", "here") == b"abc"
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(4 * 2**30)
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in {
        "huge.png": f"4294967296 bytes, expected at most {MAX_IMAGE_BYTES}",
        "pipe.png": "no plain file",
        "absent.png": "cannot be read: No such file",
        "nul\0.png": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            read_image_file(tmp_path / name, "set.parquet row 3")
        assert caught.value.where == "set.parquet row 3"


def test_truncated_files_are_refused_with_their_place() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for form in ("JPEG", "PNG", "WEBP"):
        whole = _encoded(noise, form)
        with pytest.raises(DataError, match="row 7") as caught:
            decode_image(whole[: len(whole) // 2], "set.parquet row 7")
        assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<svg/>", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="here"):
        decode_image(content, "here")


@pytest.mark.parametrize("side", [11_000, 60_000])
def test_a_pixel_bomb_is_refused_before_decoding(side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match="pixels"):
        decode_image(bomb, "here")


def test_random_bytes_after_a_valid_header_never_escape_as_another_error() -> None:
    rng = np.random.default_rng(1)
    whole = _encoded(Image.new("RGB", (32, 32), (9, 90, 200)), "PNG")
    num_refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(8, len(whole), 4):
            damaged[place] = rng.integers(256)
        try:
            decode_image(bytes(damaged), "here")
        except DataError:
            num_refused += 1
    assert num_refused > 100


def test_threads_that_open_images_leave_the_filters_of_warnings_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, open_it = _encoded(Image.new("RGB", (4, 4)), "PNG"), images.open_bounded
    is_one_in, is_other_in, before = threading.Event(), threading.Event(), list(warnings.filters)

    def overlapping(encoded: bytes, formats: tuple[str, ...]) -> Image.Image:
        if is_one_in.is_set():
            is_other_in.set()
            one.result(60)
        else:
            is_one_in.set()
            is_other_in.wait(0.5)
        return open_it(encoded, formats)

    monkeypatch.setattr(images, "open_bounded", overlapping)
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(decode_image, encoded, "one")
        assert is_one_in.wait(60)
        assert threads.submit(decode_image, encoded, "other").result(60).size == one.result(60).size == (4, 4)
    assert list(warnings.filters) == before


MEASURED = """
import io, sys
from PIL import Image
from fxray.data.images import decode_image
def most_bytes():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])
image, buffer, exif = Image.new(sys.argv[1], (5000, 4000)), io.BytesIO(), Image.Exif()
exif[0x0112] = int(sys.argv[2])
image.save(buffer, "PNG", exif=exif, compress_level=1)
del image
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is the present from now on
before = most_bytes()
print(decode_image(buffer.getvalue(), "image").size, most_bytes() - before)
"""


@pytest.mark.parametrize(("mode", "orientation"), [("RGB", 1), ("RGB", 6), ("RGBA", 1)])
def test_pixels_are_there_at_most_twice_while_they_are_decoded(mode: str, orientation: int) -> None:
    command = [sys.executable, "-c", MEASURED, mode, str(orientation)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    size, num_bytes = done.stdout.rsplit(maxsplit=1)
    assert size == ("(4000, 5000)" if orientation == 6 else "(5000, 4000)")
    assert int(num_bytes) < 2.5 * 4 * 5000 * 4000


def test_what_is_made_upright_stays_as_it_was() -> None:
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        buffer = io.BytesIO()
        Image.new("RGB", (3, 2), (9, 8, 7)).save(buffer, "PNG", exif=exif)
        image = open_image(buffer.getvalue(), "image")
        upright = upright_rgb(image)
        assert (image.size, upright.size) == ((3, 2), (2, 3) if orientation == 6 else (3, 2))
        assert image.getexif()[ORIENTATION_TAG] == orientation
        upright.putpixel((0, 0), (1, 1, 1))
        assert image.getpixel((0, 0)) == (9, 8, 7)
