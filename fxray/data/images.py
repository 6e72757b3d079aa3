"""Encoded images to upright RGB pixels."""

import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from fxray.errors import DataError

MAX_IMAGE_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a small file can claim gigabytes of pixels."""


def decode_image(encoded: bytes, where: str) -> Image.Image:
    """The image as RGB, turned upright by its EXIF orientation, which is then gone.

    Args:
        encoded: A file in any format that Pillow reads; of an animation the first frame counts.
        where: The place to name in errors.

    Raises:
        DataError: The bytes are no image, are cut short or damaged, or hold too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded))
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise DataError(
                f"image of {image.width}x{image.height} px, expected at most {MAX_IMAGE_PIXELS} pixels",
                where=where,
                remedy="scale the image down",
            )
        return ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError as error:
        raise DataError(f"image has too many pixels: {error}", where=where, remedy="scale the image down") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{len(encoded)} bytes that are no image Pillow knows (they start with {encoded[:8]!r})",
            where=where,
            remedy="give a JPEG, PNG, WebP or other common image file",
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"image of {len(encoded)} bytes is damaged or cut short: {error}",
            where=where,
            remedy="fetch the file again, or leave the row out",
        ) from error
