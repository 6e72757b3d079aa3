"""Images and masks of a dataset as baselines see them: read when they are asked for, so that memory stays small."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fxray.data.changes import Change
from fxray.data.dataset import Dataset
from fxray.data.images import decode_image
from fxray.schema import Sample


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images of some rows of a dataset.

    Attributes:
        dataset: Where they are.
        rows: Which.
        change: What happens to each before it is seen; None leaves them as they are.
    """

    dataset: Dataset
    rows: Sequence[int]
    change: Change | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, place: int) -> bytes:
        """The file of an image; of a changed one, a PNG.

        Raises:
            DataError: It cannot be read.
        """
        if self.change is None:
            return self.dataset.image_bytes(self.rows[place])
        encoded = io.BytesIO()
        Image.fromarray(self.pixels(place)).save(encoded, "PNG", compress_level=1)
        return encoded.getvalue()

    def pixels(self, place: int) -> NDArray[np.uint8]:
        """An image, upright and in RGB.

        Raises:
            DataError: It cannot be read.
        """
        image = decode_image(self.dataset.image_bytes(self.rows[place]), self.where(place))
        return np.asarray(image if self.change is None else self.change.apply(image).image)

    def where(self, place: int) -> str:
        """What to call an image in an error."""
        return f"{self.dataset.path} row {self.rows[place]}"

    def each(self) -> Iterator[NDArray[np.uint8]]:
        """All images, one after the other."""
        return map(self.pixels, range(len(self)))


@dataclass(frozen=True, slots=True)
class Masks:
    """Where the flaws of some samples are: the unions of their boxes (paper, section 5.1, of its baselines)."""

    samples: Sequence[Sample]

    def is_flawed(self, place: int) -> NDArray[np.bool_]:
        """True in the boxes of a sample, to whole pixels; as large as its image."""
        sample = self.samples[place]
        is_flawed = np.zeros((sample.height_px, sample.width_px), bool)
        for x_min, y_min, x_max, y_max in (region.box for region in sample.annotation.regions):
            is_flawed[_whole(y_min) : _whole(y_max), _whole(x_min) : _whole(x_max)] = True
        return is_flawed


def _whole(coordinate_px: float) -> int:
    return max(0, round(coordinate_px))
