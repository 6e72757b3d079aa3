"""Hands a dataset's samples to the writer of a format, one by one, each with its image as a file below the export.

Images are linked where they lie on the same disk, so an export of a hundred gigabytes takes no room.
"""

import io
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from fxray.counts import counted
from fxray.data.dataset import Dataset
from fxray.data.image_store import ImageStore
from fxray.data.images import FORMATS
from fxray.data.orientation import ORIENTATION_TAG, UPRIGHT
from fxray.data.probe import suffix_of
from fxray.errors import DataError
from fxray.events import OnEvent, PhaseDone, PhaseStarted, Step
from fxray.geometry import clip
from fxray.schema import Region, Sample, Tag, Verdict


@dataclass(frozen=True, slots=True)
class Guess:
    """What a detector said of a sample, for formats that carry predictions.

    Attributes:
        verdict: None where none could be read.
        regions: Flaws it points at.
        tags: Image-level tags.
        score: Of all its regions, where it ranks none.
        box_scores: One per region where the detector ranks its boxes, else empty.
    """

    verdict: Verdict | None
    regions: tuple[Region, ...]
    tags: tuple[Tag, ...]
    score: float = 1.0
    box_scores: tuple[float, ...] = ()

    @property
    def lacks_captions(self) -> bool:
        """Whether it has boxes, and may have them, of which one has no caption; a dataset takes none without."""
        return self.verdict is not Verdict.REAL and not all(region.caption.strip() for region in self.regions)


@dataclass(frozen=True, slots=True)
class Exported:
    """A sample on its way out.

    Attributes:
        number: Counted from 0.
        sample: With boxes in pixels of the upright image.
        image: Its file, relative to the export's folder.
        orientation: EXIF orientation of that file, 1 to 8.
        guess: What a detector said of it, where predictions are exported.
        assessment: What follows from a detector's probability, where the sample is no truth but what the detector said;
            else empty. Only where it is the verdict too is that a label.
    """

    number: int
    sample: Sample
    image: str
    orientation: int
    guess: Guess | None = None
    assessment: str = ""


def exported(
    dataset: Dataset, dst: Path, on_event: OnEvent, guesses: Mapping[str, Guess] | None = None
) -> Iterator[Exported]:
    """The samples of a dataset, their images laid below `dst`.

    Args:
        dataset: An opened dataset.
        dst: Folder of the export.
        on_event: Is told how it goes.
        guesses: Of every sample, by id; or None.

    Raises:
        DataError: An image is missing or no image.
    """
    store = ImageStore(dst)
    on_event(PhaseStarted("export", len(dataset)))
    for number, sample in enumerate(dataset.samples):
        image, orientation = _lay(dataset, number, dst, store)
        guess = guesses[sample.sample_id] if guesses is not None else None
        yield Exported(number, sample, image, orientation, guess)
        if number % 64 == 63:
            on_event(Step("export", number + 1, len(dataset)))
    on_event(PhaseDone("export", 0, counted(len(dataset), "row")))


def said_of(row: Exported) -> Guess:
    """What is written of a row: what a detector said of it where there are predictions, else the truth.

    Predicted boxes are cut at the image's border, as where they are scored; one outside of it is left out.
    """
    sample, truth = row.sample, row.sample.annotation
    if row.guess is None:
        return Guess(truth.verdict, truth.regions, truth.tags)
    cut = ((clip(region.box, sample.width_px, sample.height_px), region.caption) for region in row.guess.regions)
    return replace(row.guess, regions=tuple(Region(box, caption) for box, caption in cut if box), box_scores=())


def in_place_of_truth(row: Exported) -> Guess:
    """The same for formats in which predictions stand where the truth does: what is said to be real has no boxes."""
    said = said_of(row)
    return replace(said, regions=()) if said.verdict is Verdict.REAL else said


def _lay(dataset: Dataset, number: int, dst: Path, store: ImageStore) -> tuple[str, int]:
    where = f"{dataset.path} row {number}"
    file = dataset.image_file(number)
    if file is not None and not file.is_file():
        raise DataError(f"{file} is missing, or no plain file", where=where, remedy="run `fxray data check`")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoded = None if file else dataset.image_bytes(number)
            with Image.open(file or io.BytesIO(encoded or b""), formats=FORMATS) as image:
                orientation = image.getexif().get(ORIENTATION_TAG, UPRIGHT)
                suffix = suffix_of(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"image cannot be read: {error}", where=where, remedy="run `fxray data check`") from error
    orientation = orientation if orientation in range(1, 9) else UPRIGHT
    if file is None or encoded is not None:
        return store.put(encoded or b"", suffix), orientation
    if len(file.stem) != 64 or file.parent.name != file.stem[:2]:
        return store.put(dataset.image_bytes(number), suffix), orientation
    relative = f"images/{file.parent.name}/{file.name}"
    target = dst / relative
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(os.path.realpath(file), target)  # a link to a link would lead nowhere from here
        except OSError:  # another disk, or one without links
            return store.put(dataset.image_bytes(number), suffix), orientation
    return relative, orientation
