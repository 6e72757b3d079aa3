"""Fields of untrusted rows: what is there is of the expected kind, or the problem names it."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from fxray.counts import counted
from fxray.data.formats.record import FieldProblem
from fxray.grammar.lenient import TAG_NAMES, VERDICT_WORDS
from fxray.grammar.markers import BOX_START

Corners = tuple[float, float, float, float]

CAPTION_KEYS = ("caption", "description", "text", "explanation")
"""Names under which tools keep free text, the first that is filled counts."""

MODELS = ("gpt", "assistant", "model", "bot")
"""What conversations call the one who answers."""
ASKING = ("human", "user", "system")
"""What they call the others."""

BOX_MARK = re.compile(r"bbox_2d[\"'\\]*\s*:|<box>|" + re.escape(BOX_START))
"""What stands at every box in a model's answer."""


def mapping(value: Any, field: str) -> Mapping[str, Any]:
    """An object of JSON."""
    if not isinstance(value, Mapping):
        raise FieldProblem(field, value, "expected an object")
    return value


def is_nan(value: Any) -> bool:
    """Whether it is a NaN, as which pandas writes what a row lacks."""
    return isinstance(value, float) and math.isnan(value)


def sequence(value: Any, field: str) -> Sequence[Any]:
    """A list of JSON; null, or NaN in its place, counts as an empty one."""
    if value is None or is_nan(value):
        return ()
    if not isinstance(value, list | tuple):
        raise FieldProblem(field, value, "expected a list")
    return value


def text(value: Any, field: str) -> str:
    """Some text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise FieldProblem(field, value, "expected some text")
    return value


def optional_text(value: Any, field: str) -> str | None:
    """Text, a number or truth value as text, or None where there is none."""
    if value is None or value == "" or is_nan(value):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise FieldProblem(field, value, "expected text")


def texts(value: Any, field: str) -> tuple[str, ...]:
    """A list of texts; one text alone is split at semicolons."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(";") if part.strip())
    return tuple(text(item, f"{field}[{index}]") for index, item in enumerate(sequence(value, field)))


class Origin(TypedDict):
    """Id, generator, category, source and annotator of a row; None for what it does not say."""

    sample_id: str | None
    generator: str | None
    category: str | None
    source: str | None
    annotator: str | None


def origin(row: Mapping[str, Any], prefix: str = "") -> Origin:
    """The fields of a row that say where its image and its marks come from, named as in a dataset."""
    return Origin(
        sample_id=optional_text(row.get("sample_id"), f"{prefix}sample_id"),
        generator=optional_text(row.get("generator"), f"{prefix}generator"),
        category=optional_text(row.get("category"), f"{prefix}category"),
        source=optional_text(row.get("source"), f"{prefix}source"),
        annotator=optional_text(row.get("annotator"), f"{prefix}annotator"),
    )


def turns(row: Mapping[str, Any], key: str) -> list[tuple[str, str, Any]]:
    """The turns of a conversation of any layout: where the text of each stands, who says it, and the text.

    Raises:
        FieldProblem: Somebody speaks who is not known, and no model.
    """
    found = []
    for index, item in enumerate(sequence(row.get(key), key)):
        turn = mapping(item, f"{key}[{index}]")
        name = "value" if "value" in turn else "content"
        speaker = str(turn.get("from") or turn.get("role") or "").lower()
        found.append((f"{key}[{index}].{name}", speaker, turn.get(name)))
    unknown = [speaker for _, speaker, _ in found if speaker not in (*MODELS, *ASKING)]
    if unknown and not any(speaker in MODELS for _, speaker, _ in found):
        raise FieldProblem(key, unknown[0], f"nobody who is known: {', '.join((*MODELS, *ASKING))}")
    return found


def number(value: Any, field: str) -> float:
    """A finite number, or text that is one."""
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise FieldProblem(field, value, "expected a finite number")
    return found


def four_numbers(value: Any, field: str) -> Corners:
    """A list of exactly four finite numbers."""
    values = sequence(value, field)
    if len(values) != 4:
        raise FieldProblem(field, value, f"{counted(len(values), 'number')}, expected four")
    a, b, c, d = (number(item, field) for item in values)
    return a, b, c, d


def from_xywh(box: Corners) -> Corners:
    """Corners of a box that is given as corner, width and height."""
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


def enclosing(xs: Iterable[float], ys: Iterable[float], field: str) -> Corners:
    """Corners of the smallest box around some points.

    Raises:
        FieldProblem: There are no points.
    """
    all_x, all_y = list(xs), list(ys)
    if not all_x or len(all_x) != len(all_y):
        raise FieldProblem(field, f"{len(all_x)} x and {len(all_y)} y", "expected the points of an outline")
    return min(all_x), min(all_y), max(all_x), max(all_y)


def pairs(points: Any, field: str) -> list[tuple[float, float]]:
    """Points that are given as [[x, y], ...]."""
    found = []
    for index, point in enumerate(sequence(points, field)):
        values = sequence(point, f"{field}[{index}]")
        if len(values) != 2:
            raise FieldProblem(field, points, "expected points as [x, y]")
        found.append((number(values[0], field), number(values[1], field)))
    return found


def around_pairs(points: Any, field: str) -> Corners:
    """Corners of the smallest box around points that are given as [[x, y], ...]."""
    found = pairs(points, field)
    return enclosing([x for x, _ in found], [y for _, y in found], field)


def around_flat(polygons: Any, field: str) -> Corners:
    """Corners of the smallest box around polygons that are given as [[x1, y1, x2, y2, ...], ...]."""
    flat: list[float] = []
    for index, polygon in enumerate(sequence(polygons, field)):
        values = [number(value, f"{field}[{index}]") for value in sequence(polygon, f"{field}[{index}]")]
        if len(values) % 2:
            raise FieldProblem(f"{field}[{index}]", polygon, "an odd number of coordinates")
        flat += values
    return enclosing(flat[0::2], flat[1::2], field)


def check_all_boxes(answer: str, num_read: int, field: str) -> None:
    """Compares the boxes that were read of an answer with the marks in it.

    Raises:
        FieldProblem: It holds a box that was not read, or numbers beside its box tokens were read as one.
    """
    has_tokens = BOX_START in answer
    num_marks = answer.count(BOX_START) if has_tokens else len(BOX_MARK.findall(answer))
    if num_marks > num_read or (has_tokens and num_marks < num_read):
        raise FieldProblem(
            field, answer, f"{counted(num_marks, 'box', 'boxes')} by the marks, of which {num_read} can be read"
        )


def caption_in(attributes: Mapping[str, Any]) -> str | None:
    """The free text among an annotation's attributes, or None."""
    found = (attributes.get(key) for key in CAPTION_KEYS)
    return next((value for value in found if isinstance(value, str) and value.strip()), None)


def tags_among(names: Iterable[str]) -> tuple[str, ...]:
    """Those of some class names that are names of tags: such a class also tags the image."""
    return tuple(dict.fromkeys(name for name in names if name.strip().lower() in TAG_NAMES))


def passed_over(names: Iterable[str], field: str) -> tuple[tuple[str, str, str], ...]:
    """Notes on those names that a person gave an image that are neither a verdict nor a tag: they may be misspelt."""
    reason = f"neither a verdict ({', '.join(VERDICT_WORDS)}) nor a tag, and passed over"
    known = VERDICT_WORDS.keys() | TAG_NAMES.keys()
    return tuple((field, name, reason) for name in names if name.strip().lower() not in known)


def one_verdict(names: Sequence[str], field: str) -> str | None:
    """The name among those of verdicts that a person gave an image; None without any.

    Args:
        names: Words of `VERDICT_WORDS`, in whatever case.
        field: Where they stand.
    """
    if len({VERDICT_WORDS[name.strip().lower()] for name in names}) > 1:
        raise FieldProblem(field, list(names), "both real and generated, expected one verdict")
    return names[-1] if names else None


def size(width: Any, height: Any) -> tuple[int, int] | None:
    """The size in pixels that a tool noted, or None where it is no size."""
    try:
        width_px, height_px = int(width), int(height)
    except (TypeError, ValueError, OverflowError):
        return None
    return (width_px, height_px) if width_px > 0 and height_px > 0 else None
