"""What a reader of any format hands over: a row as the tool wrote it, or the reason why it cannot be read."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["pixels", "percent", "permille", "fraction"]
"""Of box coordinates: pixels, or parts of the image's sides in 100, 1000 or 1."""
Frame = Literal["stored", "displayed"]
"""Which raster boxes lie in: the one in the file, or the upright one that a viewer shows (EXIF applied)."""

UNIT_WHOLE: dict[Unit, float] = {"pixels": 0, "percent": 100, "permille": 1000, "fraction": 1}
"""What a whole side of the image counts in a unit; 0 for pixels."""


class FieldProblem(ValueError):  # noqa: N818 - no error that a user meets: it becomes a finding
    """A field of a row that cannot be read.

    Args:
        field: Its path within the row: "annotations[2].bbox".
        value: What it holds.
        reason: Why that cannot be read, and what was expected.
    """

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(field, value, reason)
        self.field = field
        self.value = value if isinstance(value, str) else repr(value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row comes from.

    Attributes:
        file: The file.
        row: The row in it: "line 3", "task 17", a name; empty where the file is one row.
    """

    file: str
    row: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What an import has to say of a row.

    Attributes:
        file: The file it comes from.
        row: The row in it.
        field: The field that is wrong.
        value: What it holds, cut to 120 characters.
        reason: What is wrong, and what was expected.
        is_warning: True where the row was imported all the same.
    """

    file: str
    row: str
    field: str
    value: str
    reason: str
    is_warning: bool = False

    @classmethod
    def of(cls, place: Place, problem: FieldProblem, *, is_warning: bool = False) -> "Finding":
        """The finding that a problem at a place makes."""
        value = problem.value if len(problem.value) <= 120 else problem.value[:117] + "..."
        return cls(place.file, place.row, problem.field, value, problem.reason, is_warning)

    def __str__(self) -> str:
        place = f"{self.file}, {self.row}" if self.row else self.file
        return f"{place}: field {self.field}: {self.value!r}: {self.reason}"


@dataclass(frozen=True, slots=True)
class RawRegion:
    """A box as the tool wrote it.

    Attributes:
        corners: x_min, y_min, x_max, y_max in the unit and frame of its record.
        caption: What it says; an empty one is refused later.
        field: Path of the box within the row.
    """

    corners: tuple[float, float, float, float]
    caption: str
    field: str


@dataclass(frozen=True, slots=True)
class Record:
    """A row as the tool wrote it; what a tool has no field for is None.

    Attributes:
        place: Where it comes from.
        image: The image file, or the file that holds it.
        image_field: Path of the image's field within the row.
        name: What the image is called: its path within the export, made unique once all records are named apart.
        member: Row of a Parquet file that holds the image, or None for a file that is the image.
        regions: Its boxes.
        tags: Names of tags, in the tool's words.
        label: In the tool's words.
        sample_id: Id in an fxray dataset that it once came from.
        generator: Who made the image.
        category: What it shows.
        source: Where it comes from.
        annotator: Who marked it.
        unit: Of the boxes.
        size_px: Width and height that the tool noted.
        notes: What was passed over on purpose: field, value, reason.
    """

    place: Place
    image: str
    image_field: str
    name: str
    member: int | None = None
    regions: tuple[RawRegion, ...] = ()
    tags: tuple[str, ...] = ()
    label: str | None = None
    sample_id: str | None = None
    generator: str | None = None
    category: str | None = None
    source: str | None = None
    annotator: str | None = None
    unit: Unit = "pixels"
    size_px: tuple[int, int] | None = None
    notes: tuple[tuple[str, str, str], ...] = ()

    def to_json(self) -> str:
        """One line of JSON."""
        fields = [getattr(self, name) for name in _FIELDS[2:]]
        fields[_REGIONS] = [(r.corners, r.caption, r.field) for r in self.regions]
        return json.dumps([self.place.file, self.place.row, *fields])

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Reads what `to_json` wrote."""
        file, row, *fields = json.loads(line)
        named = dict(zip(_FIELDS[2:], fields, strict=True))
        named["regions"] = tuple(RawRegion(tuple(corners), *rest) for corners, *rest in named["regions"])
        named["tags"] = tuple(named["tags"])
        named["notes"] = tuple(tuple(note) for note in named["notes"])
        named["size_px"] = tuple(named["size_px"]) if named["size_px"] else None
        return cls(place=Place(file, row), **named)


_FIELDS = ("file", "row", *(name for name in Record.__slots__ if name != "place"))
_REGIONS = _FIELDS.index("regions") - 2

Rows = Iterator[Record | Finding]
Raw = tuple[Place, Any]


def read_each(rows: Iterable[Raw | Finding], read_row: Callable[[Place, Any], Record]) -> Rows:
    """Reads row after row; a row that cannot be read becomes a finding."""
    for raw in rows:
        if isinstance(raw, Finding):
            yield raw
            continue
        place, value = raw
        try:
            yield read_row(place, value)
        except FieldProblem as problem:
            yield Finding.of(place, problem)
