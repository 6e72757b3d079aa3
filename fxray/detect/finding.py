"""What was found in a file, in words and as JSON. The words claim evidence, never proof."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fxray.detect.detection import MAX_NAME_CHARACTERS, Detection
from fxray.detect.provenance import Provenance, words_of
from fxray.draw import plain_text

if TYPE_CHECKING:
    from fxray.detect.sampling import Sampled
    from fxray.detect.stability import Stability


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in a file.

    Attributes:
        file: The image file, as it was named.
        detection: None where the file could not be examined.
        problem: Why it could not be; empty otherwise.
        remedy: What to do about it.
        is_lasting: Whether the file itself is the reason, so that the same bytes meet the same problem again.
        sha256: Of the file, in hex; empty where it could not be read.
        size_bytes: Of the file; -1 where even that is not known.
        modified_ns: When the file was changed last, since 1970.
        provenance: What the file says of itself; None where it could not be read.
        thumbnail: A small JPEG; empty where none was asked for.
        stability: Answers to the same image under changes; None where they were not asked for.
        sampled: Answers to the same image drawn at random; None where they were not asked for.
    """

    file: str
    detection: Detection | None
    problem: str = ""
    remedy: str = ""
    is_lasting: bool = False
    sha256: str = ""
    size_bytes: int = -1
    modified_ns: int = -1
    provenance: Provenance | None = None
    thumbnail: bytes = b""
    stability: "Stability | None" = None
    sampled: "Sampled | None" = None

    @property
    def is_answered(self) -> bool:
        """True where there is a verdict; a command that met any other finding exits with an error code."""
        return self.detection is not None and self.detection.verdict is not None

    def as_text(self) -> str:
        """Some lines for a terminal."""
        name = plain_text(self.file, MAX_NAME_CHARACTERS)
        if self.detection is None:
            return f"{name}: not examined: {plain_text(self.problem, MAX_NAME_CHARACTERS)}"
        lines = [self.detection.as_text()]
        if self.provenance:
            lines += [f"  origin: {sentence}" for sentence in words_of(self.provenance.as_json())]
        if self.stability:
            lines.append(self.stability.as_text())
        if self.sampled:
            lines.append(f"  {self.sampled.sentence()}")
        return "\n".join(lines)

    def as_record(self) -> dict[str, Any]:
        """`Detection.as_record` with what is known of the file; without a detection, its `problem` and `remedy`."""
        facts: dict[str, Any] = {
            "file": self.file,
            "sha256": self.sha256 or None,
            "size_bytes": self.size_bytes,
            "modified_ns": self.modified_ns,
        }
        if self.detection is None:
            facts |= {"problem": self.problem, "remedy": self.remedy, "is_lasting": self.is_lasting}
        else:
            facts |= {name: value for name, value in self.detection.as_record().items() if name != "name"}
        if self.stability:
            facts["stability"] = self.stability.as_record()
        if self.sampled:
            facts["sampled"] = self.sampled.as_record()
        return facts | {"provenance": self.provenance.as_json() if self.provenance else None}


def as_line(record: Mapping[str, Any]) -> str:
    """A record as JSON on one line. A file name that is no Unicode is escaped, as JSON can."""
    line = json.dumps(record, ensure_ascii=False)
    return line if line.isascii() or not any(0xD800 <= ord(c) < 0xE000 for c in line) else json.dumps(record)
