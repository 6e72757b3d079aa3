r"""Qwen grounding rows: `bbox_2d` JSON as the answer of a conversation, or as plain rows; boxes of the stored raster.

    {"image": "a.jpg", "conversations": [{"from": "human", ...}, {"from": "gpt", "value": "[{\"bbox_2d\\": ...}]"}]}
    {"image": "a.jpg", "objects": [{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]}

An answer's JSON may be one list, several, or objects one after the other, in fences or bare; Qwen's box tokens are read
too. Boxes in `objects` join the answer's. A row whose text holds a box that is not read is refused. Coordinates are
pixels of the image; Qwen2-VL and Qwen3-VL count in 1000: `--boxes-unit permille`. Verdict and tags are read from an
answer in fxray's grammar, or from fields `verdict` (or a `label` of the row) and `tags`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fxray.counts import counted
from fxray.data.formats import fields, stream
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Place, RawRegion, Record, Rows, read_each
from fxray.grammar import parse
from fxray.grammar.markers import BOX_START
from fxray.schema import Region

_OPENING = re.compile(r"[\[{]")
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


def read(src: Path, images: Images) -> Rows:
    """One record per row of a JSON list or of JSON lines.

    Raises:
        DataError: The file is missing.
    """
    return read_each(stream.rows(src), lambda place, row: _read_row(place, fields.mapping(row, "row"), images))


def _read_row(place: Place, row: Mapping[str, Any], images: Images) -> Record:
    name = row.get("images") if row.get("image") is None else row["image"]
    if isinstance(name, list):
        if len(name) != 1:
            raise FieldProblem("image", name, f"{counted(len(name), 'image')} in one row, expected one")
        name = name[0]
    answer, field = _answer(row)
    parsed = parse(answer, lenient=True)
    return Record(
        place=place,
        image=images.find(name, "image"),
        image_field="image",
        name=fields.text(name, "image"),
        regions=_joined(_said(answer, parsed.regions, field), _regions(row.get("objects"), "objects")),
        tags=fields.texts(row.get("tags"), "tags") or tuple(tag.value for tag in parsed.tags),
        label=fields.optional_text(row.get("verdict"), "verdict")
        or fields.optional_text(row.get("label"), "label")
        or parsed.verdict,
        **fields.origin(row),
    )


def _answer(row: Mapping[str, Any]) -> tuple[str, str]:
    """The last thing that the model says in a conversation of any layout, and where it stands; else two blanks."""
    for key in ("conversations", "messages"):
        said = {field: text for field, speaker, text in fields.turns(row, key) if speaker in fields.MODELS}
        for field in list(said)[:-1]:
            if fields.BOX_MARK.search(str(said[field])):
                raise FieldProblem(field, said[field], "boxes in an answer that is not the last, which alone is read")
        if said:
            field, answer = said.popitem()
            return fields.text(answer, field), field
    return "", ""


def _said(answer: str, marked: Sequence[Region], field: str) -> list[RawRegion]:
    """The boxes in an answer, all in Qwen's tokens or all in JSON.

    Raises:
        FieldProblem: It holds one that cannot be read.
    """
    if BOX_START in answer:
        found = [RawRegion((*region.box,), region.caption, f"{field}: box {i}") for i, region in enumerate(marked)]
    else:
        found = _regions(_json_boxes(answer, field), field)
    fields.check_all_boxes(answer, len(found), field)
    return found


def _json_boxes(answer: str, field: str) -> list[Any]:
    """All boxes of the JSON in an answer's fences or, without any, in its plain text."""
    found: list[Any] = []
    for text in _FENCE.findall(answer) or [answer]:
        end = 0
        while start := _OPENING.search(text, end):
            try:
                value, end = json.JSONDecoder().raw_decode(text, start.start())
            except (ValueError, RecursionError) as error:
                rest = text[start.start() :]
                if found and not fields.BOX_MARK.search(rest):
                    break  # prose with a bracket
                raise FieldProblem(field, rest, f"no JSON of boxes: {error}") from error
            found += value if isinstance(value, list) else [value]
    return found


def _regions(items: Any, field: str) -> list[RawRegion]:
    places = {f"{field}[{i}]": item for i, item in enumerate(fields.sequence(items, field))}
    return [_region(fields.mapping(item, place), place) for place, item in places.items()]


def _region(item: Mapping[str, Any], field: str) -> RawRegion:
    if "bbox_2d" not in item:
        raise FieldProblem(field, json.dumps(item, default=str), "an object of JSON without `bbox_2d`, so no box")
    corners = fields.four_numbers(item["bbox_2d"], f"{field}.bbox_2d")
    caption = fields.caption_in(item) or str(item.get("label") or "")
    return RawRegion(corners, caption, f"{field}.bbox_2d")


def _joined(said: list[RawRegion], listed: list[RawRegion]) -> tuple[RawRegion, ...]:
    """Boxes of an answer and of `objects`; where both hold the same, once."""
    if not said or not listed:
        return (*said, *listed)
    if {(each.corners, each.caption) for each in said} != {(each.corners, each.caption) for each in listed}:
        raise FieldProblem("objects", len(listed), f"other boxes than the {len(said)} in the answer")
    return tuple(said)
