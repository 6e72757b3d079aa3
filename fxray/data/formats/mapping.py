"""Any JSON, described by a small YAML file: where the rows are, and for each field a JMESPath expression on a row.

    rows: images                      the list or object of rows; leave it out where the file itself is that
    fields:
      image: file.name                required
      regions: 'flaws[*].{box: bbox, caption: text}'
      label: kind
      tags: problems
    boxes: xywh                       or xyxy (the default), or points
    unit: pixels                      or percent, permille, fraction
    frame: displayed                  or stored
    labels: {ai: generated}           words of the file that stand for real and generated
    tags: {hand: structure errors}    words of the file that stand for tags

Where rows are an object's values, an expression sees `{key: ..., value: ...}`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jmespath
import yaml
from jmespath.exceptions import JMESPathError
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from fxray.data.formats import fields, stream
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Finding, Frame, Place, RawRegion, Record, Rows, Unit, read_each
from fxray.errors import ConfigError
from fxray.schema import Tag, Verdict


class Fields(BaseModel):
    """A JMESPath expression for each field; regions give a list of `{box, caption}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    regions: str | None = None
    tags: str | None = None
    label: str | None = None
    sample_id: str | None = None
    generator: str | None = None
    category: str | None = None
    source: str | None = None
    annotator: str | None = None


class _Loader(yaml.SafeLoader):
    """YAML whose only truth values are true and false: `yes: generated` is about the word, as in YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class Layout(BaseModel):
    """What a mapping file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: str = ""
    fields: Fields
    boxes: Literal["xyxy", "xywh", "points"] = "xyxy"
    unit: Unit = "pixels"
    frame: Frame = "displayed"
    labels: dict[str, Verdict] = {}
    tags: dict[str, Tag] = {}

    @field_validator("labels", "tags", mode="before")
    @classmethod
    def _words(cls, words: Any) -> Any:
        """YAML reads 0, 1, true as no text, and files label with them."""
        if not isinstance(words, dict):
            return words
        return {fields.optional_text(word, "word"): name for word, name in words.items()}


def load_mapping(path: Path) -> Layout:
    """Reads and checks a mapping file.

    Raises:
        ConfigError: It is missing, no YAML, or holds a field or an expression that is none.
    """
    remedy = "see docs/data-formats.md for a mapping file"
    try:
        layout = Layout.model_validate(yaml.load(path.read_bytes(), _Loader))  # noqa: S506  a SafeLoader
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"no YAML: {error}", where=str(path), remedy=remedy) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "file"
        raise ConfigError(
            f"field {name}: {first['msg']}, got {first['input']!r:.80}", where=str(path), remedy=remedy
        ) from error
    for name, expression in layout.fields:
        try:
            jmespath.compile(expression or "@")
        except JMESPathError as error:
            raise ConfigError(
                f"field fields.{name}: {str(error).strip()}", where=str(path), remedy="see https://jmespath.org"
            ) from error
    return layout


def read_mapped(src: Path, images: Images, layout: Layout) -> Rows:
    """One record per row of a JSON file, of JSON lines, or of the JSON files below a folder.

    Raises:
        DataError: There is no file, or it is no JSON.
    """
    compiled = {name: jmespath.compile(expression) for name, expression in layout.fields if expression}
    raw = stream.of_documents(src, ".json", lambda path: _rows(path, layout))
    return read_each(raw, lambda place, row: _read_row(place, row, images, layout, compiled))


def _rows(path: Path, layout: Layout) -> Any:
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return stream.lines(path)
    is_object = stream.first_key(path) is not None
    if not layout.rows and not is_object:
        return stream.items(path, "", "row")
    if not stream.is_object(path, layout.rows):
        return stream.items(path, layout.rows, "row")
    return (
        row if isinstance(row, Finding) else (row[0], {"key": row[0].row, "value": row[1]})
        for row in stream.entries(path, layout.rows)
    )


def _read_row(place: Place, row: Any, images: Images, layout: Layout, compiled: Mapping[str, Any]) -> Record:
    def got(name: str) -> Any:
        try:
            return compiled[name].search(row) if name in compiled else None
        except JMESPathError as error:
            raise FieldProblem(name, getattr(layout.fields, name), f"does not fit the row: {error}") from error

    name = fields.text(got("image"), f"image ({layout.fields.image})")
    label = fields.optional_text(got("label"), "label")
    if label in layout.labels:
        label = layout.labels[label].value
    tags = [layout.tags.get(tag, tag) for tag in _words(got("tags"), "tags")]
    regions = [
        _region(fields.mapping(region, f"regions[{index}]"), f"regions[{index}]", layout)
        for index, region in enumerate(fields.sequence(got("regions"), "regions"))
    ]
    return Record(
        place=place,
        image=images.find(name, "image"),
        image_field="image",
        name=name,
        regions=tuple(regions),
        tags=tuple(tags),
        unit=layout.unit,
        label=label,
        **fields.origin({key: got(key) for key in fields.Origin.__annotations__}),
    )


def _words(value: Any, field: str) -> tuple[str, ...]:
    """A list of words or one of them, which may be numbers or truth values, as in the mapping file."""
    if isinstance(value, list):
        value = [fields.optional_text(item, f"{field}[{index}]") for index, item in enumerate(value)]
    elif isinstance(value, int | float):
        value = fields.optional_text(value, field)
    return fields.texts(value, field)


def _region(region: Mapping[str, Any], field: str, layout: Layout) -> RawRegion:
    box, where = region.get("box"), f"{field}.box"
    if layout.boxes == "points":
        corners = fields.around_pairs(box, where)
    else:
        numbers = fields.four_numbers(box, where)
        corners = fields.from_xywh(numbers) if layout.boxes == "xywh" else numbers
    return RawRegion(corners, fields.optional_text(region.get("caption"), f"{field}.caption") or "", where)
