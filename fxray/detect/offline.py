"""Many images at once, from a dataset or from disk, batch by batch so that memory does not grow with their number."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from fxray.data.dataset import Dataset
from fxray.data.images import decode_image
from fxray.detect.detector import Detector
from fxray.detect.files import files_in, read_image
from fxray.detect.finding import Finding
from fxray.errors import DataError
from fxray.evaluate.predictions import Prediction

BATCH_SIZE = 64
"""Images that are held decoded and asked about at once."""


def answer_dataset(
    detector: Detector,
    dataset: Dataset,
    rows: Sequence[int],
    *,
    progress: Callable[[int, int], None],
) -> list[Prediction]:
    """A prediction for each of some rows.

    Args:
        detector: The model.
        dataset: Where the images are.
        rows: Which of them.
        progress: Told after each batch how many rows are done, and how many there are.

    Raises:
        DataError: An image cannot be read; names the row.
    """
    predictions: list[Prediction] = []
    for start in range(0, len(rows), BATCH_SIZE):
        batch = rows[start : start + BATCH_SIZE]
        names = [dataset.samples[row].sample_id for row in batch]
        images = [decode_image(dataset.image_bytes(row), f"{dataset.path} row {row}") for row in batch]
        predictions += detector.predict(list(zip(names, images, strict=True)))
        progress(len(predictions), len(rows))
    return predictions


def detect_files(detector: Detector, paths: Sequence[Path]) -> Iterator[Finding]:
    """What the detector finds in image files; a file that cannot be read is a finding too and never stops the rest.

    Args:
        detector: The model.
        paths: Image files, and folders that are searched for them.

    Yields:
        One finding per file, in the order of `paths`; those of a folder in the order of their names.
    """
    files = [file for path in paths for file in files_in(path)]
    for start in range(0, len(files), BATCH_SIZE):
        batch = files[start : start + BATCH_SIZE]
        images: dict[Path, Image.Image] = {}
        problems: dict[Path, str] = {}
        for file in batch:
            try:
                images[file] = read_image(file)
                detector.frame_of(images[file])
            except DataError as error:
                problems[file] = error.message
                images.pop(file, None)
        predictions = detector.predict([(str(file), image) for file, image in images.items()]) if images else []
        by_file = dict(zip(images, predictions, strict=True))
        yield from (Finding(file, by_file.get(file), problems.get(file, "")) for file in batch)
