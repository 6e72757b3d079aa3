"""Some rows of a dataset as a dataset of their own, one image in memory at a time."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.files import relative_path


def write_subset(dataset: Dataset, rows: Sequence[int], path: Path, progress: Callable[[int, int], None]) -> None:
    """Writes rows of a dataset, in the order given; images beside the old file are referred to, not copied.

    Args:
        dataset: Where they come from.
        rows: Which.
        path: The new file.
        progress: Told how many rows of how many are done.

    Raises:
        DataError: A row has no image, or there are no rows.
        ResourceError: The disk is full or not writable.
    """

    def read() -> Iterator[Row]:
        for done, row in enumerate(rows, start=1):
            beside = dataset.image_file(row)
            if beside is None:
                yield Row(dataset.samples[row], image=dataset.image_bytes(row))
            else:
                yield Row(dataset.samples[row], image_path=relative_path(beside, path.parent))
            progress(done, len(rows))

    write_dataset(path, read())
