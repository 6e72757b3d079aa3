"""Encoded images to upright RGB pixels."""

import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fxray.data.bounded_reader import open_bounded
from fxray.data.orientation import ORIENTATION_TAG, UPRIGHT, upright_size
from fxray.errors import DataError

MAX_IMAGE_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a small file can claim gigabytes of pixels."""
MAX_IMAGE_BYTES = 256 * 2**20
"""Larger files are refused before they are read."""
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
"""What is read. Pillow knows more, but some of it is handed to other programs (EPS to Ghostscript)."""

_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow has been seen to raise on damaged files."""
_FILTERS = threading.Lock()
"""Filters of warnings belong to the whole process: of two threads, one would leave it with those of the other."""
_SUBFILE_TAG, _IS_PREVIEW = 254, 1
_DNG_VERSION_TAG = 50706
_CONVERT = "convert it to JPEG, PNG or WebP"
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def image_beside(dataset: Path, relative: str) -> Path:
    """The file of a row's `image_path`: from the dataset's file on or, if that is a link, from what it leads to.

    Args:
        dataset: The dataset's file.
        relative: As it stands in the row.
    """
    named = dataset.parent / relative
    if os.path.islink(dataset) and not os.path.exists(named):  # noqa: PTH110, PTH114 - paths of rows may be no paths
        return Path(os.path.realpath(dataset)).parent / relative
    return named


def read_image_file(path: Path, where: str) -> bytes:
    """A whole image file, if it is one of a sensible size.

    Args:
        path: The file.
        where: The place to name in errors; the path itself is named once.

    Raises:
        DataError: It is missing, no plain file (a folder, a pipe, a device), larger than 256 MiB, or not readable.
    """
    name = "" if where == str(path) else f"{path} "
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{name}is no plain file", where=where, remedy="name an image file")
        if status.st_size > MAX_IMAGE_BYTES:
            raise DataError(
                f"{name}has {status.st_size} bytes, expected at most {MAX_IMAGE_BYTES}",
                where=where,
                remedy="scale the image down, or leave it out",
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{name}cannot be read: {getattr(error, 'strerror', None) or error}",
            where=where,
            remedy="put the image there, or mend the path",
        ) from error


def open_image(encoded: bytes, where: str) -> Image.Image:
    """The image with its header read and its pixels not yet decoded.

    Args:
        encoded: A file in one of `FORMATS`.
        where: The place to name in errors.

    Raises:
        DataError: The bytes are no image, or camera raw data, claim too many pixels, or are made of too many parts.
    """
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = open_bounded(encoded, FORMATS)
            is_raw = is_camera_raw(image, encoded)
    except Image.DecompressionBombError as error:
        raise DataError(f"image has too many pixels: {error}", where=where, remedy="scale the image down") from error
    except UnidentifiedImageError as error:
        raise _unknown(encoded, where) from error
    except _DAMAGE as error:
        raise _damaged(encoded, where, error) from error
    if is_raw:
        raise DataError("camera raw data, of which only a preview could be seen", where=where, remedy=_CONVERT)
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise DataError(
            f"image of {image.width}x{image.height} px, expected at most {MAX_IMAGE_PIXELS} pixels",
            where=where,
            remedy="scale the image down",
        )
    return image


def is_camera_raw(image: Image.Image, encoded: bytes) -> bool:
    """Whether an opened TIFF is camera raw data (DNG, NEF, ARW, CR2), whose first image is a preview."""
    if image.format != "TIFF":
        return False
    tags = image.tag_v2  # type: ignore[attr-defined]
    return encoded[8:10] == b"CR" or _DNG_VERSION_TAG in tags or bool(tags.get(_SUBFILE_TAG, 0) & _IS_PREVIEW)


def decode_image(encoded: bytes, where: str) -> Image.Image:
    """The image as RGB, turned upright by its EXIF orientation, which is then gone.

    Transparency is dropped, 16 bits per channel become the upper 8, numbers of 32 bits must be 0 to 255.

    Args:
        encoded: A file in one of `FORMATS`; of an animation the first frame counts.
        where: The place to name in errors.

    Raises:
        DataError: The bytes are no image, are cut short or damaged, hold too many pixels, or pixels without a white.
    """
    image = open_image(encoded, where)
    with decoding(encoded, where):
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened image as RGB, turned upright by its EXIF orientation, as `decode_image` gives it: pixels alone.

    The image stays as it is. No copy is made that is not needed: of 100 megapixels each takes 0.4 GiB.
    """
    upright = eight_bits(image)
    upright.load()  # which turns a TIFF
    if upright.getexif().get(ORIENTATION_TAG) in range(UPRIGHT + 1, 9):
        upright = ImageOps.exif_transpose(upright)
    if upright.mode == "P" and isinstance(upright.info.get("transparency"), bytes):
        upright = upright.convert("RGBA")  # on the way, or Pillow warns; the colours are those of the palette
    if upright is image or upright.mode != "RGB":
        upright = upright.convert("RGB")
    upright.info = {}  # Pillow would write a comment into every JPEG that is made of it
    return upright


def pending_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that an opened image's size and pixels still lack: Pillow turns a TIFF itself."""
    orientation = UPRIGHT if image.format == "TIFF" else image.getexif().get(ORIENTATION_TAG, UPRIGHT)
    return orientation if orientation in range(1, 9) else UPRIGHT


def upright_px(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image once it is turned upright, its pixels decoded or not."""
    return upright_size(*image.size, pending_orientation(image))


def eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits with 8 instead, which Pillow would cut off at white; any other as it is.

    Raises:
        DataError: Its pixels are numbers of 32 bits, and nobody knows which of them is white.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    pixels = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # Pillow scales these to 16 bits
        pixels = pixels >> 8
    elif not _are_eight_bits(pixels):
        raise DataError(
            f"pixels are numbers from {pixels.min():g} to {pixels.max():g}, expected 0 to 255",
            remedy="scale them to 8 or 16 bits: which of them is white, the file does not say",
        )
    scaled = Image.fromarray(pixels.astype(np.uint8))
    if orientation := image.getexif().get(ORIENTATION_TAG):
        scaled.getexif()[ORIENTATION_TAG] = orientation
    return scaled


def _are_eight_bits(pixels: NDArray[Any]) -> bool:
    """Whether numbers of 32 bits can be meant as 0 to 255: fractions of 1 cannot, nor what is not finite."""
    low, high = float(pixels.min()), float(pixels.max())
    return low >= 0 and high <= 255 and not (pixels.dtype.kind == "f" and 0 < high <= 1)


@contextmanager
def decoding(encoded: bytes | None, where: str) -> Iterator[None]:
    """Around whatever reads on in an opened image, its metadata too: what a damaged file raises becomes a DataError.

    Args:
        encoded: The file; None for an image that was opened elsewhere.
        where: The place to name in errors.

    Raises:
        DataError: The image is damaged or cut short, or one that was opened elsewhere is closed or of a rare mode.
    """
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, DataError):
            raise DataError(error.message, where=error.where or where, remedy=error.remedy) from None
        if encoded is None:
            remedy = "give an image that is whole, still open, and of a mode that Pillow turns into RGB"
            raise DataError(f"its pixels cannot be read: {error}", where=where, remedy=remedy) from error
        raise _damaged(encoded, where, error) from error


def _damaged(encoded: bytes, where: str, error: Exception) -> DataError:
    return DataError(
        f"image of {len(encoded)} bytes is damaged or cut short: {error}",
        where=where,
        remedy="fetch the file again, or leave it out",
    )


def _unknown(encoded: bytes, where: str) -> DataError:
    """The error of bytes that are no image, with the kinds that people do try named."""
    start = encoded[:512].lstrip()
    if encoded[4:8] == b"ftyp" and encoded[8:12] in _HEIC_BRANDS:
        return DataError("a HEIC image, which is not read", where=where, remedy=_CONVERT)
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in encoded[:4096]):
        return DataError("an SVG drawing, which has no pixels", where=where, remedy=_CONVERT)
    if not encoded:
        return DataError("0 bytes that are no image", where=where, remedy="fetch the file again, or leave it out")
    return DataError(
        f"{len(encoded)} bytes that are no image Pillow knows (they start with {encoded[:8].decode('latin-1')!a})",
        where=where,
        remedy=f"give one of {', '.join(FORMATS)}",
    )
