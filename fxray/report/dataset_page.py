"""The facts of a dataset as one HTML page, the pictures on it as files beside it, and the numbers as JSON."""

import base64
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path

from fxray.data.statistics import Statistics, Summary
from fxray.files import atomic_dir, refuse_to_replace
from fxray.report.dataset_charts import PICTURES, draw_charts
from fxray.report.templates import load_style, load_template

PAGE_FILE, NUMBERS_FILE = "statistics.html", "statistics.json"


def write_statistics(statistics: Statistics, folder: Path, *, name: str, is_synthetic: bool) -> Path:
    """Writes page, pictures and numbers into a folder of their own; the page needs nothing beside it.

    Args:
        statistics: The facts.
        folder: New, empty, or one that this function wrote and in which nothing else lies.
        name: Of the dataset.
        is_synthetic: Whether the images are photographs with planted defects; the page says so.

    Returns:
        The page.

    Raises:
        ConfigError: The folder holds something else, or is the one in which the command runs.
        ResourceError: The disk is full or not writable.
    """
    refuse_to_replace(folder, unless_all_are={PAGE_FILE, NUMBERS_FILE, *PICTURES})
    with atomic_dir(folder) as aside:
        titles = draw_charts(statistics, aside)
        (aside / NUMBERS_FILE).write_text(json.dumps(statistics.to_json(), indent=1) + "\n", "utf-8")
        page = _render(statistics, {file: (title, aside / file) for file, title in titles.items()}, name, is_synthetic)
        (aside / PAGE_FILE).write_text(page, "utf-8")
    return folder / PAGE_FILE


def facts_of(statistics: Statistics) -> Sequence[tuple[str, str]]:
    """The main facts, name and value, for a table."""
    areas, words = Summary.of(statistics.box_areas), Summary.of(statistics.caption_words)
    names = {
        "images": f"{statistics.num_real + statistics.num_generated:,}",
        "real, generated": f"{statistics.num_real:,}, {statistics.num_generated:,}",
        "width in pixels": _spread(statistics.width_px, 0),
        "height in pixels": _spread(statistics.height_px, 0),
        "regions per generated image": _spread(statistics.regions, 2),
        "area of a box over its image": _spread(areas, 3),
        "words per caption": _spread(words, 1),
        "distinct captions": f"{statistics.num_distinct_captions:,} of {words.count:,}",
        "generators, categories": f"{len(statistics.generators.keys() - {'real'}):,}, {len(statistics.categories):,}",
        "annotators": f"{len(statistics.annotators.keys() - {None}):,}",
    }
    return list(names.items())


def _spread(summary: Summary, decimals: int) -> str:
    if not summary.count:
        return "–"
    mean, low, median, high = (
        f"{value:,.{decimals}f}" for value in (summary.mean, summary.low, summary.median, summary.high)
    )
    return f"mean {mean}, {low} to {high}, median {median}"


def _render(statistics: Statistics, charts: dict[str, tuple[str, Path]], name: str, is_synthetic: bool) -> str:
    return load_template("fxray.report", "dataset.html.j2").render(
        style=load_style(),
        name=name,
        is_synthetic=is_synthetic,
        written=dt.datetime.now(dt.UTC),
        facts=facts_of(statistics),
        statistics=statistics,
        charts=[(file, title, _data_uri(path)) for file, (title, path) in charts.items()],
    )


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
