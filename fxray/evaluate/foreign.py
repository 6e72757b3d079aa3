"""Predictions as other tools write them: a CSV file of labels or scores, COCO results, a folder of masks.

What such a file cannot say follows from stated rules. A score of an image is a probability of "generated"; a threshold
decides where there is no label. COCO results and masks hold no verdict: an image is generated where a box scores at
least the threshold, or where anything is masked. Every row that cannot be read is listed, and then nothing is scored.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxray.counts import counted
from fxray.data.formats import stream
from fxray.data.formats.coco import ANNOTATIONS
from fxray.data.formats.record import Finding
from fxray.data.images import decode_image, open_image, read_image_file
from fxray.data.separators import remedy_for_columns
from fxray.errors import DataError
from fxray.evaluate.predictions import Prediction, read_with_fields
from fxray.grammar.lenient import VERDICT_WORDS
from fxray.schema import Box, Region, Sample, Verdict

MASK_LEVEL = 128
"""Grey value, of 255, from which a pixel of a mask counts."""
_MAX_LISTED = 10
_FILES = {".parquet", ".jsonl", ".csv", ".json"}
_LABELS = VERDICT_WORDS | {"0": Verdict.REAL, "1": Verdict.GENERATED, "0.0": Verdict.REAL, "1.0": Verdict.GENERATED}


@dataclass(frozen=True, slots=True)
class Foreign:
    """What was read: one prediction per sample that the file speaks of, and whether it can hold boxes.

    JSON lines and Parquet can where any record has `regions`, be they none.
    """

    predictions: list[Prediction]
    has_boxes: bool


def read_any(path: Path, samples: Sequence[Sample], *, threshold: float) -> Foreign:
    """Reads predictions in any of the formats: Parquet, .jsonl, .csv, .json (COCO results), a folder of masks.

    Args:
        path: The file or folder; its ending decides the format.
        samples: The truth, whose ids and sizes the files of other tools refer to.
        threshold: Score from which an image counts as generated, where only a score says so.

    Raises:
        DataError: It is missing or not of its format, its boxes are no pixels, or rows of it cannot be read; up to ten
            are listed.
    """
    if path.is_dir():
        return Foreign(read_masks(path, samples), has_boxes=True)
    if not path.exists():
        raise DataError("no such predictions file or folder", where=str(path), remedy="check the path")
    if path.suffix.lower() == ".csv":
        return Foreign(read_csv(path, threshold=threshold), has_boxes=False)
    if path.suffix.lower() == ".json":
        predictions, has_boxes = read_coco_results(path, samples, threshold=threshold), True
    else:
        predictions, filled = read_with_fields(path)
        has_boxes = "regions" in filled
    _refuse_fractions(predictions, path)
    return Foreign(predictions, has_boxes)


def _refuse_fractions(predictions: Sequence[Prediction], path: Path) -> None:
    """Sees to it that boxes of other detectors are not all within the first pixel, where no score would find them."""
    ends = [max(region.box) for said in predictions if said.answer is None for region in said.regions]
    if ends and max(ends) <= 1:
        raise DataError(
            f"none of {counted(len(ends), 'box', 'boxes')} ends beyond 1, as if they were parts of the sides",
            where=str(path),
            remedy="write boxes in pixels of the upright image",
        )


def read_csv(path: Path, *, threshold: float) -> list[Prediction]:
    """Reads columns `sample_id` and `label` or `score` or both.

    Args:
        path: A file whose first line names the columns; others than these are ignored.
        threshold: Score from which an image without a label counts as generated.

    Raises:
        DataError: See `read_any`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            rows, columns = [(reader.line_num, row) for row in reader], Counter(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"not readable as CSV: {error}", where=str(path), remedy="write UTF-8 text") from error
    if "sample_id" not in columns or not columns.keys() & {"label", "score"}:
        raise DataError(
            f"columns {', '.join(sorted(map(str, columns))) or 'none'}; expected sample_id, and label or score or both",
            where=str(path),
            remedy=remedy_for_columns(list(map(str, columns)), "name the columns so in the first line"),
        )
    if twice := [name for name in ("sample_id", "label", "score") if columns[name] > 1]:
        raise DataError(f"several columns {', '.join(twice)}", where=str(path), remedy="keep one of each")
    if not 0 <= threshold <= 1 and not all(row.get("label") for _, row in rows):
        raise DataError(
            f"the threshold {threshold:g} decides about rows without a label, and scores lie in [0, 1]",
            where=str(path),
            remedy="give --threshold in [0, 1]",
        )
    faults, read = list[str](), dict[str, Prediction]()
    for number, row in rows:
        try:
            prediction = _from_row(row, threshold)
            if prediction.sample_id in read:
                raise ValueError(f"sample {prediction.sample_id!r} was predicted before")
            read[prediction.sample_id] = prediction
        except ValueError as error:
            faults.append(f"line {number}: {error}")
    _refuse(faults, path, "correct these rows; a score is a probability of generated, in [0, 1]")
    return list(read.values())


def read_coco_results(path: Path, samples: Sequence[Sample], *, threshold: float) -> list[Prediction]:
    """Reads a list of `{"image_id": ..., "bbox": [x, y, width, height], "score": ...}`.

    Args:
        path: The file; other fields are ignored.
        samples: `image_id` is the id of one of them, or of an image in the COCO file `annotations.json` beside the
            results: that image's `sample_id`, as `fxray data export coco` writes it, else its `file_name`, names one.
        threshold: An image is generated where a box scores at least so much.

    Returns:
        One prediction per sample; one that no result names has no box and is real. The best score of an image, 0
        without a box, is its probability where all scores lie in [0, 1].

    Raises:
        DataError: See `read_any`.
    """
    try:
        results = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", where=str(path), remedy="write a list of COCO results") from error
    if not isinstance(results, list):
        raise DataError("holds no list", where=str(path), remedy="write a list of COCO results, not a whole dataset")
    found: dict[str, list[tuple[Box, float]]] = {sample.sample_id: [] for sample in samples}
    named = _named_beside(path, results, found)
    faults = []
    for number, result in enumerate(results):
        try:
            key = result["image_id"]
            sample_id = named.get(key, key)
            if isinstance(key, bool) or sample_id not in found:
                raise ValueError(f"image_id {key!r} is not in the dataset")
            found[sample_id].append((_coco_box(result["bbox"]), _number(result["score"], "score")))
        except (LookupError, TypeError, ValueError) as error:
            said = f"field {error} is missing" if isinstance(error, KeyError) else error
            faults.append(f"result {number}: {said}")
    _refuse(faults, path, "correct these results")
    is_probability = all(0 <= score <= 1 for boxes in found.values() for _, score in boxes)
    return [_from_boxes(name, boxes, threshold, is_probability=is_probability) for name, boxes in found.items()]


def _named_beside(path: Path, results: list[Any], known: Collection[str]) -> dict[Any, str]:
    """Sample ids by the image ids of the COCO file beside a file of results, where these do not name samples already.

    Raises:
        DataError: They are numbers and no such file is there, or it cannot be read.
    """
    keys = [result.get("image_id") for result in results if isinstance(result, dict)]
    images = path.with_name(ANNOTATIONS)
    if all(isinstance(key, str) and key in known for key in keys):
        return {}
    if not images.is_file():
        if numbers := [key for key in keys if isinstance(key, int | float) and not isinstance(key, bool)]:
            raise DataError(
                f"image_id {numbers[0]} is a number, and no file says of which image",
                where=str(path),
                remedy=f"lay the COCO file that was predicted beside it as {ANNOTATIONS}, or write sample ids",
            )
        return {}
    named: dict[Any, str] = {}
    for raw in stream.items(images, "images", "image"):
        if isinstance(raw, Finding):
            raise DataError(raw.reason, where=str(images), remedy="export the COCO file again")
        row = raw[1] if isinstance(raw[1], dict) else {}
        key, name = row.get("id"), row.get("sample_id") or row.get("file_name")
        if isinstance(key, int | str) and isinstance(name, str) and key not in known:
            named[key] = name
    counts = Counter(named.values())
    return {key: name for key, name in named.items() if counts[name] == 1}  # of two images of a name none is meant


def read_masks(folder: Path, samples: Sequence[Sample]) -> list[Prediction]:
    """Reads one image per sample, `<sample_id>.png`, of the upright original's size.

    Args:
        folder: Pixels from half of white up are masked; pixels that touch, also at a corner, are one region, and its
            box is what is predicted.
        samples: The truth; each needs its mask, a black one where nothing is found.

    Raises:
        DataError: See `read_any`; also for masks of other sizes, missing ones, ones of no sample, ones that are white
            where they are transparent, and where all are dark but not all are of one colour, as masks of 0 and 1, of
            class colours, of 0 and 255 in 16 bits, or of transparency alone are.
    """
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.png"))}
    if samples and not files:
        others = [str(file) for file in sorted(folder.iterdir()) if file.suffix.lower() in _FILES]
        remedy = f"give the file itself: {' or '.join(others)}" if others else "write <sample_id>.png for each sample"
        raise DataError("a folder holds masks, and there is no PNG in this one", where=str(folder), remedy=remedy)
    faults = [f"{name}.png is of no sample" for name in files.keys() - {sample.sample_id for sample in samples}]
    predictions, brightest, says_more = list[Prediction](), 0, False
    for sample in samples:
        try:
            grey_HW, is_plain = _mask(files, folder, sample)
        except DataError as error:
            faults.append(f"{sample.sample_id}.png: {error.message}")
            continue
        brightest, says_more = max(brightest, int(grey_HW.max())), says_more or not is_plain
        boxes = [Region(box, "") for box in boxes_of_mask(grey_HW >= MASK_LEVEL)]
        verdict = Verdict.GENERATED if boxes else Verdict.REAL
        predictions.append(Prediction(sample.sample_id, verdict, tuple(boxes)))
    _refuse(sorted(faults), folder, "write one mask per sample, as large as its upright image")
    if brightest < MASK_LEVEL and (brightest or says_more):
        raise DataError(
            f"the brightest pixel of all masks is {brightest} of 255, and only pixels from {MASK_LEVEL} up are masked",
            where=str(folder),
            remedy="write grey of 8 bits, 255 where something is found, 0 elsewhere",
        )
    return predictions


def boxes_of_mask(is_masked_HW: NDArray[np.bool_]) -> list[Box]:
    """The boxes around the connected parts of a mask, in pixels; pixels that touch at a corner are connected."""
    from scipy.ndimage import find_objects, label

    numbered, _ = label(is_masked_HW, structure=np.ones((3, 3)))
    return [Box(float(x.start), float(y.start), float(x.stop), float(y.stop)) for y, x in find_objects(numbered)]


def _mask(files: Mapping[str, Path], folder: Path, sample: Sample) -> tuple[NDArray[np.uint8], bool]:
    """The grey levels of a sample's mask, and whether its file is of one colour."""
    file = files.get(sample.sample_id)
    if file is None:
        raise DataError("there is no such mask")
    encoded = read_image_file(file, str(folder))
    image = decode_image(encoded, str(file)).convert("L")
    if image.size != (sample.width_px, sample.height_px):
        size = f"{image.width}x{image.height}"
        raise DataError(f"{size} px, expected {sample.width_px}x{sample.height_px}")
    stored, grey_HW = open_image(encoded, str(file)), np.asarray(image)
    pixels = np.asarray(stored)
    if stored.has_transparency_data:
        is_seen_HW = np.asarray(stored.convert("RGBA"))[..., 3] > 0
        if (~is_seen_HW & (grey_HW >= MASK_LEVEL)).any():
            raise DataError("white where it is transparent, so it says both that something is found there and not")
    return grey_HW, bool((pixels == pixels[0, 0]).all())


def _from_row(row: Mapping[str, str | None], threshold: float) -> Prediction:
    sample_id, label, text = (row.get(name) or "" for name in ("sample_id", "label", "score"))
    if not sample_id:
        raise ValueError("no sample_id")
    score = _number(text, "score") if text else None
    if score is not None and not 0 <= score <= 1:
        raise ValueError(f"score {text} lies outside [0, 1]")
    if label and label.strip().lower() not in _LABELS:
        raise ValueError(f"label {label!r:.60}, expected one of {', '.join(_LABELS)}")
    if not label and score is None:
        raise ValueError("neither label nor score")
    by_score = Verdict.GENERATED if score is not None and score >= threshold else Verdict.REAL
    return Prediction(sample_id, _LABELS[label.strip().lower()] if label else by_score, probability=score)


def _from_boxes(
    sample_id: str, boxes: Sequence[tuple[Box, float]], threshold: float, *, is_probability: bool
) -> Prediction:
    best = max((score for _, score in boxes), default=None)
    verdict = Verdict.GENERATED if best is not None and best >= threshold else Verdict.REAL
    return Prediction(
        sample_id,
        verdict,
        tuple(Region(box, "") for box, _ in boxes),
        probability=(best or 0.0) if is_probability else None,
        box_scores=tuple(score for _, score in boxes),
    )


def _coco_box(numbers: Any) -> Box:
    x, y, width, height = (_number(number, "bbox") for number in numbers)
    if width <= 0 or height <= 0:
        raise ValueError(f"bbox {numbers!r:.80} has no area")
    return Box(x, y, x + width, y + height)


def _number(value: Any, name: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} {value!r:.60} is no finite number")
    return number


def _refuse(faults: Sequence[str], path: Path, remedy: str) -> None:
    """Lists what is wrong, if anything is.

    Raises:
        DataError: Something is.
    """
    if not faults:
        return
    listed = "; ".join(faults[:_MAX_LISTED])
    rest = f"; and {len(faults) - _MAX_LISTED} more" if len(faults) > _MAX_LISTED else ""
    raise DataError(f"{counted(len(faults), 'fault')}: {listed}{rest}", where=str(path), remedy=remedy)
