"""What the detector says of one image: the value behind command line, files, service and Python."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fxray.data.images import decode_image, decoding, read_image_file, upright_rgb
from fxray.data.probe import notes_on_size
from fxray.draw import draw_annotation, fitted, plain_text
from fxray.errors import DataError
from fxray.evaluate.calibration import Assessment, Calibration
from fxray.schema import Region, Tag, Verdict

ImageSource = str | Path | bytes | Image.Image
"""A path, an encoded image, or pixels."""
MAX_DRAWN_PX = 2048
VERDICTS = {
    "generated": "Looks generated",
    "unsure": "Unsure",
    "real": "Looks real",
    "unread": "No verdict",
    "failed": "Not examined",
}
"""Kinds of findings: an assessment, or why there is none."""
MAX_NAME_CHARACTERS = 1000
_SENTENCES = {
    "generated": "looks generated. This is evidence to be checked, not proof.",
    "real": "looks real. That no flaw was found is evidence, not proof.",
    "unsure": "unsure. What was found is no ground for a verdict.",
    None: "no verdict, the model's answer could not be read.",
}
_REAL_YET_MARKED = "looks real, though the model marked flaws. This is evidence to be checked, not proof."


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that is to be examined.

    Attributes:
        name: Its path, or what to call it.
        image: Upright RGB pixels.
        sha256: Of the file, in hex; empty for pixels that came without one.
        read_s: Time it took to read and decode it.
    """

    name: str
    image: Image.Image
    sha256: str = ""
    read_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds: to read and decode the image, and to answer: in a batch its even share, else from its being taken."""

    read_s: float
    answer_s: float


@dataclass(frozen=True, slots=True)
class Versions:
    """What answered.

    Attributes:
        fxray: Its version.
        base: Name of the base model.
        adapter: Folder of the adapter; empty for the bare base model.
        adapter_sha256: Of its weights, in hex; empty for the bare base model.
        base_fingerprint: Of the base model's weights; empty where it is not known.
        dtype: Of the weights in the engine; empty where it is not known.
    """

    fxray: str
    base: str
    adapter: str
    adapter_sha256: str
    base_fingerprint: str = ""
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Detection:
    """What the detector says of one image. Evidence, never proof.

        print(detection.as_text())
        detection.draw("photo.jpg")  # a picture, which a notebook shows

    Attributes:
        name: Path of the image, or what it was called.
        sha256: Of the image file, in hex; empty for pixels that came without one.
        width_px: Of the upright image.
        height_px: Likewise.
        verdict: What the answer says; None where no verdict could be read.
        probability: That the image is generated: calibrated if `calibration` is there, else as the model spreads its
            weight over the two verdicts, which promises nothing. None where there is no verdict.
        raw_probability: The same before calibration.
        assessment: What follows: "generated" or "real" beyond the unsure band, "unsure" within it. Without calibration
            there is no band, and it is the verdict. None where there is no verdict.
        calibration: What the probability rests on; None for an uncalibrated one.
        regions: Flaws it points at, in pixels of the upright original.
        tags: Kinds of flaws.
        answer: The model's own words.
        faults: What is wrong with the form of the answer.
        is_strict: True where the answer keeps to the grammar.
        timings: How long it took.
        versions: What answered.
    """

    name: str
    sha256: str
    width_px: int
    height_px: int
    verdict: Verdict | None
    probability: float | None
    raw_probability: float | None
    assessment: Assessment | None
    calibration: Calibration | None
    regions: tuple[Region, ...]
    tags: tuple[Tag, ...]
    answer: str
    faults: tuple[str, ...]
    is_strict: bool
    timings: Timings
    versions: Versions

    @property
    def probability_kind(self) -> str:
        """Calibrated or uncalibrated, in a word."""
        return "calibrated" if self.calibration else "uncalibrated"

    @property
    def notes(self) -> list[str]:
        """What speaks against giving weight to the answer, whatever it is."""
        return notes_on_size(self.width_px, self.height_px)

    def as_text(self) -> str:
        """Some lines for a terminal or a notebook: assessment, probability, notes, flaws, tags."""
        lines = [f"{plain_text(self.name, MAX_NAME_CHARACTERS)}: {self._sentence()}"]
        if self.probability is not None:
            lines.append(f"  {self._probability_words(self.probability)}")
        lines += [f"  note: {note}" for note in self.notes]
        for number, region in enumerate(self.regions, start=1):
            x_min, y_min, x_max, y_max = (round(value) for value in region.box)
            caption = plain_text(region.caption) or "(no caption)"
            lines.append(f"  {number}. {caption}  [x {x_min} to {x_max}, y {y_min} to {y_max}]")
        if self.tags:
            lines.append(f"  tags: {'; '.join(tag.value for tag in self.tags)}")
        return "\n".join(lines)

    def draw(self, image: ImageSource) -> Image.Image:
        """The image with its boxes, and below them the assessment, notes, tags and captions.

        Args:
            image: The one that was examined: a path, an encoded image, or pixels.

        Returns:
            A new RGB image, 448 to 2,048 pixels wide.

        Raises:
            DataError: It cannot be read, or is of another size than the one that was examined.
        """
        picture = open_picture(image, self.name if isinstance(image, bytes | Image.Image) else "").image
        if picture.size != (self.width_px, self.height_px):
            raise DataError(
                f"is {picture.width}x{picture.height} px, the image that was examined {self.width_px}x{self.height_px}",
                where=str(image) if isinstance(image, str | Path) else self.name,
                remedy="give the image that this detection is of",
            )
        small, regions = fitted(picture, self.regions, MAX_DRAWN_PX)
        said = verdict_words(self.assessment or "unread", self.probability)
        name, note = Path(self.name).name, "; ".join(self.notes)
        return draw_annotation(small, heading=name, verdict=said, regions=regions, tags=self.tags, note=note)

    def _sentence(self) -> str:
        if self.assessment == "real" and self.regions:  # a calibrated probability may speak against the answer
            return _REAL_YET_MARKED
        return _SENTENCES[self.assessment]

    def _probability_words(self, probability: float) -> str:
        """What it is, and what it rests on."""
        if self.calibration is None:
            weight = f"{percent(probability)} of the model's weight is on generated"
            return f"{weight} (uncalibrated: no share of right verdicts is promised)"
        return f"probability that it is generated: {percent(probability)}, {self.calibration.sentence()}"

    def as_record(self) -> dict[str, Any]:
        """Everything as plain values, ready for `json.dumps`."""
        return {
            "name": self.name,
            "sha256": self.sha256 or None,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "verdict": self.verdict.value if self.verdict else None,
            "assessment": self.assessment,
            "probability": self.probability,
            "probability_kind": self.probability_kind,
            "raw_probability": self.raw_probability,
            "calibration": self.calibration.summary() if self.calibration else None,
            "regions": [{"box": [*region.box], "caption": region.caption} for region in self.regions],
            "tags": [tag.value for tag in self.tags],
            "answer": self.answer,
            "faults": list(self.faults),
            "is_strict": self.is_strict,
            "notes": self.notes,
            "timings": {"read_s": round(self.timings.read_s, 4), "answer_s": round(self.timings.answer_s, 4)},
            "versions": {
                "fxray": self.versions.fxray,
                "base": self.versions.base,
                "adapter": self.versions.adapter or None,
                "adapter_sha256": self.versions.adapter_sha256 or None,
            },
        }


def percent(fraction: float) -> str:
    """Whole per cent, but never 0 or 100: nothing here is certain."""
    if fraction > 0.99:
        return "over 99 %"
    return "under 1 %" if fraction < 0.01 else f"{round(100 * fraction)} %"


def verdict_words(kind: str, probability: float | None) -> str:
    """A key of `VERDICTS` and a probability in few words: "Unsure 75 %"."""
    return VERDICTS[kind] if probability is None else f"{VERDICTS[kind]} {percent(probability)}"


def open_picture(source: ImageSource, name: str = "") -> Picture:
    """Reads and decodes an image.

    Args:
        source: A path, an encoded image, or pixels.
        name: What to call it; a path is its own name.

    Raises:
        DataError: It is missing, no plain file, larger than 256 MiB, no image, or of another type.
    """
    start_s = time.monotonic()
    if isinstance(source, Image.Image):
        with decoding(None, name or "image"):
            return Picture(name or "image", upright_rgb(source))
    if isinstance(source, str | Path):
        name = name or str(source)
        source = read_image_file(Path(source), name)
    name = name or "image"
    if not isinstance(source, bytes | bytearray | memoryview):
        raise DataError(
            f"expected a path, the bytes of an image file or an image of Pillow's, got {type(source).__name__}",
            where=name,
            remedy="`Image.fromarray(array)` makes an image of an array; of an open file give `file.read()`",
        )
    image = decode_image(source, name)
    return Picture(name, image, hashlib.sha256(source).hexdigest(), time.monotonic() - start_s)
