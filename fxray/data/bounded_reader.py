"""Opens encoded images without working through millions of tiny parts.

Pillow takes a header apart in Python, a few reads for each chunk of a PNG, segment of a JPEG or block of a GIF.
32 MiB of empty chunks kept it busy for half a minute, with the interpreter's lock held most of the time.
"""

import io

from PIL import Image

MAX_READS = 2**15
"""Of any image, however small."""
BYTES_PER_READ = 256
"""Larger images may be read once more for each so many bytes."""


class OverreadError(RuntimeError):
    """An image that is made of too many parts for its size."""


class BoundedReader(io.BytesIO):
    """Bytes in memory as a file that can be read so often and no more.

    Attributes:
        is_bounded: Whether the bound holds now.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.is_bounded = True
        self._reads_left = MAX_READS + len(content) // BYTES_PER_READ

    def read(self, size: int | None = -1, /) -> bytes:
        """What `io.BytesIO.read` gives.

        Raises:
            OverreadError: The bound is reached.
        """
        if self.is_bounded:
            self._reads_left -= 1
            if self._reads_left < 0:
                raise OverreadError("it is made of too many parts")
        return super().read(size)


def open_bounded(encoded: bytes, formats: tuple[str, ...]) -> Image.Image:
    """What `Image.open` gives.

    The bound is for the header; behind the pixels only PNG has parts that Pillow goes through. Pixels themselves may
    take many reads: run lengths of a BMP are read byte by byte.

    Raises:
        OverreadError: The header is made of too many parts.
    """
    reader = BoundedReader(encoded)
    image = Image.open(reader, formats=formats)
    reader.is_bounded = image.format == "PNG"
    return image
