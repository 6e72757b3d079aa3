"""Images in the object store: read from the dataset by one actor, so that the driver never holds pixels.

    driver ─► rows ─► ImageStore ─► ray.put once per image ─► references ─► driver ─► workers fetch, once per node

The actor owns what it put: when it dies, the references of its images die with it, and a worker that asks for one
raises DataError. Images put by the driver would outlive the actor, but then every byte passes the driver first.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from fxray.data.dataset import Dataset
from fxray.data.images import decode_image
from fxray.errors import DataError
from fxray.grpo.types import ImageRef


@dataclass(frozen=True, slots=True)
class BadImage:
    """A row whose image cannot be read, and why."""

    row: int
    sample_id: str
    reason: str


class ImageStore:
    """Holds the encoded images of one dataset.

    Args:
        path: The Parquet file.
    """

    def __init__(self, path: Path) -> None:
        self._dataset = Dataset.open(path)
        self._good: set[int] = set()

    def put(self, rows: Sequence[int]) -> tuple[dict[int, ImageRef], list[BadImage]]:
        """Puts the images of rows into the object store, where they stay while someone holds their references.

        Args:
            rows: Row numbers. Rows with equal images share one reference.

        Returns:
            A reference per readable row, and the unreadable rows.
        """
        images: dict[int, ImageRef] = {}
        bad = []
        put: dict[bytes, ray.ObjectRef] = {}
        for row in dict.fromkeys(rows):
            try:
                content = self._read(row)
            except DataError as error:
                bad.append(BadImage(row, self._dataset.samples[row].sample_id, str(error)))
                continue
            key = hashlib.sha256(content).digest()
            if key not in put:
                put[key] = ray.put(content)
            images[row] = ImageRef(put[key], len(content))
        return images, bad

    def _read(self, row: int) -> bytes:
        content = self._dataset.image_bytes(row)
        if row not in self._good:
            sample = self._dataset.samples[row]
            where = f"{self._dataset.path} row {row} (sample {sample.sample_id!r})"
            size = decode_image(content, where).size
            if size != (sample.width_px, sample.height_px):
                raise DataError(
                    f"image is {size[0]}x{size[1]} px upright, expected {sample.width_px}x{sample.height_px}",
                    where=where,
                )
            self._good.add(row)
        return content


ImageStoreActor: Any = ray.remote(ImageStore)
