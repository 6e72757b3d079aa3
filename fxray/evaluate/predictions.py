"""What a detector said of each sample, in a file that any detector can write and `evaluate` reads.

One record per sample, the same fields as a Parquet row or as a JSON line:

    sample_id  str           id in the dataset
    verdict    str or null   "real", "generated", or null where none could be read
    regions    list or null  {"box": [x_min, y_min, x_max, y_max] in pixels of the upright original, "caption": str,
                             "score": float or null, what ranks the box; all of an answer's boxes have one, or none}
    tags       list of str   names of `fxray.schema.Tag`
    answer     str or null   raw text of the model
    faults     list of str   what is wrong with the form of the answer
    is_strict  bool or null  whether the answer keeps to the grammar; null for a detector that does not speak it
    seconds    float or null time it took
    probability float or null of "generated", in [0, 1], as the detector itself gives it, before any calibration; null
                             where the verdict is

Only `sample_id` and `verdict` are required. Boxes may reach over the border; scoring clips them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from fxray.data.frame import Frame
from fxray.errors import DataError
from fxray.files import atomic_path
from fxray.grammar import parse
from fxray.grammar.views import ViewName
from fxray.schema import Box, Region, Tag, Verdict

SCHEMA_VERSION = 1
_FORMAT_KEY, _FORMAT = b"fxray.format", b"predictions"
_VERSION_KEY = b"fxray.version"
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]

UNFINISHED = "unfinished"
"""Fault of an answer that was cut at the length limit."""

_SCORE = ("score", pa.float64())
SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("verdict", pa.string()),
        pa.field("regions", pa.list_(pa.struct([("box", pa.list_(pa.float64())), ("caption", pa.string()), _SCORE]))),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("answer", pa.string()),
        pa.field("faults", pa.list_(pa.string())),
        pa.field("is_strict", pa.bool_()),
        pa.field("seconds", pa.float64()),
        pa.field("probability", pa.float64()),
    ],
    metadata={_FORMAT_KEY: _FORMAT, _VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


class _RegionRecord(BaseModel):
    model_config = ConfigDict(extra="forbid")

    box: tuple[_Number, _Number, _Number, _Number]
    caption: StrictStr = ""
    score: _Number | None = None

    @field_validator("box")
    @classmethod
    def _has_area(cls, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError("needs x_min < x_max and y_min < y_max")
        return box


class _Record(BaseModel):
    """The shape of one record; a list may be null, as Parquet writers leave it."""

    model_config = ConfigDict(extra="forbid")

    sample_id: Annotated[StrictStr, Field(min_length=1)]
    verdict: Verdict | None
    regions: tuple[_RegionRecord, ...] | None = None
    tags: tuple[Tag, ...] | None = None
    answer: StrictStr | None = None
    faults: tuple[StrictStr, ...] | None = None
    is_strict: StrictBool | None = None
    seconds: Annotated[_Number, Field(ge=0)] | None = None
    probability: Annotated[_Number, Field(ge=0, le=1)] | None = None

    @field_validator("regions")
    @classmethod
    def _all_scored_or_none(cls, regions: tuple[_RegionRecord, ...] | None) -> tuple[_RegionRecord, ...] | None:
        if len({region.score is None for region in regions or ()}) > 1:
            raise ValueError("needs a score for every box, or for none")
        return regions

    @field_validator("probability")
    @classmethod
    def _only_of_a_verdict(cls, probability: float | None, info: ValidationInfo) -> float | None:
        if probability is not None and info.data.get("verdict", Verdict.REAL) is None:
            raise ValueError("needs a verdict: an answer that could not be read has no probability")
        return probability


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a detector said of one sample; boxes in pixels of the upright original image.

    Attributes:
        sample_id: Id in the dataset, or the path of the image.
        verdict: None where no verdict could be read.
        regions: Flaws it points at.
        tags: Image-level tags.
        answer: Raw text of the model; None for a detector that writes none.
        faults: What is wrong with the form of the answer.
        is_strict: Whether the answer keeps to the grammar; None for a detector that does not speak it.
        seconds: Time it took, None where nobody measured.
        probability: Of "generated" as the detector itself gives it; None where it gives none, or there is no verdict.
        box_scores: One per region where the detector ranks its boxes, else empty.
    """

    sample_id: str
    verdict: Verdict | None
    regions: tuple[Region, ...] = ()
    tags: tuple[Tag, ...] = ()
    answer: str | None = None
    faults: tuple[str, ...] = ()
    is_strict: bool | None = None
    seconds: float | None = None
    probability: float | None = None
    box_scores: tuple[float, ...] = ()


def from_answer(
    sample_id: str,
    frame: Frame,
    text: str,
    *,
    is_finished: bool = True,
    seconds: float | None = None,
    probability: float | None = None,
    view: ViewName = "full",
) -> Prediction:
    """Reads an answer and brings its boxes into the original image: the one place on the way out.

    Args:
        sample_id: Id in the dataset.
        frame: Original and model frame of the image.
        text: Decoded answer, special tokens kept.
        is_finished: False where the answer was cut at the length limit.
        seconds: Time it took.
        probability: Of "generated" where the answer chose its verdict.
        view: What the answer was to speak of.
    """
    parsed = parse(text, view=view).clipped(frame.box_width, frame.box_height)
    faults = tuple(dict.fromkeys(fault.kind.value for fault in parsed.faults))
    return Prediction(
        sample_id=sample_id,
        verdict=parsed.verdict,
        regions=tuple(Region(frame.to_original(region.box), region.caption) for region in parsed.regions),
        tags=parsed.tags,
        answer=text,
        faults=faults if is_finished else (*faults, UNFINISHED),
        is_strict=parsed.is_strict,
        seconds=seconds,
        probability=probability if parsed.verdict else None,
    )


def write_predictions(predictions: Iterable[Prediction], path: Path, *, has_boxes: bool = True) -> None:
    """Writes a predictions file whole or not at all: JSON lines where the name ends in .jsonl, else Parquet.

    Args:
        predictions: One per sample.
        path: Where to.
        has_boxes: False for a detector that was taught none: whoever reads the file does not take it for one that
            found nothing.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    records = [_as_record(prediction, has_boxes) for prediction in predictions]
    with atomic_path(path) as aside:
        if path.suffix == ".jsonl":
            aside.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
        else:
            pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), aside, compression="zstd")


def read_predictions(path: Path) -> list[Prediction]:
    """Reads a predictions file and checks every field.

    Raises:
        DataError: The file is missing, is no predictions file, or records in it are not; names rows and fields.
    """
    return read_with_fields(path)[0]


def read_with_fields(path: Path) -> tuple[list[Prediction], set[str]]:
    """As `read_predictions`, with the names of the fields that any record fills: one that none has is not spoken of.

    Raises:
        DataError: As there.
    """
    if not path.is_file():
        raise DataError("no such predictions file", where=str(path), remedy="write it with `fxray evaluate`")
    predictions: dict[str, Prediction] = {}
    faults, filled = list[DataError](), set[str]()
    rows = _json_rows(path) if path.suffix == ".jsonl" else _parquet_rows(path)
    for where, record in rows:
        try:
            if isinstance(record, DataError):
                raise record
            prediction = _from_record(record, where)
            if prediction.sample_id in predictions:
                name, remedy = prediction.sample_id, "keep one row per sample"
                raise DataError(f"sample {name!r} was predicted before", where=where, remedy=remedy)
            predictions[prediction.sample_id] = prediction
            filled |= {name for name, value in record.items() if value is not None}
        except DataError as error:
            faults.append(error)
    _refuse(faults, path)
    return list(predictions.values()), filled


def _refuse(faults: Sequence[DataError], path: Path) -> None:
    """Names every row that is wrong, up to ten of them.

    Raises:
        DataError: One is.
    """
    if len(faults) == 1:
        raise faults[0]
    if faults:
        listed = "; ".join(f"{fault.where.removeprefix(f'{path}, ')}: {fault.message}" for fault in faults[:10])
        rest = f"; and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise DataError(f"{len(faults)} faults: {listed}{rest}", where=str(path), remedy=faults[0].remedy)


def _as_record(prediction: Prediction, has_boxes: bool) -> dict[str, Any]:
    return {
        "sample_id": prediction.sample_id,
        "verdict": prediction.verdict.value if prediction.verdict else None,
        "regions": [
            {"box": list(map(float, region.box)), "caption": region.caption, "score": score}
            for region, score in zip_longest(prediction.regions, prediction.box_scores)
        ]
        if has_boxes
        else None,
        "tags": [tag.value for tag in prediction.tags],
        "answer": prediction.answer,
        "faults": list(prediction.faults),
        "is_strict": prediction.is_strict,
        "seconds": prediction.seconds,
        "probability": prediction.probability,
    }


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | DataError]]:
    """Records, and for lines that hold none what is wrong with them."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where, remedy = f"{path}, line {number}", "write one object per line, in UTF-8"
            if not line.strip():
                continue
            try:
                record = json.loads(str(line, "utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield where, DataError(f"not JSON: {error}", where=where, remedy=remedy)
                continue
            said = line[:60].decode("utf-8", "replace").strip()
            no_object = DataError(f"{said!r} is no object", where=where, remedy=remedy)
            yield where, record if isinstance(record, dict) else no_object


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | DataError]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"not readable as Parquet: {error}",
            where=str(path),
            remedy="write Parquet, or JSON lines named *.jsonl; `fxray evaluate` also reads CSV named *.csv, COCO "
            "results named *.json and folders of masks",
        ) from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"1").decode("ascii", "replace")
    if version != str(SCHEMA_VERSION):
        raise DataError(
            f"predictions of format version {version}, this fxray reads version {SCHEMA_VERSION}",
            where=str(path),
            remedy="read it with the fxray that wrote it, or write it anew",
        )
    for number, record in enumerate(table.to_pylist()):
        yield f"{path}, row {number}", record


def _from_record(record: Mapping[str, Any], where: str) -> Prediction:
    try:
        row = _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        name, got = ".".join(str(part) for part in first["loc"]), "" if first["type"] == "missing" else first["input"]
        raise DataError(
            f"field `{name}`: {first['msg']}" + (f", got {got!r:.80}" if got != "" else ""),
            where=where,
            remedy=f"correct it; the fields of a prediction are {', '.join(SCHEMA.names)}",
        ) from error
    return Prediction(
        sample_id=row.sample_id,
        verdict=row.verdict,
        regions=tuple(Region(Box(*region.box), region.caption) for region in row.regions or ()),
        tags=row.tags or (),
        answer=row.answer,
        faults=row.faults or (),
        is_strict=row.is_strict,
        seconds=row.seconds,
        probability=row.probability,
        box_scores=tuple(region.score for region in row.regions or () if region.score is not None),
    )
