"""Ratings of images, and the choice of the best of each kind (paper section 3: three volunteers rated each image)."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fxray.counts import counted
from fxray.data.order import derived_seed
from fxray.data.separators import remedy_for_columns
from fxray.errors import DataError
from fxray.schema import Sample, Verdict

COLUMNS = ("sample_id", "rater", "rating")
MAX_NAMED = 20
"""Bad rows that an error names; it counts the others."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The images of one category by one generator.

    Attributes:
        category: What they show.
        generator: Who made them.
        num_rated: How many there are.
        num_kept: How many are chosen.
        lowest_kept: Lowest mean rating among the chosen.
    """

    category: str
    generator: str
    num_rated: int
    num_kept: int
    lowest_kept: float


def read_ratings(
    path: Path, known_ids: frozenset[str], *, per_image: int, scale: tuple[float, float] | None
) -> dict[str, tuple[float, ...]]:
    """Reads a CSV file of ratings, one a row, with the columns sample_id, rater and rating.

    Args:
        path: UTF-8, with a header; further columns are ignored.
        known_ids: Images that may be rated.
        per_image: Ratings that each rated image must have, from so many raters.
        scale: Lowest and highest rating; None allows any number.

    Returns:
        Ratings by sample id.

    Raises:
        DataError: It names every row that cannot be used (the first 20), with line, field and value.
    """
    by_image: dict[str, dict[str, tuple[int, float]]] = {}
    problems = []
    for line, record in _records(path):
        problem = _problem(record, known_ids, scale)
        if not problem:
            given = by_image.setdefault(record["sample_id"], {})
            if record["rater"] in given:
                before = given[record["rater"]][0]
                problem = f"rater: {record['rater']!r} rated {record['sample_id']!r} before, on line {before}"
            else:
                given[record["rater"]] = (line, float(record["rating"]))
        if problem:
            problems.append(f"line {line}, field {problem}")
    if not problems:  # a bad row also leaves its image with too few
        problems = [
            f"{_lines(given)}: {sample_id!r} has {counted(len(given), 'rating')}, expected {per_image}"
            for sample_id, given in by_image.items()
            if len(given) != per_image
        ]
    if problems:
        listed = "\n  ".join(problems[:MAX_NAMED])
        more = f"\n  and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise DataError(
            f"{counted(len(problems), 'problem')} with ratings:\n  {listed}{more}",
            where=str(path),
            remedy=f"mend these rows; each image needs {counted(per_image, 'rating')} by different raters (--ratings)",
        )
    return {sample_id: tuple(rating for _, rating in given.values()) for sample_id, given in by_image.items()}


def choose(
    samples: Sequence[Sample], ratings: Mapping[str, Sequence[float]], *, top: int, seed: int
) -> tuple[list[int], list[Cell]]:
    """The best images of each category and generator by mean rating; real images stay as they are.

    Equal means are settled by the lowest rating, the higher one first, then by lot (seed and sample id).

    Args:
        samples: All rows.
        ratings: Of every generated one.
        top: Images to keep of each category and generator.
        seed: Of the lot.

    Returns:
        Rows that are kept, ascending, and what was kept of each cell.

    Raises:
        DataError: A generated image has no rating.
    """
    cells: dict[tuple[str, str], list[int]] = {}
    kept = []
    unrated = []
    for row, sample in enumerate(samples):
        if sample.annotation.verdict is Verdict.REAL:
            kept.append(row)
        elif sample.sample_id in ratings:
            cells.setdefault((sample.category, sample.generator), []).append(row)
        else:
            unrated.append(sample.sample_id)
    if unrated:
        raise DataError(
            f"{counted(len(unrated), 'generated image has', 'generated images have')} no rating, such as "
            f"{unrated[0]!r}",
            where="field sample_id",
            remedy="let them be rated, or leave them out of the dataset",
        )

    def rank(row: int) -> tuple[float, float, int, str]:
        given, sample_id = ratings[samples[row].sample_id], samples[row].sample_id
        return -_mean(given), -min(given), derived_seed(seed, "select", sample_id), sample_id

    table = []
    for (category, generator), rows in sorted(cells.items()):
        chosen = sorted(rows, key=rank)[:top]
        kept += chosen
        lowest = min(_mean(ratings[samples[row].sample_id]) for row in chosen)
        table.append(Cell(category, generator, len(rows), len(chosen), lowest))
    return sorted(kept), table


def _lines(given: Mapping[str, tuple[int, float]]) -> str:
    return f"{'line' if len(given) == 1 else 'lines'} {', '.join(str(line) for line, _ in given.values())}"


def _mean(given: Sequence[float]) -> float:
    return math.fsum(given) / len(given)


def _records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and fields; blank space around a field is dropped, blank lines are passed over."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            header = [(name or "").strip() for name in reader.fieldnames or ()]
            if missing := [name for name in COLUMNS if name not in header]:
                raise DataError(
                    f"no column {', '.join(missing)} in the header {header}",
                    where=f"{path} line 1",
                    remedy=remedy_for_columns(header, f"write a header with {', '.join(COLUMNS)}, separated by commas"),
                )
            if twice := [name for name in COLUMNS if header.count(name) > 1]:
                raise DataError(
                    f"several columns {', '.join(twice)} in the header {header}",
                    where=f"{path} line 1",
                    remedy="keep one of each",
                )
            reader.fieldnames = header
            for record in reader:
                yield reader.line_num, {name: (record[name] or "").strip() for name in COLUMNS}
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8: {error}", where=str(path), remedy="save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"is not CSV: {error}", where=f"{path} line {reader.line_num}", remedy="mend it") from error


def _problem(record: Mapping[str, str], known_ids: frozenset[str], scale: tuple[float, float] | None) -> str:
    """The field that cannot be used and why, or nothing."""
    for name in COLUMNS:
        if not record[name]:
            return f"{name}: empty, expected a value"
    if record["sample_id"] not in known_ids:
        return f"sample_id: {record['sample_id']!r} is not in the dataset, or is a real image"
    try:
        rating = float(record["rating"])
    except ValueError:
        rating = math.nan
    if not math.isfinite(rating):
        return f"rating: {record['rating']!r}, expected a number"
    if scale and not scale[0] <= rating <= scale[1]:
        return f"rating: {record['rating']}, expected {scale[0]:g} to {scale[1]:g}"
    return ""
