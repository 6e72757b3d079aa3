"""ms-swift grounding rows: text with `<ref-object>` and `<bbox>`, filled in turn from `objects`; stored raster.

Boxes in what the assistant says are regions; each takes the reference before it as its caption. Text with Qwen's own
box tokens is read too. Verdict and tags come from an answer in fxray's grammar, or from fields of the row.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fxray.counts import counted
from fxray.data.exported import Exported, Guess, in_place_of_truth
from fxray.data.formats import fields, stream
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Place, RawRegion, Record, Rows, Unit, read_each
from fxray.data.orientation import to_stored
from fxray.grammar import parse
from fxray.grammar.lenient import VERDICT_WORDS
from fxray.grammar.markers import BOX_START, NO_TAG
from fxray.grammar.prompts import EVALUATION_TEMPLATE
from fxray.grammar.render import REAL_SENTENCE
from fxray.schema import Region

_PLACEHOLDER = re.compile("<ref-object>|<bbox>")
_UNITS: dict[str, Unit] = {"real": "pixels", "norm1": "fraction", "norm1000": "permille"}


def read(src: Path, images: Images) -> Rows:
    """One record per row.

    Raises:
        DataError: The file is missing.
    """
    return read_each(stream.rows(src), lambda place, row: _read_row(place, fields.mapping(row, "row"), images))


def _read_row(place: Place, row: Mapping[str, Any], images: Images) -> Record:
    name = _image_name(row)
    turns = [(field, speaker, str(text or "")) for field, speaker, text in fields.turns(row, "messages")]
    if not turns:
        raise FieldProblem("messages", row.get("messages"), "expected messages of user and assistant")
    said = "\n".join(text for _, speaker, text in turns if speaker in fields.MODELS)
    objects = fields.mapping(row.get("objects") or {}, "objects")
    kind = str(objects.get("bbox_type") or "real")
    if kind not in _UNITS:
        raise FieldProblem("objects.bbox_type", kind, f"expected one of {', '.join(_UNITS)}")
    parsed = parse(said, lenient=True)
    is_filled_in = bool(objects.get("bbox")) or "<bbox>" in said
    regions = list(_filled_in(turns, objects) if is_filled_in else _written_out(parsed.regions))
    if is_filled_in and (BOX_START in said or parsed.regions):
        raise FieldProblem("messages", said, "boxes written out beside those of objects, which alone would be read")
    fields.check_all_boxes(said, len(regions), "messages")
    label = fields.optional_text(row.get("verdict"), "verdict")
    if label is None and str(row.get("label")).lower() in VERDICT_WORDS:  # in ms-swift a label is a class number
        label = str(row["label"])
    return Record(
        place=place,
        image=images.find(name, "images"),
        image_field="images",
        name=name,
        regions=tuple(regions),
        tags=fields.texts(row.get("tags"), "tags") or tuple(tag.value for tag in parsed.tags),
        label=label or (parsed.verdict.value if parsed.verdict else None),
        unit=_UNITS[kind],
        **fields.origin(row),
    )


def _image_name(row: Mapping[str, Any]) -> str:
    listed = row.get("image") if row.get("images") is None else row["images"]
    listed = [listed] if isinstance(listed, str | dict) else fields.sequence(listed, "images")
    if len(listed) != 1:
        raise FieldProblem("images", listed, f"{counted(len(listed), 'image')} in one row, expected one")
    image = listed[0]
    return fields.text(image.get("path") if isinstance(image, dict) else image, "images")


def _filled_in(turns: list[tuple[str, str, str]], objects: Mapping[str, Any]) -> Iterator[RawRegion]:
    refs = fields.sequence(objects.get("ref"), "objects.ref")
    boxes = fields.sequence(objects.get("bbox"), "objects.bbox")
    num_refs, num_boxes, caption = 0, 0, ""
    for place, speaker, text in turns:
        for mark in _PLACEHOLDER.findall(text):
            if mark == "<ref-object>":
                if num_refs == len(refs):
                    raise FieldProblem("objects.ref", len(refs), "the text has more <ref-object> than there are refs")
                caption = fields.text(refs[num_refs], f"objects.ref[{num_refs}]")
                num_refs += 1
                continue
            if num_boxes == len(boxes):
                raise FieldProblem("objects.bbox", len(boxes), "the text has more <bbox> than there are boxes")
            field = f"objects.bbox[{num_boxes}]"
            if speaker not in (*fields.MODELS, *fields.ASKING):
                raise FieldProblem(place, speaker, "a box of nobody who is known: is it an answer's or a question's?")
            if speaker in fields.MODELS:
                yield RawRegion(fields.four_numbers(boxes[num_boxes], field), caption, field)
            num_boxes += 1
    if num_boxes < len(boxes):
        raise FieldProblem("objects.bbox", len(boxes), f"the text has only {num_boxes} <bbox>")


def _written_out(regions: Iterable[Region]) -> Iterator[RawRegion]:
    for index, region in enumerate(regions):
        yield RawRegion((*region.box,), region.caption, f"messages: box {index}")


def write(rows: Iterator[Exported], dst: Path, *, has_predictions: bool) -> Path:
    """Writes `data.jsonl`; image paths are relative to it. Predictions stand in the place of the truth.

    A prediction without a verdict, or with a box without a caption, is left out, as are boxes on an image that is said
    to be real: these rows are trained on.
    """
    del has_predictions
    path = dst / "data.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for row in rows:
            said = in_place_of_truth(row)
            if said.verdict is not None and not said.lacks_captions:
                out.write(json.dumps(_as_row(row, said), ensure_ascii=False) + "\n")
    return path


def _as_row(row: Exported, said: Guess) -> dict[str, Any]:
    sample = row.sample
    boxes = [to_stored(r.box, sample.width_px, sample.height_px, row.orientation) for r in said.regions]
    think = "\n".join("<ref-object><bbox>" for _ in boxes) or REAL_SENTENCE
    tags = "; ".join(said.tags) or NO_TAG
    return {
        "messages": [
            {"role": "system", "content": EVALUATION_TEMPLATE.system},
            {"role": "user", "content": f"<image>{EVALUATION_TEMPLATE.query}"},
            {
                "role": "assistant",
                "content": f"<think>\n{think}\n</think>\n<tag>{tags}</tag>\n<verdict>{said.verdict}</verdict>",
            },
        ],
        "images": [row.image],
        "objects": {"ref": [r.caption for r in said.regions], "bbox": [list(box) for box in boxes]},
        "sample_id": sample.sample_id,
        "generator": sample.generator,
        "category": sample.category,
        "source": sample.source,
        "annotator": sample.annotator,
    }
