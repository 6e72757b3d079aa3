"""What a metric does with each field: a panel per field, a dot per trial, a bar at the mean of each value."""

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxray.experiments.tables import label_of
from fxray.report.figure import write_figure
from fxray.report.paper_table import SYNTHETIC
from fxray.sweep.file import Sweep
from fxray.sweep.measure import SettingResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_IN, HEIGHT_IN = 4.2, 3.6


def draw_fields(sweep: Sweep, results: Sequence[SettingResult], folder: Path, name: str, *, is_synthetic: bool) -> bool:
    """Writes NAME.png and NAME.svg.

    Args:
        sweep: Names the fields and the metric.
        results: By setting; trials without numbers are left out.
        folder: Where to.
        name: Of the files.
        is_synthetic: Whether the data are photographs with planted defects.

    Returns:
        False, and nothing is written, where no field was swept over or nothing is measured.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    if not sweep.fields or not any(result.num_done for result in results):
        return False
    size_in = (WIDTH_IN * len(sweep.fields), HEIGHT_IN)
    write_figure(folder, name, size_in, partial(_draw, sweep, results, is_synthetic))
    return True


def points_of(field: str, metric: str, results: Sequence[SettingResult]) -> list[tuple[float | str, int, float]]:
    """Value of the field, a number or text, seed and metric of every trial that is measured."""
    return [
        (_number_or_text(result.values[field]), trial.seed, value)
        for result in results
        for trial in result.trials
        if not trial.state and (value := trial.metrics[metric]["value"]) is not None
    ]


def _number_or_text(value: Any) -> float | str:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _draw(sweep: Sweep, results: Sequence[SettingResult], is_synthetic: bool, figure: "Figure") -> None:
    seeds = {seed: f"C{i % 10}" for i, seed in enumerate(sweep.seeds)}
    for axes, field in zip(figure.subplots(1, len(sweep.fields), squeeze=False)[0], sweep.fields, strict=True):
        points = points_of(field, sweep.metric, results)
        values = list(dict.fromkeys(value for value, _, _ in points))
        is_number = not any(isinstance(value, str) for value in values)
        places = {value: value if is_number else place for place, value in enumerate(values)}
        for seed, colour in seeds.items():
            own = [(places[value], number) for value, its, number in points if its == seed]
            axes.plot(*zip(*own, strict=True), "o", color=colour, alpha=0.7, label=f"seed {seed}") if own else None
        for value in values:
            mean = statistics.mean(number for its, _, number in points if its == value)
            axes.plot([places[value]], [mean], "_", color="black", ms=18, mew=2)
        if sweep.fields[field].loguniform is not None:
            axes.set_xscale("log")
        if not is_number:
            axes.set_xticks(range(len(values)), [str(value)[:24] for value in values])
        axes.set(xlabel=field, ylabel=label_of(sweep.metric))
    figure.axes[-1].legend(fontsize="small")
    if is_synthetic:
        figure.suptitle(SYNTHETIC.partition(":")[0], fontsize="small")
