"""What was found in an image, in words, as JSON, and drawn onto it. The words claim evidence, never proof."""

import json
from dataclasses import dataclass
from pathlib import Path

from fxray.detect.detection import Detection
from fxray.detect.files import read_image
from fxray.draw import draw_annotation, plain_text
from fxray.errors import DataError
from fxray.files import atomic_path

_SENTENCES = {
    "generated": "looks generated. This is evidence to be checked, not proof.",
    "real": "looks real. That no flaw was found is evidence, not proof.",
    "unsure": "unsure. What was found is no ground for a verdict.",
    None: "no verdict, the model's answer could not be read.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in a file.

    Attributes:
        file: The image file.
        detection: None where the file could not be read.
        problem: Why it could not be read; empty otherwise.
    """

    file: Path
    detection: Detection | None
    problem: str = ""

    @property
    def is_answered(self) -> bool:
        """True where there is a verdict; a command that met any other finding exits with an error code."""
        return self.detection is not None and self.detection.verdict is not None

    def as_text(self) -> str:
        """Some lines for a terminal."""
        detection = self.detection
        if detection is None:
            return f"{self.file}: not examined: {self.problem}"
        lines = [f"{self.file}: {_SENTENCES[detection.assessment]}"]
        if detection.probability is not None:
            lines.append(f"  {probability_words(detection)}")
        for number, region in enumerate(detection.regions, start=1):
            x_min, y_min, x_max, y_max = (round(value) for value in region.box)
            caption = plain_text(region.caption) or "(no caption)"
            lines.append(f"  {number}. {caption}  [x {x_min} to {x_max}, y {y_min} to {y_max}]")
        if detection.tags:
            lines.append(f"  tags: {'; '.join(tag.value for tag in detection.tags)}")
        return "\n".join(lines)

    def as_json(self) -> str:
        """One JSON object on one line: `Detection.as_record` with `file`; or `file` and `problem`."""
        found = {"problem": self.problem} if self.detection is None else self.detection.as_record()
        return json.dumps({"file": str(self.file)} | found, ensure_ascii=False)

    def draw(self, path: Path) -> None:
        """Writes the image with what was found in it as a PNG file.

        Args:
            path: Of the PNG file; its folder is made if it is not there.

        Raises:
            DataError: The image file cannot be read (any more).
            ResourceError: The disk is full or not writable.
        """
        image = read_image(self.file)
        if self.detection is None:
            raise DataError(f"nothing was found to be drawn: {self.problem}", where=str(self.file))
        panel = draw_annotation(
            image,
            heading=self.file.name,
            verdict=self.detection.verdict,
            regions=self.detection.regions,
            tags=self.detection.tags,
        )
        with atomic_path(path) as aside:
            panel.save(aside, "PNG")


def percent(fraction: float) -> str:
    """Whole per cent, but never 0 or 100: nothing here is certain."""
    if fraction > 0.99:
        return "over 99 %"
    return "under 1 %" if fraction < 0.01 else f"{round(100 * fraction)} %"


def probability_words(detection: Detection) -> str:
    """The probability of a detection that has one, and what it rests on."""
    assert detection.probability is not None
    number = percent(detection.probability)
    if detection.calibration is None:
        return f"{number} of the model's weight is on generated (uncalibrated: no share of right verdicts is promised)"
    return f"probability that it is generated: {number}, {detection.calibration.sentence()}"
