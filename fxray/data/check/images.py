"""What can be said of one encoded image: its faults, the facts of its file, and its fingerprint."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fxray.config.image_size import MAX_ASPECT_RATIO
from fxray.data.check.findings import shown
from fxray.data.check.rows import Fault
from fxray.data.images import decoding, eight_bits, open_image, pending_orientation, upright_px
from fxray.data.near_duplicates import fingerprint
from fxray.data.orientation import ORIENTATION_TAG, UPRIGHT
from fxray.errors import DataError

MIN_SIDE_PX = 28
LARGE_PIXELS = 16_000_000
_ENOUGH_PX = 256
_PNG_DEPTH_BYTE = 24
_alone = ThreadPoolExecutor(1)
"""The one thread that decodes large images: each thread's allocator keeps what its largest image took."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the file alone says, without a look at the pixels.

    Attributes:
        format: As Pillow names it: "JPEG", "PNG", ...
        num_bytes: Of the encoded image.
        width_px: Of the upright image.
        height_px: Of the upright image.
        quantisation: Sums of the JPEG's luminance and chrominance tables, 0 where there is none.
        subsampling: Of the JPEG's chrominance: 0 none, 1 half, 2 quarter; -1 where unknown.
    """

    format: str
    num_bytes: int
    width_px: int
    height_px: int
    quantisation: tuple[int, int]
    subsampling: int


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image that could be decoded.

    Attributes:
        file: Of its file.
        digest: SHA-256 of its file.
        loss: What is lost when the image is read as RGB of 8 bits; empty where nothing is.
        fingerprint: What it looks like, float32 [63]; None where it is flat.
    """

    file: FileFacts
    digest: bytes
    loss: str
    fingerprint: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Unseen:
    """An image that could not be decoded, and why.

    Attributes:
        rule: Which it breaks.
        field: Of the row.
        message: The value and what was expected.
        value: The value as text.
        digest: SHA-256 of its file, empty where there is none.
    """

    rule: str
    field: str
    message: str
    value: str
    digest: bytes = b""


def examine_image(encoded: bytes, digest: bytes) -> ImageFacts | Unseen:
    """Looks at one image. A large one is decoded alone, whatever other threads do, so that memory stays bounded.

    Args:
        encoded: The file.
        digest: Its SHA-256.
    """
    try:
        image = open_image(encoded, "")
        is_large = image.width * image.height > LARGE_PIXELS
        file, loss, looks = _alone.submit(_examine, image, encoded).result() if is_large else _examine(image, encoded)
    except DataError as error:
        return Unseen("image-damaged", "image", error.message, shown(encoded), digest)
    return ImageFacts(file, digest, loss, looks)


def file_facts(encoded: bytes, where: str) -> FileFacts:
    """What the file alone says; the pixels stay undecoded.

    Args:
        encoded: The file.
        where: The place to name in errors.

    Raises:
        DataError: It is no image, or its header is damaged.
    """
    image = open_image(encoded, where)
    with decoding(encoded, where):
        return _file_facts(image, encoded)


def image_faults(image: ImageFacts, declared_px: tuple[int, int] | None) -> Iterator[Fault]:
    """Every fault of an image that can be decoded.

    Args:
        image: Its facts.
        declared_px: Width and height that the row states; None where it states none.
    """
    size = (image.file.width_px, image.file.height_px)
    text = f"{size[0]}x{size[1]} px"
    if declared_px is not None and declared_px != size:
        expected = f"expected {declared_px[0]}x{declared_px[1]}"
        yield Fault("image-size", "width_px", f"image is {text} upright, {expected}", declared_px)
    if max(size) > MAX_ASPECT_RATIO * min(size):
        yield Fault("image-shape", "image", f"{text}, expected a ratio of at most {MAX_ASPECT_RATIO}", text)
    elif min(size) < MIN_SIDE_PX:
        yield Fault("image-tiny", "image", f"{text}, expected sides of at least {MIN_SIDE_PX} px", text)
    if image.loss:
        yield Fault("image-kind", "image", image.loss, text)


def _examine(image: Image.Image, encoded: bytes) -> tuple[FileFacts, str, NDArray[np.float32] | None]:
    with decoding(encoded, ""):
        examined = _file_facts(image, encoded), _loss(image, encoded), _look(image)
    image.close()
    return examined


def _look(image: Image.Image) -> NDArray[np.float32] | None:
    """Decodes the whole file; a JPEG at a fraction of its size, which finds damage as well and costs less."""
    orientation = pending_orientation(image)
    image.draft("L", (_ENOUGH_PX, _ENOUGH_PX))
    grey = eight_bits(image).convert("L")
    if orientation != UPRIGHT:
        grey = grey.resize((_ENOUGH_PX, _ENOUGH_PX), Image.Resampling.BOX, reducing_gap=2.0)
        grey.getexif()[ORIENTATION_TAG] = orientation
        grey = ImageOps.exif_transpose(grey)
    return fingerprint(grey)


def _file_facts(image: Image.Image, encoded: bytes) -> FileFacts:
    width, height = upright_px(image)
    tables: Mapping[int, Sequence[int]] = getattr(image, "quantization", None) or {}
    sums = [sum(table) for table in tables.values()]
    layers: Sequence[Sequence[int]] = getattr(image, "layer", None) or []
    subsampling = {1: 0, 2: 1, 4: 2}.get(layers[0][1] * layers[0][2], -1) if len(layers) == 3 else -1
    luminance, chrominance, *_ = [*sums, 0, 0]
    return FileFacts(image.format or "", len(encoded), width, height, (luminance, chrominance), subsampling)


def _loss(image: Image.Image, encoded: bytes) -> str:
    """What is lost when the image is read as RGB of 8 bits; empty where nothing is."""
    kinds = []
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > 1 and image.format != "MPO":
        kinds.append(f"{num_frames} frames, the first counts")
    if image.mode == "CMYK":
        kinds.append("CMYK, turned into RGB without its colour profile")
    if image.has_transparency_data:
        kinds.append("transparency, which is dropped")
    if image.mode.startswith("I;16") or (image.format == "PNG" and encoded[_PNG_DEPTH_BYTE] == 16):
        kinds.append("16 bits per channel, the upper 8 count")
    return "; ".join(kinds)
