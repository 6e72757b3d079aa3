"""The one place where records of any format become rows of a dataset.

Boxes come to pixels of the upright image, words to labels and tags; what cannot be read becomes a finding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fxray.counts import counted
from fxray.data.dataset import Row
from fxray.data.formats.embedded import image_bytes
from fxray.data.formats.record import UNIT_WHOLE, FieldProblem, Finding, Frame, Place, RawRegion, Record, Unit
from fxray.data.image_store import ImageStore
from fxray.data.orientation import to_upright
from fxray.data.probe import Probe, probe_image
from fxray.errors import DataError
from fxray.geometry import clip
from fxray.grammar.lenient import TAG_NAMES, VERDICT_WORDS
from fxray.grammar.markers import COORDINATE_LIMIT, LINE_BREAK
from fxray.grammar.render import check_caption
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

OUTSIDE_PX = 1.0
"""Boxes may reach so far over the border before it is worth a warning: tools round."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How records are read.

    Attributes:
        frame: Which raster the boxes lie in.
        unit: Of all boxes; None where the format says it itself.
        label: Where a row has none.
        generator: Where a generated row has none, by default "unknown"; real ones have "real".
        category: Where a row has none.
        source: Where a row has none; by default each image is a source of its own.
        id_prefix: Stands before all ids, and before the sources that images have by default.
    """

    frame: Frame
    unit: Unit | None = None
    label: Verdict | None = None
    generator: str | None = None
    category: str | None = None
    source: str | None = None
    id_prefix: str = ""


@dataclass(slots=True)
class _Notes:
    """Warnings on one row, gathered while it is read."""

    place: Place
    found: list[Finding] = field(default_factory=list)

    def add(self, name: str, value: object, reason: str) -> None:
        self.found.append(Finding.of(self.place, FieldProblem(name, value, reason), is_warning=True))


def read_record(record: Record, reading: Reading, store: ImageStore) -> tuple[Row | None, list[Finding]]:
    """Makes a record a row, and keeps its image.

    Returns:
        The row, and warnings; or None, and why.
    """
    notes = _Notes(record.place)
    try:
        encoded = image_bytes(record)
        probe = probe_image(encoded, record.image_field, record.image)
        for note in record.notes:
            notes.add(*note)
        if probe.oddities:
            notes.add(record.image_field, record.image, "; ".join(probe.oddities))
        _check_noted_size(record, probe, reading.frame, notes)
        annotation = _annotation(record, reading, probe, notes)
        sample = Sample(
            sample_id=_plain(reading.id_prefix + (record.sample_id or record.name), "sample_id"),
            width_px=probe.upright_px[0],
            height_px=probe.upright_px[1],
            annotation=annotation,
            generator=_plain(record.generator or _generator(annotation.verdict, reading), "generator"),
            category=_plain(record.category or reading.category or "unknown", "category"),
            source=_plain(record.source or reading.source or reading.id_prefix + record.name, "source"),
            annotator=_plain(record.annotator, "annotator") if record.annotator else None,
        )
    except FieldProblem as problem:
        return None, [Finding.of(record.place, problem)]
    return Row(sample, image_path=store.put(encoded, probe.suffix)), notes.found


def upright_box(region: RawRegion, unit: Unit, frame: Frame, probe: Probe) -> Box:
    """A region's box in pixels of the upright image, rounded to the precision that datasets keep (32 bits)."""
    width, height = probe.stored_px if frame == "stored" else probe.upright_px
    box = Box(*region.corners)
    if whole := UNIT_WHOLE[unit]:
        box = Box(
            box.x_min * width / whole, box.y_min * height / whole, box.x_max * width / whole, box.y_max * height / whole
        )
    if frame == "stored":
        box = to_upright(box, width, height, probe.orientation)
    return Box(*(float(np.float32(min(max(value, -COORDINATE_LIMIT), COORDINATE_LIMIT))) for value in box))


def _annotation(record: Record, reading: Reading, probe: Probe, notes: _Notes) -> Annotation:
    verdict = _verdict(record, reading)
    if verdict is Verdict.REAL and record.regions:
        first = record.regions[0]
        raise FieldProblem(first.field, counted(len(record.regions), "region"), "expected none, as the label is real")
    unit = reading.unit or record.unit
    if unit == "pixels":
        _refuse_fractions(record.regions)
    regions = tuple(_region(region, unit, reading.frame, probe, notes) for region in record.regions)
    return Annotation(verdict, regions, _tags(record))


def _refuse_fractions(regions: Sequence[RawRegion]) -> None:
    """Keeps parts of the sides from being read as pixels, where they would all lie in the first one."""
    corners = [corner for region in regions for corner in region.corners]
    if corners and 0 <= min(corners) <= max(corners) <= 1 and any(corner % 1 for corner in corners):
        first = regions[0]
        reason = "no box of the row ends beyond the first pixel; of parts of the sides say so: --boxes-unit fraction"
        raise FieldProblem(first.field, tuple(round(corner, 3) for corner in first.corners), reason)


def _verdict(record: Record, reading: Reading) -> Verdict:
    if record.label is None:
        if reading.label is None:
            noted = "".join(f"; {name} {value!r}: {reason}" for name, value, reason in record.notes)
            remedy = "mend it, or give a label for such rows with" if noted else "give one for such rows with"
            raise FieldProblem("label", None, f"the row has no label{noted}; {remedy} --label")
        return reading.label
    try:
        return VERDICT_WORDS[record.label.strip().lower()]
    except KeyError:
        expected = f"expected one of {', '.join(VERDICT_WORDS)}; a mapping file says by `labels` what others mean"
        raise FieldProblem("label", record.label, expected) from None


def _tags(record: Record) -> tuple[Tag, ...]:
    tags = []
    for name in record.tags:
        tag = TAG_NAMES.get(name.strip().lower())
        if tag is None:
            raise FieldProblem("tags", name, f"expected some of {', '.join(Tag)}")
        tags.append(tag)
    return tuple(dict.fromkeys(tags))


def _region(region: RawRegion, unit: Unit, frame: Frame, probe: Probe, notes: _Notes) -> Region:
    width, height = probe.upright_px
    box = upright_box(region, unit, frame, probe)
    shown = tuple(round(value, 3) for value in region.corners)
    if not (box.x_min < box.x_max and box.y_min < box.y_max):
        raise FieldProblem(region.field, shown, "a box without an area, or with swapped corners")
    inside = clip(box, width, height)
    if inside is None:
        raise FieldProblem(region.field, shown, f"a box outside the {width}x{height} px image: {tuple(box)}")
    if max(abs(a - b) for a, b in zip(box, inside, strict=True)) > OUTSIDE_PX:
        notes.add(region.field, shown, f"reaches over the border of the {width}x{height} px image, and is cut there")
    caption = LINE_BREAK.sub(" ", region.caption.replace("\r\n", "\n"))
    try:
        check_caption(_plain(caption, region.field))
    except DataError as error:
        raise FieldProblem(region.field, region.caption, f"{error.message}; {error.remedy}") from error
    return Region(inside, caption)


def _check_noted_size(record: Record, probe: Probe, frame: Frame, notes: _Notes) -> None:
    if record.size_px is None or record.size_px == probe.upright_px:
        return
    (width, height), (upright_width, upright_height) = record.size_px, probe.upright_px
    if record.size_px != probe.stored_px:
        reason = f"noted for an image that is {upright_width}x{upright_height} px; is it the one that was annotated?"
        raise FieldProblem("width, height", f"{width}x{height}", reason)
    if frame == "displayed" and record.regions:
        reason = "the size of the stored raster; boxes are read as displayed (if that is wrong: --boxes-frame stored)"
        notes.add("width, height", f"{width}x{height}", reason)


def _generator(verdict: Verdict, reading: Reading) -> str:
    """Of a row that has none: no generator made a real image."""
    return "real" if verdict is Verdict.REAL else reading.generator or "unknown"


def _plain(value: str, name: str) -> str:
    """The text, if Parquet can hold it: no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FieldProblem(name, value, "text with broken characters") from None
    return value
