"""Many image files at once, batch by batch so that memory does not grow with their number."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from fxray.detect.detector import Detector
from fxray.detect.files import files_in, read_image
from fxray.detect.finding import Finding
from fxray.errors import DataError

BATCH_SIZE = 64
"""Images that are held decoded and asked about at once."""


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
