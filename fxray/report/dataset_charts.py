"""The facts of a dataset as pictures: one PNG file each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fxray.counts import counted
from fxray.data.statistics import Statistics
from fxray.draw import font_file, readable

BLUE, ORANGE, INK = "#0072B2", "#D55E00", "#1b1f24"
MAX_NAMES = 40
"""Generators or categories along an axis; the rest is put together."""

PICTURES = (
    "regions.png",
    "heat-map.png",
    "box-sizes.png",
    "box-areas.png",
    "captions.png",
    "tags.png",
    "generators.png",
)
"""Names of the files."""

_MAX_NAME_CHARACTERS = 24
_DPI = 144


def draw_charts(statistics: Statistics, folder: Path) -> dict[str, str]:
    """Writes every picture for which there is something to show.

    Args:
        statistics: The facts.
        folder: Where the PNG files go; it is there.

    Returns:
        Title of each picture by its file name.
    """
    charts: list[tuple[str, str, bool, Callable[[Any, Statistics], None], tuple[float, float]]] = [
        ("regions.png", "Regions per generated image", bool(statistics.num_generated), _regions, (5.2, 3.6)),
        ("heat-map.png", "Where regions lie", len(statistics.box_sides_B2) > 0, _heat_map, (5.2, 3.6)),
        ("box-sizes.png", "Width and height of boxes", len(statistics.box_sides_B2) > 0, _box_sizes, (5.2, 3.6)),
        ("box-areas.png", "Area of boxes", len(statistics.box_sides_B2) > 0, _box_areas, (5.2, 3.6)),
        ("captions.png", "Words per caption", len(statistics.caption_words) > 0, _captions, (5.2, 3.6)),
        ("tags.png", "Tags of generated images", bool(statistics.num_generated), _tags, (5.2, 3.6)),
        ("generators.png", "Generators and categories", True, _generators, _grid_size(statistics)),
    ]
    titles = {}
    for name, title, has_data, draw, size in charts:
        if has_data:
            figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.add_subplot()
            axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
            draw(axes, statistics)
            figure.savefig(folder / name, facecolor="white")
            titles[name] = title
    return titles


def _regions(axes: Any, statistics: Statistics) -> None:
    counts = statistics.region_counts
    axes.bar(list(counts), list(counts.values()), color=BLUE, width=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _label(axes, f"regions (mean {statistics.regions.mean:.2f})", "images")


def _heat_map(axes: Any, statistics: Statistics) -> None:
    image = axes.imshow(statistics.heat_map, cmap="viridis", extent=(0, 1, 1, 0), vmin=0)
    colours = axes.figure.colorbar(image, ax=axes, format=PercentFormatter(1, decimals=0))
    colours.set_label("generated images covered", fontsize=9)
    _label(axes, "share of the width", "share of the height")


def _box_sizes(axes: Any, statistics: Statistics) -> None:
    width, height = statistics.box_sides_B2.T
    counts = axes.hist2d(width, height, bins=32, range=[[0, 1], [0, 1]], cmap="viridis", cmin=1)
    axes.figure.colorbar(counts[3], ax=axes, ticks=MaxNLocator(integer=True)).set_label("boxes", fontsize=9)
    axes.set_aspect("equal")
    _label(axes, "width over the image's", "height over the image's")


def _box_areas(axes: Any, statistics: Statistics) -> None:
    axes.hist(statistics.box_areas, bins=40, range=(0, 1), color=BLUE)
    axes.axvline(float(np.median(statistics.box_areas)), color=ORANGE, label="median")
    axes.legend(frameon=False)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _label(axes, "area over the image's", "boxes")


def _captions(axes: Any, statistics: Statistics) -> None:
    longest = max(1, int(statistics.caption_words.max()))
    step = max(1, longest // 60)
    axes.hist(statistics.caption_words, bins=np.arange(0.5, longest + 0.5 + step, step), color=BLUE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _label(axes, f"words (mean {statistics.caption_words.mean():.2f})", "captions")


def _tags(axes: Any, statistics: Statistics) -> None:
    names = [tag.value for tag in statistics.tags]
    bars = axes.barh(names, list(statistics.tags.values()), color=BLUE)
    axes.bar_label(bars, [f" {count / statistics.num_generated:.0%}" for count in statistics.tags.values()], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    _label(axes, "generated images", "")


def _generators(axes: Any, statistics: Statistics) -> None:
    generators, categories = _named(statistics.generators), _named(statistics.categories)
    counts = np.zeros((len(generators), len(categories)))
    places = _places(statistics.generators), _places(statistics.categories)
    for (generator, category), count in statistics.cells.items():
        counts[places[0][generator], places[1][category]] += count
    image = axes.imshow(np.where(counts > 0, counts, np.nan), cmap="viridis", aspect="auto", vmin=0)
    axes.figure.colorbar(image, ax=axes, ticks=MaxNLocator(integer=True)).set_label("images", fontsize=9)
    axes.set_xticks(range(len(categories)), categories, rotation=90)
    axes.set_yticks(range(len(generators)), generators)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontproperties(FontProperties(fname=font_file(label.get_text()), size=8))


def _places(counts: dict[str, int]) -> dict[str, int]:
    return {name: min(place, MAX_NAMES) for place, name in enumerate(counts)}


def _named(counts: dict[str, int]) -> list[str]:
    names = [_short(name) for name in list(counts)[:MAX_NAMES]]
    return [*names, counted(len(counts) - MAX_NAMES, "other")] if len(counts) > MAX_NAMES else names


def _short(name: str) -> str:
    """A name on one line that matplotlib takes as it is: a dollar would begin a formula."""
    line = readable(" ".join("".join(c if c.isprintable() else " " for c in name).split())).replace("$", r"\$")
    line = line or "(empty)"
    return line if len(line) <= _MAX_NAME_CHARACTERS else line[: _MAX_NAME_CHARACTERS - 1] + "…"


def _grid_size(statistics: Statistics) -> tuple[float, float]:
    columns, rows = (min(len(names), MAX_NAMES + 1) for names in (statistics.categories, statistics.generators))
    return 4.0 + 0.24 * columns, 2.4 + 0.2 * rows


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(b=False)
