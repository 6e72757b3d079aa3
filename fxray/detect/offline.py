"""Many image files at once, batch by batch so that memory does not grow with their number."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fxray.detect.detection import Picture, open_picture
from fxray.detect.detector import BATCH_SIZE, Detector
from fxray.detect.files import files_in
from fxray.detect.finding import Finding
from fxray.errors import DataError


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
        pictures: dict[Path, Picture] = {}
        problems: dict[Path, str] = {}
        for file in batch:
            try:
                pictures[file] = open_picture(file)
                detector.frame_of(pictures[file])
            except DataError as error:
                problems[file] = error.message
                pictures.pop(file, None)
        detections = detector.examine(list(pictures.values())) if pictures else []
        by_file = dict(zip(pictures, detections, strict=True))
        yield from (Finding(file, by_file.get(file), problems.get(file, "")) for file in batch)
