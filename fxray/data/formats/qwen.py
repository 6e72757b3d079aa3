r"""Qwen grounding rows: `bbox_2d` JSON as the answer of a conversation, or as plain rows; boxes of the stored raster.

    {"image": "a.jpg", "conversations": [{"from": "human", ...}, {"from": "gpt", "value": "[{\"bbox_2d\\": ...}]"}]}
    {"image": "a.jpg", "objects": [{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]}

Coordinates are pixels of the image; Qwen2-VL and Qwen3-VL count in 1000: `--boxes-unit permille`. Verdict and tags are
read from an answer in fxray's grammar, or from fields `verdict` (or a `label` of the row) and `tags`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxray.data.formats import fields, stream
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Place, RawRegion, Record, Rows, read_each
from fxray.grammar import parse
from fxray.schema import Tag

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


def read(src: Path, images: Images) -> Rows:
    """One record per row of a JSON list or of JSON lines.

    Raises:
        DataError: The file is missing.
    """
    rows = stream.items(src, "", "row") if src.suffix.lower() == ".json" else stream.lines(src)
    return read_each(rows, lambda place, row: _read_row(place, fields.mapping(row, "row"), images))


def _read_row(place: Place, row: Mapping[str, Any], images: Images) -> Record:
    name = row.get("image", row.get("images"))
    if isinstance(name, list):
        if len(name) != 1:
            raise FieldProblem("image", name, f"{len(name)} images in one row, expected one")
        name = name[0]
    answer, field = _answer(row)
    if answer is None:
        found, field = fields.sequence(row.get("objects"), "objects"), "objects"
        verdict, tags = None, tuple[Tag, ...]()
    else:
        parsed = parse(answer, lenient=True)
        verdict, tags = parsed.verdict, parsed.tags
        found = _boxes(answer, field)
    return Record(
        place=place,
        image=images.find(name, "image"),
        image_field="image",
        name=fields.text(name, "image"),
        regions=tuple(_region(fields.mapping(item, f"{field}[{i}]"), f"{field}[{i}]") for i, item in enumerate(found)),
        tags=fields.texts(row.get("tags"), "tags") or tuple(tag.value for tag in tags),
        label=fields.optional_text(row.get("verdict", row.get("label")), "verdict") or verdict,
        **fields.origin(row),
    )


def _answer(row: Mapping[str, Any]) -> tuple[str | None, str]:
    """The last thing that the model says in a conversation of either layout, and where it stands."""
    for key, role, said, text in (
        ("conversations", "from", "gpt", "value"),
        ("messages", "role", "assistant", "content"),
    ):
        turns = fields.sequence(row.get(key), key)
        for index in reversed(range(len(turns))):
            turn = fields.mapping(turns[index], f"{key}[{index}]")
            if turn.get(role) == said:
                return fields.text(turn.get(text), f"{key}[{index}].{text}"), f"{key}[{index}].{text}"
    return None, ""


def _boxes(answer: str, field: str) -> list[Any]:
    """The list of boxes in an answer: the first JSON list in a fence, or in the plain text."""
    fenced = _FENCE.search(answer)
    text = fenced[1] if fenced else answer
    start = min((place for place in (text.find("["), text.find("{")) if place >= 0), default=-1)
    if start < 0:
        return []
    try:
        found, _ = json.JSONDecoder().raw_decode(text[start:])
    except (ValueError, RecursionError) as error:
        raise FieldProblem(field, text[start:], f"no JSON of boxes: {error}") from error
    return found if isinstance(found, list) else [found]


def _region(item: Mapping[str, Any], field: str) -> RawRegion:
    corners = fields.four_numbers(item.get("bbox_2d"), f"{field}.bbox_2d")
    caption = fields.caption_in(item) or str(item.get("label") or "")
    return RawRegion(corners, caption, f"{field}.bbox_2d")
