"""Rows of a dataset with their images, one after the other; a row group is read once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fxray.data.dataset import ROWS_PER_GROUP, Dataset
from fxray.data.images import image_beside, read_image_file
from fxray.errors import DataError
from fxray.schema import Sample


@dataclass(frozen=True, slots=True)
class FullRow:
    """A sample with its encoded image, and where that lies if it is not in the dataset file."""

    sample: Sample
    content: bytes
    file: Path | None


def stream_rows(dataset: Dataset, is_wanted_N: NDArray[np.bool_]) -> Iterator[FullRow]:
    """Reads the rows of a dataset in order.

    Args:
        dataset: An opened dataset.
        is_wanted_N: Which of its N rows are given.

    Raises:
        DataError: A row has no image, or its file cannot be read.
    """
    number = 0
    with pq.ParquetFile(dataset.path, buffer_size=2**20, pre_buffer=False) as file:
        for batch in file.iter_batches(ROWS_PER_GROUP, columns=["image", "image_path"], use_threads=False):
            for image, path in zip(batch["image"], batch["image_path"], strict=True):
                if is_wanted_N[number]:
                    where, relative = f"{dataset.path} row {number}", path.as_py()
                    beside = None if relative is None else image_beside(dataset.path, relative)
                    content = image.as_py() if beside is None else read_image_file(beside, where)
                    if not content:
                        raise DataError("no image", where=where, remedy="run: fxray data check")
                    yield FullRow(dataset.samples[number], content, beside)
                number += 1
