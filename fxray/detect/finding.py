"""What was found in an image, in words, as JSON, and drawn onto it. The words claim evidence, never proof."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxray.detect.files import read_image
from fxray.draw import draw_annotation, plain_text
from fxray.errors import DataError
from fxray.evaluate.predictions import Prediction
from fxray.files import atomic_path
from fxray.schema import Verdict

_SENTENCES = {
    Verdict.GENERATED: "looks generated. This is evidence to be checked, not proof.",
    Verdict.REAL: "looks real. That no flaw was found is evidence, not proof.",
    None: "no verdict, the model's answer could not be read.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in a file.

    Attributes:
        file: The image file.
        prediction: None where the file could not be read.
        problem: Why it could not be read; empty otherwise.
    """

    file: Path
    prediction: Prediction | None
    problem: str = ""

    @property
    def is_answered(self) -> bool:
        """True where there is a verdict; a command that met any other finding exits with an error code."""
        return self.prediction is not None and self.prediction.verdict is not None

    def as_text(self) -> str:
        """Some lines for a terminal."""
        if self.prediction is None:
            return f"{self.file}: not examined: {self.problem}"
        lines = [f"{self.file}: {_SENTENCES[self.prediction.verdict]}"]
        for number, region in enumerate(self.prediction.regions, start=1):
            x_min, y_min, x_max, y_max = (round(value) for value in region.box)
            caption = plain_text(region.caption) or "(no caption)"
            lines.append(f"  {number}. {caption}  [x {x_min} to {x_max}, y {y_min} to {y_max}]")
        if self.prediction.tags:
            lines.append(f"  tags: {'; '.join(tag.value for tag in self.prediction.tags)}")
        return "\n".join(lines)

    def as_json(self) -> str:
        """One JSON object on one line: the fields of a predictions file, with `file` and, where need be, `problem`."""
        found: dict[str, Any] = {"file": str(self.file)}
        prediction = self.prediction
        if prediction is None:
            return json.dumps(found | {"problem": self.problem}, ensure_ascii=False)
        return json.dumps(
            found
            | {
                "verdict": prediction.verdict.value if prediction.verdict else None,
                "regions": [{"box": [*region.box], "caption": region.caption} for region in prediction.regions],
                "tags": [tag.value for tag in prediction.tags],
                "answer": prediction.answer,
                "faults": list(prediction.faults),
                "is_strict": prediction.is_strict,
                "seconds": prediction.seconds,
            },
            ensure_ascii=False,
        )

    def draw(self, path: Path) -> None:
        """Writes the image with what was found in it as a PNG file.

        Args:
            path: Of the PNG file; its folder is made if it is not there.

        Raises:
            DataError: The image file cannot be read (any more).
            ResourceError: The disk is full or not writable.
        """
        image = read_image(self.file)
        if self.prediction is None:
            raise DataError(f"nothing was found to be drawn: {self.problem}", where=str(self.file))
        panel = draw_annotation(
            image,
            heading=self.file.name,
            verdict=self.prediction.verdict,
            regions=self.prediction.regions,
            tags=self.prediction.tags,
        )
        with atomic_path(path) as aside:
            panel.save(aside, "PNG")
