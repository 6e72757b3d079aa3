"""Where a file says that it comes from. Apart from the pixels, and never mixed with what a detector sees in them."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

import yaml
from PIL import Image

from fxray.data.images import decoding
from fxray.detect.credentials import Credentials, CredentialState, read_credentials
from fxray.detect.metadata import MAX_FIELD_CHARACTERS, Metadata, read_metadata
from fxray.draw import plain_text
from fxray.errors import DataError

MAX_SHOWN_CHARACTERS = 300
NOTHING = "The file says nothing of a generator, which proves nothing: such marks are easily lost."
FRAMES = "It holds several frames or pages; only the first was examined."
_NONE = Credentials()
_ROOTS = "home|Users|root|mnt|media|data|tmp|var|opt|srv|workspace|scratch|content|kaggle|Volumes|private|storage|work"
_PATHS = re.compile(
    rf"(?:\b[A-Za-z]:[\\/]+|\\\\|~/|/(?:{_ROOTS})/)"
    r"(?:[^\s\"'<>,;|]| (?=(?:[^\s\"'<>,;|:/\\]+ ){0,3}[^\s\"'<>,;|:/\\]*[\\/]))*"
)
"""To the end of the word, and over blanks where a separator follows within some words: `C:\\Users\\Anna May\\x`."""
_ADDRESSES = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{1,64}")
_SOURCE_TYPES = {
    "trainedAlgorithmicMedia": "generated",
    "algorithmicMedia": "generated",
    "compositeWithTrainedAlgorithmicMedia": "edited",
    "compositeSynthetic": "edited",
    "digitalCapture": "camera",
    "computationalCapture": "camera",
}
_SAYINGS = {
    "generated": "says that it was generated",
    "edited": "says that a generator changed it",
    "camera": "says that a camera took it",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A trace of a program.

    Attributes:
        by: Who leaves such traces.
        says: "generated", "edited" or "camera".
        place: Where it stands: "png:parameters", "exif:Software", "xmp:CreatorTool", "c2pa".
        text: What stands there, on one line, where that is worth showing.
    """

    by: str
    says: str
    place: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a file says of itself.

    Attributes:
        credentials: Its C2PA manifest.
        marks: Traces of generators and cameras.
        camera: "camera", "software" and "taken", as the file has them; anybody can write these.
        withheld: Kinds of what is about people and was left out.
        personal: The same with their values, where they were asked for.
        problem: Why the metadata could not be read.
        has_more_frames: Whether there are frames or pages beyond the first, which alone is examined.
    """

    credentials: Credentials = _NONE
    marks: tuple[Mark, ...] = ()
    camera: Mapping[str, str] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()
    personal: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    has_more_frames: bool = False

    def as_json(self) -> dict[str, Any]:
        """As it stands in results."""
        return asdict(self)


def read_provenance(encoded: bytes, image: Image.Image, *, keeps_personal: bool = False) -> Provenance:
    """What a file says of itself; one whose metadata is damaged says so, and is no error.

    Args:
        encoded: The file.
        image: The same, opened by Pillow; texts behind the pixels are found if it is loaded.
        keeps_personal: Position, names and serial numbers are told; otherwise only that they are there.
    """
    credentials = read_credentials(encoded, str(image.format))
    metadata, problem, has_more_frames = Metadata(), "", False
    try:
        with decoding(encoded, ""):
            metadata = read_metadata(image)
            has_more_frames = image.format != "MPO" and getattr(image, "is_animated", False)
    except DataError as error:
        problem = error.message
    marks = [*_marks_of_credentials(credentials), *_marks_of_texts(metadata.texts, keeps_personal=keeps_personal)]
    return Provenance(
        credentials=credentials,
        marks=tuple(dict.fromkeys(marks)),
        camera={what: plain_text(text, 80) for what, text in metadata.camera.items()},
        withheld=() if keeps_personal else tuple(sorted(metadata.personal)),
        personal={k: plain_text(v, MAX_SHOWN_CHARACTERS) for k, v in metadata.personal.items()}
        if keeps_personal
        else {},
        problem=problem,
        has_more_frames=has_more_frames,
    )


def words_of(provenance: Mapping[str, Any]) -> list[str]:
    """`Provenance.as_json` in sentences, most telling first; for terminal, report and page alike."""
    lines = [sentence] if (sentence := _sentence_of_credentials(provenance["credentials"])) else []
    lines += [
        f"The file {_SAYINGS[mark['says']]}: {mark['by']} ({mark['place']})."
        for mark in provenance["marks"]
        if mark["place"] != "c2pa"
    ]
    if provenance["problem"]:
        lines.append(f"Its metadata cannot be read: {provenance['problem']}.")
    if not lines:
        lines.append(NOTHING)
    if provenance["camera"]:
        lines.append(
            f"It names {'; '.join(f'{k} {v}' for k, v in provenance['camera'].items())}. Anybody can write that."
        )
    if provenance.get("has_more_frames"):  # results of earlier versions do not say
        lines.append(FRAMES)
    if provenance["withheld"]:
        lines.append(f"Left out, as it is about people: {', '.join(provenance['withheld'])}.")
    return lines + [f"{kind}: {value}" for kind, value in provenance["personal"].items()]


def _sentence_of_credentials(found: Mapping[str, Any]) -> str:
    match found["state"]:
        case CredentialState.ABSENT:
            return ""
        case CredentialState.UNCHECKED:
            reason = ", ".join(map(_line, found["problems"])) or "pip install 'fxray[provenance]' checks them"
            return f"It carries content credentials (C2PA), unchecked: {reason}."
        case CredentialState.INVALID:
            problems = ", ".join(map(_line, found["problems"])) or "no reason given"
            is_changed = any("mismatch" in problem.lower() for problem in found["problems"])
            changed = " The file was changed since they were signed." if is_changed else ""
            return f"Its content credentials (C2PA) do not hold: {problems}.{changed}"
    says = {_SAYINGS[_SOURCE_TYPES[kind]] for kind in found["source_types"] if kind in _SOURCE_TYPES}
    claim = f" The manifest {' and '.join(sorted(says))}" if says else " The manifest names no origin"
    by = [_line(name) for name in found["agents"] or filter(None, [found["generator"]])]
    signer = _line(found["signer"]) or "an unnamed signer"
    vouched = (
        "on the list of trusted signers" if found["is_trusted"] else "not checked against a list of trusted signers"
    )
    return (
        f"Its content credentials (C2PA) are intact, signed by {signer}, {vouched}."
        f"{claim}{': ' + ', '.join(by) if by else ''}."
    )


def _line(text: str) -> str:
    """What a manifest says, for a terminal too."""
    return plain_text(text, MAX_SHOWN_CHARACTERS)


def _marks_of_credentials(found: Credentials) -> list[Mark]:
    """Only a manifest that holds says anything."""
    if found.state is not CredentialState.VALID:
        return []
    by = ", ".join(found.agents) or found.generator or "C2PA"
    return [
        Mark(plain_text(by, 80), _SOURCE_TYPES[kind], "c2pa") for kind in found.source_types if kind in _SOURCE_TYPES
    ]


def _marks_of_texts(texts: Mapping[str, str], *, keeps_personal: bool) -> list[Mark]:
    marks = []
    for place, text in texts.items():
        for known in _generators():
            if not any(fnmatchcase(place.lower(), pattern) for pattern in known["fields"]):
                continue
            if known["match"] is None or known["match"].search(text):
                line = plain_text(text, MAX_FIELD_CHARACTERS) if known["shows"] else ""
                shown = line if keeps_personal else impersonal(line)  # before the cut, which may fall into a path
                marks.append(Mark(known["by"], known["says"], place, plain_text(shown, MAX_SHOWN_CHARACTERS)))
    return marks


def impersonal(text: str) -> str:
    """A text without paths of files, which name their owners, and without addresses of e-mail."""
    return _ADDRESSES.sub("[address]", _PATHS.sub("[path]", text))


@cache
def _generators() -> tuple[dict[str, Any], ...]:
    rows = yaml.safe_load((resources.files("fxray.detect") / "generators.yaml").read_text("utf-8"))
    return tuple(
        {
            "by": row["by"],
            "says": row["says"],
            "fields": [name.lower() for name in ([row["field"]] if isinstance(row["field"], str) else row["field"])],
            "match": re.compile(row["match"], re.IGNORECASE) if "match" in row else None,
            "shows": row.get("shows", False),
        }
        for row in rows
    )
