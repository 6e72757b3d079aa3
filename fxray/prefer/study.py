"""Makes a study: which images, which pairs of annotations of each, which attention checks."""

import io
import json
import random
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from PIL import Image

from fxray import __version__
from fxray.counts import counted
from fxray.data.dataset import Dataset
from fxray.data.images import decode_image
from fxray.draw import fitted
from fxray.errors import DataError
from fxray.evaluate.groups import has_planted_defects
from fxray.files import file_sha256
from fxray.prefer.checks import spoil
from fxray.prefer.marking import Marking, marking_of, to_wire
from fxray.prefer.sources import Said, Source, check_names, read_source, refuse_missing
from fxray.prefer.store import new_study, now
from fxray.schema import Verdict

CHECK_POOL = 4
"""Checks in a study, for each that a rater gets: raters who talk do not tell each other all of them."""
_JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study asks.

    Attributes:
        num_images: Drawn from the dataset; None for all.
        with_real: Also real images, which carry no boxes in the truth.
        pairs_per_rater: For each human; None for all pairs.
        checks_per_rater: Attention checks for each human and each judge, beside the pairs.
        max_side_px: Larger images are reduced.
        threshold: Score from which an image counts as generated, where a file has no verdicts.
        seed: Of the images, and of every rater's order.
    """

    num_images: int | None
    with_real: bool
    pairs_per_rater: int | None
    checks_per_rater: int
    max_side_px: int
    threshold: float
    seed: int


@dataclass(frozen=True, slots=True)
class Made:
    """How large a study came out; pairs whose two annotations say the same are left out and counted."""

    num_images: int
    num_pairs: int
    num_identical: int
    num_checks: int


def create_study(
    path: Path, data: Path, sources: Sequence[Source], plan: Plan, told: Callable[[int, int], None]
) -> Made:
    """Writes a study file.

    Args:
        path: Of the study; nothing may be there.
        data: A dataset file of fxray.
        sources: Two or more.
        plan: What is asked.
        told: Called with the number of images that are done, and of all.

    Raises:
        DataError: Names are malformed or given twice, a file cannot be read or lacks images of the study, or nothing
            is left to compare.
    """
    check_names(sources)
    dataset = Dataset.open(data)
    said = [read_source(source, dataset.samples, plan.threshold) for source in sources]
    rng = random.Random(plan.seed)
    rows = _eligible(dataset, with_real=plan.with_real)
    chosen = sorted(rng.sample(rows, min(plan.num_images or len(rows), len(rows))))
    refuse_missing(sources, said, [dataset.samples[row].sample_id for row in chosen])
    checks = _choose_checks(dataset, chosen, plan, rng)
    facts = _facts(path, dataset, sources, plan)
    in_study, num_pairs = set(chosen), 0
    with new_study(path, facts) as connection:
        connection.executemany("INSERT INTO source VALUES (?, ?)", enumerate(source.name for source in sources))
        for done, row in enumerate(rows := sorted({*chosen, *checks}), start=1):
            sample = dataset.samples[row]
            opinions: list[tuple[int | None, Said]] = []
            if row in in_study:
                opinions += enumerate(by_id[sample.sample_id] for by_id in said)
            if row in checks:
                truth = sample.annotation.verdict, sample.annotation.regions
                opinions += [(None, truth), (None, checks[row])]
            image_id, annotations = _add_image(connection, dataset, row, plan.max_side_px, opinions)
            num_pairs += _add_pairs(connection, image_id, annotations)
            told(done, len(rows))
        facts["num_identical"] = len(chosen) * len(sources) * (len(sources) - 1) // 2 - num_pairs
        if num_pairs == 0:
            raise DataError(
                f"the sources say the same of all {len(chosen)} images",
                where="--source",
                remedy="name sources that differ, or more images",
            )
    return Made(len(chosen), num_pairs, facts["num_identical"], len(checks))


def _facts(path: Path, dataset: Dataset, sources: Sequence[Source], plan: Plan) -> dict[str, Any]:
    sums = {
        source.name: file_sha256(source.file) if source.file and source.file.is_file() else None for source in sources
    }
    return {
        "name": path.stem.encode("utf-8", "backslashreplace").decode(),
        "made_at": now(), "fxray": __version__, "seed": plan.seed,
        "data": dataset.path.name, "data_sha256": file_sha256(dataset.path),
        "sources": [{"name": name, "sha256": found} for name, found in sums.items()],
        "is_synthetic": has_planted_defects(sample.generator for sample in dataset.samples),
        "pairs_per_rater": plan.pairs_per_rater, "checks_per_rater": plan.checks_per_rater,
    }  # fmt: skip


def _eligible(dataset: Dataset, *, with_real: bool) -> list[int]:
    rows = [
        row for row, sample in enumerate(dataset.samples) if with_real or sample.annotation.verdict is Verdict.GENERATED
    ]
    if not rows:
        raise DataError("no generated image", where=str(dataset.path), remedy="give --with-real, or another dataset")
    return rows


def _choose_checks(dataset: Dataset, chosen: Sequence[int], plan: Plan, rng: random.Random) -> dict[int, Said]:
    """Rows that give an attention check, and their plainly wrong side; first those outside the study."""
    if plan.checks_per_rater == 0:
        return {}
    marked = [row for row, sample in enumerate(dataset.samples) if sample.annotation.regions]
    rng.shuffle(marked)
    found, in_study = dict[int, Said](), set(chosen)
    for row in sorted(marked, key=in_study.__contains__):
        for other in rng.sample(marked, min(len(marked), 10)):
            captions = [region.caption for region in dataset.samples[other].annotation.regions]
            if wrong := spoil(dataset.samples[row], captions):
                found[row] = dataset.samples[row].annotation.verdict, wrong
                break
        if len(found) == CHECK_POOL * plan.checks_per_rater:
            break
    if len(found) < plan.checks_per_rater:
        raise DataError(
            f"{counted(len(found), 'image gives', 'images give')} an attention check, expected "
            f"{plan.checks_per_rater}: they need true boxes with "
            "room beside them, and captions of their own",
            where=str(dataset.path),
            remedy="ask for fewer with --checks, 0 for none",
        )
    return found


def _add_image(
    connection: sqlite3.Connection,
    dataset: Dataset,
    row: int,
    max_side_px: int,
    said: Sequence[tuple[int | None, Said]],
) -> tuple[int, list[tuple[int, int | None, Marking]]]:
    """Adds an image without its metadata, and annotations of it; their ids and sources beside them."""
    sample = dataset.samples[row]
    image = decode_image(dataset.image_bytes(row), f"{dataset.path} row {row}")
    shown, moved = fitted(image, [region for _, (_, regions) in said for region in regions], max_side_px)
    size, left = shown.size, iter(moved)
    image_id = connection.execute(
        "INSERT INTO image (sample_id, width_px, height_px, jpeg) VALUES (?, ?, ?, ?)",
        (sample.sample_id, *size, _jpeg(shown)),
    ).lastrowid
    added = []
    for source_id, (verdict, regions) in said:
        marking = marking_of(verdict, [next(left) for _ in regions], *size)
        wire = to_wire(marking)
        annotation_id = connection.execute(
            "INSERT INTO annotation (image_id, source_id, verdict, regions) VALUES (?, ?, ?, ?)",
            (image_id, source_id, wire["verdict"], json.dumps(wire["regions"], ensure_ascii=False)),
        ).lastrowid
        added.append((annotation_id or 0, source_id, marking))
    return image_id or 0, added


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return out.getvalue()


def _add_pairs(
    connection: sqlite3.Connection, image_id: int, annotations: Sequence[tuple[int, int | None, Marking]]
) -> int:
    """Adds every two annotations of sources as a pair, unless they are equal, and the two of a check.

    Returns:
        The number of pairs of sources.
    """
    of_sources = [(key, marking) for key, source_id, marking in annotations if source_id is not None]
    of_check = [key for key, source_id, _ in annotations if source_id is None]
    pairs = [(image_id, a, b, 0) for (a, one), (b, other) in combinations(of_sources, 2) if one != other]
    checks = [(image_id, *of_check, 1)] if of_check else []
    connection.executemany("INSERT INTO pair (image_id, a, b, is_check) VALUES (?, ?, ?, ?)", [*pairs, *checks])
    return len(pairs)
