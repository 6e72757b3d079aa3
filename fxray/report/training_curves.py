"""The paper's Figure 3 over several trainings: accuracy, IoU and reward by step, as PNG and SVG."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fxray.report.curves import Panel, panels_of
from fxray.report.figure import write_figure
from fxray.report.record import read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = ("Accuracy and IoU", "Reward")


def draw_trainings(run_dirs: Mapping[str, Path], folder: Path, name: str) -> bool:
    """Writes NAME.png and NAME.svg: a line per training, stages one unit wide, dots on held-out images with intervals.

    Args:
        run_dirs: By the title of each training; those that have recorded nothing are left out.
        folder: Where to.
        name: Of the files.

    Returns:
        False, and nothing is written, where nothing is recorded.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    records = {title: read_run(run_dir) for title, run_dir in run_dirs.items() if (run_dir / "config.yaml").is_file()}
    panels = {
        title: {panel.title: panel for panel in panels_of(record.steps, record.comparison) if panel.title in _PANELS}
        for title, record in records.items()
    }
    panels = {title: found for title, found in panels.items() if found}
    if panels:
        write_figure(folder, name, (13, 4.2), partial(_draw, panels))
    return bool(panels)


def _draw(panels: Mapping[str, Mapping[str, Panel]], figure: "Figure") -> None:
    wanted = (("Accuracy and IoU", "accuracy"), ("Accuracy and IoU", "IoU"), ("Reward", "reward"))
    for axes, (panel_title, label) in zip(figure.subplots(1, len(wanted)), wanted, strict=True):
        for k, found in enumerate(panels.values()):
            panel = found.get(panel_title)
            for curve in panel.curves if panel else ():
                if curve.label != label:
                    continue
                for number, piece in enumerate(filter(None, curve.pieces)):
                    points = np.array(piece)
                    axes.plot(*points.T, color=f"C{k % 10}", alpha=0.6, label=f"{k}" if number == 0 else None)
                if marks := curve.marks:
                    values = [mark.value for mark in marks]
                    errors = [[max(0, m.value - m.low) for m in marks]]  # few resamples may all lie on one side
                    errors += [[max(0, m.high - m.value) for m in marks]]
                    places = [mark.x + 0.02 * k for mark in marks]
                    axes.errorbar(places, values, errors, fmt="o", ms=4, capsize=2, color=f"C{k % 10}")
        axes.set(title=label, xlabel="phase (SFT, then the stages)" if label != "reward" else "stage")
        axes.xaxis.get_major_locator().set_params(integer=True)
    titles = list(panels)
    lines = figure.axes[2].get_legend_handles_labels()
    legend = figure.legend(*lines, loc="outside lower center", ncols=4, fontsize="small")
    for text in legend.get_texts():
        text.set(text=titles[int(text.get_text())], parse_math=False)  # a title is text, whatever it holds
