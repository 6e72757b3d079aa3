"""What the detector says of one image: the value behind command line, files, service and Python."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fxray.data.images import decode_image, read_image_file, upright_rgb
from fxray.data.probe import notes_on_size
from fxray.errors import DataError
from fxray.evaluate.calibration import Assessment, Calibration
from fxray.schema import Region, Tag, Verdict

ImageSource = str | Path | bytes | Image.Image
"""A path, an encoded image, or pixels."""


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
        return Picture(name or "image", upright_rgb(source))
    if isinstance(source, str | Path):
        name = name or str(source)
        source = read_image_file(Path(source), name)
    name = name or "image"
    if not isinstance(source, bytes | bytearray | memoryview):
        raise DataError(f"expected a path, an encoded image or pixels, got {type(source).__name__}", where=name)
    image = decode_image(source, name)
    return Picture(name, image, hashlib.sha256(source).hexdigest(), time.monotonic() - start_s)
