"""Label Studio's JSON export, and tasks with pre-annotations that people can correct.

Percent of the displayed image. A region's caption is the text area that shares its id, else its labels; of several the
one whose control is called `caption`, `description`, `text` or `explanation`. Choices that are verdicts or tags are
read as such; those of a region say nothing of the whole image's verdict. Of several annotations the last counts;
without any, the last prediction does.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from fxray.data.exported import Exported, said_of
from fxray.data.formats import fields, stream
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Finding, Place, Raw, RawRegion, Record, Rows, read_each
from fxray.grammar.lenient import TAG_NAMES, VERDICT_WORDS
from fxray.schema import Box, Tag, Verdict

_NO_SHAPES = ("labels", "textarea", "choices", "rating", "number", "taxonomy", "relation", "pairwise")
_EXTRAS = ("sample_id", "generator", "category", "source", "annotator")
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
_IMAGE_NAME = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|heic|heif)(\?.*)?$", re.IGNORECASE)


def read(src: Path, images: Images) -> Rows:
    """One record per task; files of one task each may lie in a folder.

    Raises:
        DataError: There is no file, or it is no JSON.
    """
    return read_each(
        stream.of_documents(src, ".json", _tasks), lambda place, task: _read_task(place, _opened(task), images)
    )


def _tasks(path: Path) -> Iterator[Raw | Finding]:
    return iter([(Place(str(path)), path)]) if _is_one_task(path) else stream.items(path, "", "task")


def _is_one_task(path: Path) -> bool:
    return stream.first_key(path) is not None


def _opened(task: Any) -> Mapping[str, Any]:
    return fields.mapping(stream.document(task) if isinstance(task, Path) else task, "task")


def _read_task(place: Place, task: Mapping[str, Any], images: Images) -> Record:
    if "data" not in task:
        raise FieldProblem("data", None, "a task has this field; export as JSON, not as JSON-MIN")
    data = fields.mapping(task["data"], "data")
    key = _image_key(data)
    notes = []
    annotations = [
        (f"annotations[{index}]", fields.mapping(annotation, f"annotations[{index}]"))
        for index, annotation in enumerate(fields.sequence(task.get("annotations"), "annotations"))
    ]
    finished = [(where, annotation) for where, annotation in annotations if not annotation.get("was_cancelled")]
    if len(finished) > 1:
        notes.append(("annotations", str(len(finished)), "annotations of one task; the last one is read"))
    if annotations and not finished:
        raise FieldProblem("annotations", "cancelled", "the annotator skipped this task")
    if not finished:
        predictions = fields.sequence(task.get("predictions"), "predictions")
        finished = [(f"predictions[{i}]", fields.mapping(p, f"predictions[{i}]")) for i, p in enumerate(predictions)][
            -1:
        ]
    if not finished:
        raise FieldProblem("annotations", task.get("annotations"), "nobody annotated this task")
    where, annotation = finished[-1]
    results = fields.sequence(annotation.get("result"), f"{where}.result")
    marks = [(f"{where}.result[{i}]", fields.mapping(r, f"{where}.result[{i}]")) for i, r in enumerate(results)]
    shapes = {str(mark.get("id")) for _, mark in marks if mark.get("type") not in _NO_SHAPES}
    chosen = [
        (str(mark.get("id")) in shapes, choice)
        for at, mark in marks
        if mark.get("type") == "choices"
        for choice in _choices(at, mark)
    ]
    choices = [choice for _, choice in chosen]
    regions, kinds = _regions(marks)
    verdicts = [choice for of_region, choice in chosen if not of_region and choice.strip().lower() in VERDICT_WORDS]
    tags = [choice for choice in choices if choice.strip().lower() in TAG_NAMES]
    return Record(
        place=Place(place.file, f"{place.row} (id {task['id']})".strip()) if "id" in task else place,
        image=_find(data[key], f"data.{key}", images),
        image_field=f"data.{key}",
        name=_name(data[key]),
        regions=regions,
        tags=tuple(tags) or fields.tags_among(kinds),
        label=fields.one_verdict(verdicts, "choices") or fields.optional_text(data.get("label"), "data.label"),
        unit="percent",
        notes=(*notes, *fields.passed_over((choice for of_region, choice in chosen if not of_region), "choices")),
        **_origin(data, annotation, where),
    )


def _origin(data: Mapping[str, Any], annotation: Mapping[str, Any], where: str) -> fields.Origin:
    """As the data say, but who finished the annotation is its annotator; predictions have nobody."""
    found = fields.origin(data, "data.")
    user = annotation.get("completed_by")
    name = user.get("email") or user.get("id") if isinstance(user, Mapping) else user
    found["annotator"] = fields.optional_text(name, f"{where}.completed_by") or found["annotator"]
    return found


def _regions(marks: list[tuple[str, Mapping[str, Any]]]) -> tuple[tuple[RawRegion, ...], list[str]]:
    """Boxes with the texts that share their ids, and the names of their labels."""
    texts: dict[str, dict[str, str]] = {}
    for where, mark in marks:
        if mark.get("type") == "textarea":
            written = fields.mapping(mark.get("value"), f"{where}.value").get("text")
            of_region, control = texts.setdefault(str(mark.get("id")), {}), str(mark.get("from_name"))
            lines = [of_region.get(control, ""), *_lines(written, f"{where}.value.text")]
            of_region[control] = " ".join(filter(None, lines))
    regions, kinds, apart = [], [], _labels_apart(marks)
    for where, mark in marks:
        if mark.get("type") in _NO_SHAPES:
            continue
        corners, labels = _shape(where, mark)
        labels += apart.get(str(mark.get("id")), [])
        caption = _caption(texts.get(str(mark.get("id")), {}), where) or ", ".join(labels)
        regions.append(RawRegion(corners, caption, f"{where}.value"))
        kinds += labels
    return tuple(regions), kinds


def _labels_apart(marks: list[tuple[str, Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Labels that are results of their own, as <Labels> beside <Rectangle> writes them, by the id of their shape."""
    shapes = {str(mark.get("id")) for _, mark in marks if mark.get("type") not in _NO_SHAPES}
    found: dict[str, list[str]] = {}
    for where, mark in marks:
        if mark.get("type") == "labels":
            if str(mark.get("id")) not in shapes:
                raise FieldProblem(f"{where}.id", mark.get("id"), "labels of no shape")
            found.setdefault(str(mark.get("id")), []).extend(_labels(where, mark))
    return found


def _caption(texts: Mapping[str, str], where: str) -> str:
    """The text among a region's, by the names of their controls, that is its caption; blank where there is none."""
    filled = {control: text for control, text in texts.items() if text}
    if len(filled) < 2:
        return "".join(filled.values())
    named = {control.lower(): text for control, text in filled.items()}
    if caption := fields.caption_in(named):
        return caption
    keys = ", ".join(fields.CAPTION_KEYS)
    raise FieldProblem(where, ", ".join(filled), f"several text areas of a region, expected one of them called {keys}")


def _lines(written: Any, field: str) -> list[str]:
    """The entries of a text area: a list, or one text."""
    entries = [written] if isinstance(written, str) else fields.sequence(written, field)
    return [fields.text(entry, f"{field}[{index}]") for index, entry in enumerate(entries)]


def _shape(where: str, mark: Mapping[str, Any]) -> tuple[fields.Corners, list[str]]:
    value, kind = fields.mapping(mark.get("value"), f"{where}.value"), str(mark.get("type"))
    for turned, at in ((mark.get("image_rotation"), "image_rotation"), (value.get("rotation"), "value.rotation")):
        if fields.number(turned or 0, f"{where}.{at}"):
            raise FieldProblem(f"{where}.{at}", turned, "a turned box or image, expected upright ones")

    def got(name: str) -> float:
        return fields.number(value.get(name), f"{where}.value.{name}")

    if kind.startswith("rectangle"):
        corners = fields.from_xywh((got("x"), got("y"), got("width"), got("height")))
    elif kind.startswith("polygon"):
        corners = fields.around_pairs(value.get("points"), f"{where}.value.points")
    elif kind.startswith("ellipse"):
        x, y, across, down = got("x"), got("y"), got("radiusX"), got("radiusY")
        corners = x - across, y - down, x + across, y + down
    else:
        raise FieldProblem(f"{where}.type", kind, "expected rectanglelabels, polygonlabels or ellipselabels")
    return corners, _labels(where, mark)


def _labels(where: str, mark: Mapping[str, Any]) -> list[str]:
    value, kind = fields.mapping(mark.get("value"), f"{where}.value"), str(mark.get("type"))
    return [str(label) for label in fields.sequence(value.get(kind), f"{where}.value.{kind}")]


def _choices(where: str, mark: Mapping[str, Any]) -> tuple[str, ...]:
    value = fields.mapping(mark.get("value"), f"{where}.value")
    return fields.texts(value.get("choices"), f"{where}.value.choices")


def _image_key(data: Mapping[str, Any]) -> str:
    if isinstance(data.get("image"), list):
        raise FieldProblem("data.image", data["image"], "several images in one task, expected one")
    keys = [key for key, value in data.items() if isinstance(value, str) and _IMAGE_NAME.search(value)]
    if "image" in data or not keys:
        return "image" if "image" in data else _no_image(data)
    if len(keys) > 1:
        raise FieldProblem("data", ", ".join(keys), "several images in one task, expected one")
    return keys[0]


def _no_image(data: Mapping[str, Any]) -> str:
    raise FieldProblem("data", ", ".join(map(str, data)), "expected a field `image`")


def _name(value: Any) -> str:
    """The path that a task's image field stands for: local files name theirs in the query."""
    address = fields.text(value, "data.image")
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise FieldProblem("data.image", value, f"no address: {error}") from error
    query = parse_qs(parts.query).get("d") if parts.path.startswith("/data/local-files") else None
    return query[0] if query else str(value)


def _find(value: Any, field: str, images: Images) -> str:
    name = _name(value)
    try:
        return images.find(name, field)
    except FieldProblem:
        bare = _UPLOAD_PREFIX.sub("", name.rsplit("/", 1)[-1])
        if "://" in name or bare == name:
            raise
        try:
            return images.find(bare, field)
        except FieldProblem:  # uploads are named as in a URL
            return images.find(unquote(bare), field)


def write(rows: Iterator[Exported], dst: Path, *, has_predictions: bool) -> Path:
    """Writes `tasks.json` with pre-annotations, of the truth or of predictions, and `label_config.xml`.

    Of a prediction without a verdict that choice stays open, and of a box without a caption the text area; the
    configuration requires both of people.
    """
    (dst / "label_config.xml").write_text(LABEL_CONFIG)
    path = dst / "tasks.json"
    with path.open("w", encoding="utf-8") as out:
        for row in rows:
            task = _as_task(row, "fxray predictions" if has_predictions else "fxray dataset")
            out.write((",\n" if row.number else "[\n") + json.dumps(task, ensure_ascii=False))
        out.write("\n]\n")
    return path


def _as_task(row: Exported, version: str) -> dict[str, Any]:
    sample, said = row.sample, said_of(row)
    place = {
        "to_name": "image",
        "original_width": sample.width_px,
        "original_height": sample.height_px,
        "image_rotation": 0,
    }
    result: list[dict[str, Any]] = []
    for index, region in enumerate(said.regions):
        box = _percent(region.box, sample.width_px, sample.height_px)
        common = place | {"id": f"region-{index}"}
        result.append(
            common | {"type": "rectanglelabels", "from_name": "box", "value": box | {"rectanglelabels": ["flaw"]}}
        )
        if region.caption.strip():
            written = box | {"text": [region.caption]}
            result.append(common | {"type": "textarea", "from_name": "caption", "value": written})
    for name, chosen in (("verdict", [said.verdict] if said.verdict else []), ("tags", said.tags)):
        if chosen:
            value = {"choices": [str(choice) for choice in chosen]}
            result.append({"id": name, "type": "choices", "from_name": name, "to_name": "image", "value": value})
    data = {name: getattr(sample, name) for name in _EXTRAS}
    image = f"/data/local-files/?d={quote(row.image)}"
    return {
        "data": {"image": image, **data},
        "predictions": [{"model_version": version, "result": result}],
    }


def _percent(box: Box, width_px: int, height_px: int) -> dict[str, float]:
    return {
        "x": 100 * box.x_min / width_px,
        "y": 100 * box.y_min / height_px,
        "width": 100 * (box.x_max - box.x_min) / width_px,
        "height": 100 * (box.y_max - box.y_min) / height_px,
        "rotation": 0,
    }


LABEL_CONFIG = f"""<View>
  <Image name="image" value="$image" zoom="true"/>
  <RectangleLabels name="box" toName="image"><Label value="flaw" background="red"/></RectangleLabels>
  <TextArea name="caption" toName="image" perRegion="true" required="true" maxSubmissions="1" editable="true"/>
  <Choices name="verdict" toName="image" choice="single" required="true">
    {"".join(f'<Choice value="{verdict}"/>' for verdict in Verdict)}
  </Choices>
  <Choices name="tags" toName="image" choice="multiple">
    {"".join(f'<Choice value="{tag}"/>' for tag in Tag)}
  </Choices>
</View>
"""
