"""What was found, in the files of other tools: CSV, COCO, and drawings."""

import csv
import errno
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path

from fxray.data.exported import Exported, Guess
from fxray.data.formats import coco
from fxray.data.images import decode_image, read_image_file
from fxray.detect.detection import MAX_DRAWN_PX, verdict_words
from fxray.detect.folder import Record
from fxray.detect.page import kind_of
from fxray.draw import draw_annotation, fitted, plain_text
from fxray.errors import DataError, ResourceError
from fxray.files import atomic_dir, atomic_path, write_atomically
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

COLUMNS = (
    "file", "verdict", "assessment", "probability", "probability_kind", "num_regions", "tags", "captions", "faults",
    "width_px", "height_px", "sha256", "origin", "problem", "adapter_sha256", "notes",
)  # fmt: skip
MAX_STEM_BYTES = 80
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_csv(records: Sequence[Record], path: Path) -> None:
    """One row per image. A cell that a spreadsheet would calculate begins with an apostrophe."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    for record in records:
        provenance = record["provenance"] or {}
        cells = {
            **record,
            "num_regions": len(record["regions"]) if "regions" in record else "",
            "tags": "; ".join(record.get("tags", ())),
            "captions": "; ".join(plain_text(region["caption"]) for region in record.get("regions", ())),
            "faults": "; ".join(record.get("faults", ())),
            "notes": "; ".join(record.get("notes", ())),
            "origin": "; ".join(f"{mark['says']}: {mark['by']}" for mark in provenance.get("marks", ())),
            "adapter_sha256": record.get("versions", {}).get("adapter_sha256") or "",
        }
        rows.writerow([_cell(cells.get(name)) for name in COLUMNS])
    write_atomically(path, _encoded(text.getvalue()))


def _encoded(text: str) -> bytes:
    """UTF-8, with the bytes of file names that are no Unicode as they are; what no file name can hold is escaped."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _cell(value: object) -> object:
    if isinstance(value, str):
        line = value.replace("\n", " ").replace("\r", " ").replace("\0", " ")
        return f"'{line}" if line.startswith(_FORMULA) else line
    return "" if value is None else value


def write_coco(records: Sequence[Record], folder: Path) -> None:
    """`annotations.json`, which `fxray data import coco` reads, and `results.json`, with a probability as each score.

    An image's label is its verdict where its assessment is the same, else null: no import takes it for a truth.

    Args:
        records: Findings; those without a verdict are left out.
        folder: Is replaced; beside what the files of the findings are relative to.
    """
    with atomic_dir(folder) as aside:
        coco.write(_exported(records), aside, has_predictions=True)


def _exported(records: Sequence[Record]) -> Iterator[Exported]:
    answered = [record for record in records if record.get("verdict")]
    for number, record in enumerate(answered):
        verdict, regions, tags = Verdict(record["verdict"]), regions_of(record), tags_of(record)
        file = record["file"].encode("utf-8", "backslashreplace").decode()  # JSON holds no name that is no Unicode
        sample = Sample(
            sample_id=file,
            width_px=record["width_px"],
            height_px=record["height_px"],
            annotation=Annotation(verdict, regions, tags),
            generator="",
            category="",
            source="",
            annotator=f"fxray {(record['versions']['adapter_sha256'] or record['versions']['base'])[:12]}",
        )
        probability = record["probability"]
        guess = Guess(verdict, regions, tags, 1.0 if probability is None else probability)
        yield Exported(number, sample, f"../{file}", 1, guess, record["assessment"])


def draw_all(records: Sequence[Record], base: Path, folder: Path) -> list[str]:
    """Draws what was found onto each image that has a verdict; what is drawn already stays.

    Args:
        records: Findings.
        base: Folder that their files are relative to.
        folder: Of the drawings, PNG.

    Returns:
        Why images were not drawn: changed, gone, or of a name that the file system does not take.
    """
    copies: dict[str, list[Record]] = {}  # of one name and content: one drawing, by one thread
    for record in records:
        if record.get("verdict"):
            copies.setdefault(drawing_name(record), []).append(record)
    with ThreadPoolExecutor(2) as pool:
        return list(chain.from_iterable(pool.map(partial(_draw_one, base=base, folder=folder), copies.values())))


def drawing_name(record: Record) -> str:
    """A name for the drawing of an image that is unlike those of all other images."""
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(record["file"]).name).lstrip(".")
    short = stem.encode("utf-8", "replace")[:MAX_STEM_BYTES].decode("utf-8", "ignore")
    return f"{short}-{record['sha256'][:8]}.png"


def _draw_one(copies: Sequence[Record], base: Path, folder: Path) -> list[str]:
    """Draws the first of some copies that can be drawn; gives the reasons where none can."""
    problems: list[str] = []
    for record in copies:
        problem = _draw(record, base, folder)
        if not problem:
            return []
        problems.append(problem)
    return problems


def _draw(record: Record, base: Path, folder: Path) -> str:
    path = folder / drawing_name(record)
    if path.exists():
        return ""
    file = str(base / record["file"])
    try:
        encoded = read_image_file(Path(file), file)
        if sha256(encoded).hexdigest() != record["sha256"]:
            raise DataError("was changed after it was examined", where=file)
        image, regions = fitted(decode_image(encoded, file), regions_of(record), MAX_DRAWN_PX)
    except DataError as error:
        return f"{record['file']}: {error.message}"
    heading = plain_text(Path(record["file"]).name)
    said = verdict_words(kind_of(record), record["probability"])
    note = "; ".join(record.get("notes", ()))
    panel = draw_annotation(image, heading=heading, verdict=said, regions=regions, tags=tags_of(record), note=note)
    try:
        with atomic_path(path) as aside:
            panel.save(aside, "PNG")
    except OSError as error:  # a name that it does not take is of this drawing alone
        if isinstance(error, ResourceError) and error.errno != errno.ENAMETOOLONG:
            raise
        return f"{record['file']}: {os.strerror(error.errno) if error.errno else error}"
    return ""


def regions_of(record: Record) -> tuple[Region, ...]:
    """The regions of a finding, in pixels of the upright original."""
    return tuple(Region(Box(*region["box"]), region["caption"]) for region in record.get("regions", ()))


def tags_of(record: Record) -> tuple[Tag, ...]:
    """The tags of a finding."""
    return tuple(Tag(tag) for tag in record.get("tags", ()))
