"""What an image file is, found without trusting it: bounded in time and memory, every fault a named problem."""

import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from fxray.config.image_size import MAX_ASPECT_RATIO
from fxray.data.bounded_reader import open_bounded
from fxray.data.formats.record import FieldProblem
from fxray.data.images import FORMATS, MAX_IMAGE_PIXELS, eight_bits, is_camera_raw, upright_px
from fxray.data.orientation import ORIENTATION_TAG, UPRIGHT, upright_size
from fxray.errors import DataError

MAX_IMAGE_BYTES = 256 * 2**20
"""Larger files are refused unread: a sparse one can claim any size."""
SMALL_SIDE_PX = 8
"""Below it an image is imported, and judged, with a warning: hardly any flaw shows."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}


@dataclass(frozen=True, slots=True)
class Probe:
    """Facts of an image that decodes whole.

    Attributes:
        stored_px: Width and height of the raster in the file.
        orientation: 1 to 8, as EXIF counts them.
        suffix: Of file names for its format.
        oddities: What a viewer should know: colours, depth, transparency or frames that are lost on the way.
    """

    stored_px: tuple[int, int]
    orientation: int
    suffix: str
    oddities: tuple[str, ...]

    @property
    def upright_px(self) -> tuple[int, int]:
        """Width and height once the orientation is applied."""
        return upright_size(*self.stored_px, self.orientation)


def read_image_file(path: Path, field: str) -> bytes:
    """The bytes of an image file.

    Raises:
        FieldProblem: It is missing, empty, no ordinary file, or larger than `MAX_IMAGE_BYTES`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FieldProblem(field, str(path), "no ordinary file")
        if status.st_size > MAX_IMAGE_BYTES:
            limit_mib = MAX_IMAGE_BYTES // 2**20
            raise FieldProblem(field, str(path), f"{status.st_size} bytes, expected at most {limit_mib} MiB")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, FieldProblem):
            raise
        raise FieldProblem(field, str(path), f"cannot be read: {error}") from error
    if not content:
        raise FieldProblem(field, str(path), "an empty file")
    return content


def probe_image(encoded: bytes, field: str, name: str) -> Probe:
    """Decodes an image once and says what it is.

    Args:
        encoded: The file's bytes.
        field: Path of the image's field within the row, for problems.
        name: The image's name, for problems.

    Raises:
        FieldProblem: It is no image, is damaged, too large or too long.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = open_bounded(encoded, FORMATS)
            if is_camera_raw(image, encoded):
                raise FieldProblem(field, name, "camera raw data, of which only a preview could be seen")
            _check_size(image, field, name)
            found = _examine(image)
            if image.format == "JPEG":  # reads every byte, and spares seven eighths of the arithmetic
                image.draft(image.mode, (1, 1))
            image.load()
            eight_bits(image)
    except FieldProblem:
        raise
    except DataError as error:
        raise FieldProblem(field, name, error.message) from error
    except UnidentifiedImageError as error:
        raise FieldProblem(field, name, _what_it_is(encoded)) from error
    except Image.DecompressionBombError as error:
        raise FieldProblem(field, name, f"more than {MAX_IMAGE_PIXELS} pixels") from error
    except MemoryError as error:
        raise FieldProblem(field, name, "needs more memory than there is") from error
    except Exception as error:
        raise FieldProblem(field, name, f"damaged or cut short: {str(error) or type(error).__name__}") from error
    return found


def _check_size(image: Image.Image, field: str, name: str) -> None:
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise FieldProblem(field, name, f"{width}x{height} px, expected at most {MAX_IMAGE_PIXELS} pixels")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        reason = f"{width}x{height} px, longer than {MAX_ASPECT_RATIO} times its breadth, which no model can see"
        raise FieldProblem(field, name, reason)


def _examine(image: Image.Image) -> Probe:
    orientation = image.getexif().get(ORIENTATION_TAG, UPRIGHT)
    if orientation not in range(1, 9):
        orientation = UPRIGHT
    width, height = image.size
    stored = upright_size(*upright_px(image), orientation)  # to turn a size twice is to leave it
    oddities = []
    if image.mode in ("CMYK", "YCCK"):
        oddities.append("printing colours (CMYK), seen as RGB without their profile")
    if image.mode.startswith(("I", "F")):
        oddities.append(f"more than 8 bits a channel (mode {image.mode}), seen with 8")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        oddities.append("transparency, which is dropped")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        oddities.append("an animation, of which the first frame counts")
    oddities += notes_on_size(width, height)
    return Probe(stored, orientation, suffix_of(image), tuple(oddities))


def notes_on_size(width_px: int, height_px: int) -> list[str]:
    """What is to be said of an image's size: that it is hardly large enough, or nothing."""
    if min(width_px, height_px) >= SMALL_SIDE_PX:
        return []
    return [f"{width_px}x{height_px} px, hardly large enough to show a flaw"]


def suffix_of(image: Image.Image) -> str:
    """The ending of a file's name for an image's format."""
    form = str(image.format)
    return _SUFFIXES.get(form, form.lower())


def _what_it_is(encoded: bytes) -> str:
    if encoded[4:8] == b"ftyp" and encoded[8:12] in _HEIF_BRANDS:
        return "HEIC, which is not decoded here; convert it to JPEG or PNG first (heif-convert, ImageMagick)"
    start = encoded[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg")):
        return "a drawing (SVG or other XML), whatever its name says; draw it as PNG first"
    return f"no image that Pillow knows (it starts with {encoded[:8]!r})"
