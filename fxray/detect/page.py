"""What was found in many images as one HTML file that needs nothing beside it: to look through, hand on and print.

Everything that a model or a file says is text there, never markup; the only script is the page's own, named by its
hash in the page's security policy.
"""

import base64
import datetime as dt
import hashlib
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from fxray.data.images import decoding
from fxray.detect.detection import VERDICTS, percent
from fxray.detect.provenance import words_of
from fxray.draw import PALETTE, plain_text
from fxray.errors import DataError
from fxray.files import write_atomically
from fxray.geometry import clip
from fxray.report.templates import load_style, load_template
from fxray.schema import Box

MAX_THUMBNAILS_BYTES = 24 * 2**20
"""Of all thumbnails together; beyond it each is made smaller, and the last have none."""
_VIEW_WIDTH, _VIEW_HEIGHT = 360, 270
_MAX_BOXES, _MAX_CHARACTERS = 40, 4000
_SMALLEST_PX = 72
_OPTIONAL = (
    "probability", "raw_probability", "tags", "width_px", "height_px", "timings", "faults", "notes", "stability",
    "sampled", "problem", "remedy", "is_lasting",
)  # fmt: skip
"""Fields that findings without a detection do not have."""


def kind_of(record: Mapping[str, Any]) -> str:
    """A key of `VERDICTS`."""
    return "failed" if "problem" in record else str(record["assessment"] or "unread")


@dataclass(frozen=True, slots=True)
class Region:
    """A box over the picture, in units of the view, and its caption; without a size where it lies outside."""

    number: int
    colour: str
    x: float
    y: float
    width: float
    height: float
    caption: str


@dataclass(frozen=True, slots=True)
class Card:
    """An image on the page.

    Attributes:
        name: Its path below what all files have in common.
        kind: A key of `VERDICTS`.
        uri: Its thumbnail as a data URI; empty where there is none.
        view_width: Of the picture, in units of the view.
        view_height: Of the picture, in units of the view.
        regions: What is marked.
        percent: Of the probability; empty where there is none.
        origin: What the file says of itself, in sentences.
        has_marks: True where that names a generator or a camera, or holds credentials.
        record: The finding.
    """

    name: str
    kind: str
    uri: str
    view_width: int
    view_height: int
    regions: tuple[Region, ...]
    percent: str
    origin: tuple[str, ...]
    has_marks: bool
    record: Mapping[str, Any]


def write_page(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    thumbnail: Callable[[str], bytes],
    settings: Mapping[str, Any],
) -> int:
    """Writes the page.

    Args:
        path: The HTML file.
        records: Findings, in the order in which they are shown.
        thumbnail: Reads the JPEG of an image by its SHA-256; empty where there is none. It is asked twice for each:
            all together may need more memory than there is.
        settings: What answered, and how it was asked.

    Returns:
        Size of the thumbnails in bytes.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    shown = [record["sha256"] for record in records if record["sha256"]]  # copies are shown as often as they are there
    pictures = _bounded(thumbnail, Counter(shown))
    names = _short_names([record["file"] for record in records])
    cards = [
        _card(record, name, pictures.get(record["sha256"], b"")) for record, name in zip(records, names, strict=True)
    ]
    assets = resources.files("fxray.detect")
    script = (assets / "page.js").read_text("utf-8")
    num_bytes = sum(len(pictures[sha256]) for sha256 in shown)
    page = load_template("fxray.detect", "page.html.j2").render(
        style=load_style() + Markup((assets / "page.css").read_text("utf-8")),  # noqa: S704 - files of this package
        script=Markup(script),  # noqa: S704 - files of this package
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        cards=cards,
        counts={kind: num for kind in VERDICTS if (num := sum(card.kind == kind for card in cards))},
        verdicts=VERDICTS,
        tags=sorted(Counter(tag for record in records for tag in record.get("tags", ())).items()),
        settings=settings,
        calibration=next((r["calibration"] for r in records if r.get("calibration")), None),
        written=dt.datetime.now(dt.UTC),
        thumbnails_size=f"{num_bytes / 2**20:.1f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:.0f} KiB",
    )
    write_atomically(path, page.encode("utf-8", "replace"))
    return num_bytes


def _card(record: Mapping[str, Any], name: str, picture: bytes) -> Card:
    size = (record.get("width_px") or 4, record.get("height_px") or 3)
    scale = min(_VIEW_WIDTH / size[0], _VIEW_HEIGHT / size[1])
    provenance = record["provenance"]
    probability = record.get("probability")
    return Card(
        name=name,
        kind=kind_of(record),
        uri="data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii") if picture else "",
        view_width=max(1, round(size[0] * scale)),
        view_height=max(1, round(size[1] * scale)),
        regions=tuple(_regions(record.get("regions", ()), size, scale)),
        percent="" if probability is None else percent(probability),
        origin=tuple(words_of(provenance)) if provenance else (),
        has_marks=bool(provenance and (provenance["marks"] or provenance["credentials"]["state"] != "absent")),
        record={**dict.fromkeys(_OPTIONAL), **record, "answer": _cut(record.get("answer") or "")},
    )


def _regions(regions: Sequence[Mapping[str, Any]], size: tuple[int, int], scale: float) -> Iterator[Region]:
    for k, region in enumerate(regions[:_MAX_BOXES]):
        inside = clip(Box(*region["box"]), *size)
        x, y, right, bottom = (scale * side for side in inside) if inside else (0.0, 0.0, 0.0, 0.0)
        caption = plain_text(region["caption"]) or "(no caption)"
        yield Region(
            k + 1,
            PALETTE[k % len(PALETTE)],
            round(x, 1),
            round(y, 1),
            round(right - x, 1),
            round(bottom - y, 1),
            caption,
        )


def _cut(answer: str) -> str:
    return answer if len(answer) <= _MAX_CHARACTERS else answer[:_MAX_CHARACTERS] + " […]"


def _short_names(files: Sequence[str]) -> list[str]:
    """The paths below the folder that all files have in common, on one line; the way to it is nobody's business."""
    paths = [os.path.normpath(file) for file in files]
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""  # noqa: PTH120
    return [plain_text(os.path.relpath(path, common or "."), 300) for path in paths]


def _bounded(thumbnail: Callable[[str], bytes], times: Mapping[str, int]) -> dict[str, bytes]:
    """Thumbnails that together, each as often as it is shown, are not too large to be opened in a browser."""
    total = sum(num * len(thumbnail(name)) for name, num in times.items())
    if total <= MAX_THUMBNAILS_BYTES:
        return {name: thumbnail(name) for name in times}
    scale = math.sqrt(0.8 * MAX_THUMBNAILS_BYTES / total)
    kept, left = {}, MAX_THUMBNAILS_BYTES
    for name, num in times.items():
        small = _reduced(thumbnail(name), scale)
        kept[name] = small if num * len(small) <= left else b""  # some ten thousand are too many, however small
        left -= num * len(kept[name])
    return kept


def _reduced(encoded: bytes, scale: float) -> bytes:
    """The thumbnail, smaller; nothing where it is damaged, as after a power cut."""
    try:
        with decoding(encoded, ""), Image.open(io.BytesIO(encoded)) as image:
            side = max(_SMALLEST_PX, round(scale * max(image.size)))
            image.draft("RGB", (side, side))
            small = image.convert("RGB")
            small.thumbnail((side, side))
    except DataError:
        return b""
    smaller = io.BytesIO()
    small.save(smaller, "JPEG", quality=70)
    return min(encoded, smaller.getvalue(), key=len)
