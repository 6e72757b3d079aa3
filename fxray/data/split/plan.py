"""A split as a small file beside the data: which row is in which part of which fold, and of what data.

{"fxray_split": 1, "scheme": "k-fold", "seed": 0, "checksum": "...", "files": ["dataset.parquet"],
 "folds": ["0", "1"], "assignment": {"s1": "et", "s2": "tv"}}

One letter per fold: t train, v validation, e test, - left out.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fxray.data.split.schemes import LEFT_OUT, PART_NAMES, TEST, TRAIN, VALIDATION, Fold
from fxray.errors import DataError
from fxray.files import relative_path, write_atomically
from fxray.schema import Sample

VERSION = 1
LETTERS = "-tve"
SPLIT_AGAIN = "split again: fxray data split"


@dataclass(frozen=True, slots=True)
class Plan:
    """A split.

    Attributes:
        scheme: How it was made, in words.
        seed: Of all draws.
        files: The dataset files, in order.
        checksum: Of their content, of `content_checksum`.
        folds: Part of each row, in the order of files and rows.
        sample_ids: Of the rows.
    """

    scheme: str
    seed: int
    files: tuple[Path, ...]
    checksum: str
    folds: tuple[Fold, ...]
    sample_ids: tuple[str, ...]


def write_plan(path: Path, plan: Plan) -> None:
    """Writes the file, whole or not at all; dataset files are named relative to it.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    letters = np.array(list(LETTERS))
    columns = [letters[fold.parts_N] for fold in plan.folds]
    content = {
        "fxray_split": VERSION,
        "scheme": plan.scheme,
        "seed": plan.seed,
        "checksum": plan.checksum,
        "files": [relative_path(file, path.parent) for file in plan.files],
        "folds": [fold.name for fold in plan.folds],
        "assignment": {
            sample_id: "".join(row) for sample_id, row in zip(plan.sample_ids, zip(*columns, strict=True), strict=True)
        },
    }
    write_atomically(path, json.dumps(content, indent=0, ensure_ascii=False) + "\n")


def read_plan(path: Path) -> Plan:
    """Reads a split; `fxray.data.split.take` compares it with the data.

    Raises:
        DataError: It is missing, no split file, or damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["fxray_split"] != VERSION:
            raise DataError(
                f"version {content['fxray_split']!r}, expected {VERSION}", where=str(path), remedy=SPLIT_AGAIN
            )
        names, assignment = content["folds"], content["assignment"]
        parts = np.array([[LETTERS.index(letter) for letter in row] for row in assignment.values()], np.int64)
        if parts.shape != (len(assignment), len(names)) or not names:
            raise ValueError(f"{len(names)} folds, and rows of {parts.shape[1:]} letters")
        return Plan(
            scheme=str(content["scheme"]),
            seed=int(content["seed"]),
            files=tuple(path.parent / file for file in content["files"]),
            checksum=str(content["checksum"]),
            folds=tuple(Fold(str(name), parts[:, k]) for k, name in enumerate(names)),
            sample_ids=tuple(assignment),
        )
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"no split file: {str(error)[:200]}", where=str(path), remedy=SPLIT_AGAIN) from error


def content_checksum(samples: Sequence[Sample], digests: Sequence[bytes]) -> str:
    """SHA-256 of what a split depends on: ids, labels, generators, sources and images, in the order of the rows."""
    total = hashlib.sha256()
    for sample, digest in zip(samples, digests, strict=True):
        texts = (sample.sample_id, sample.annotation.verdict.value, sample.generator, sample.source)
        total.update(json.dumps(texts).encode() + digest)
    return total.hexdigest()


def counts(fold: Fold, is_generated_N: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, tuple[int, int]]:
    """Real and generated images by part."""
    return {
        PART_NAMES[part]: (
            int(((fold.parts_N == part) & ~is_generated_N).sum()),
            int(((fold.parts_N == part) & is_generated_N).sum()),
        )
        for part in (TRAIN, VALIDATION, TEST, LEFT_OUT)
    }
