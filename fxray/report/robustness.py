"""The paper's Table 5 of a detector of one's own, and beyond it: Markdown, LaTeX, CSV, one HTML file, PNG and SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxray.report.figure import write_figure
from fxray.report.paper_table import (
    INTERVALS,
    SYNTHETIC,
    PaperRow,
    PaperTable,
    estimate_cell,
    note_of_sources,
    write_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORIGINAL = "original"
PAPER = {
    ORIGINAL: (0.981, 0.352),
    "jpeg-80": (0.978, 0.350),
    "jpeg-30": (0.973, 0.322),
    "crop-random": (0.981, 0.289),
    "resize-0.5": (0.981, 0.370),
}
"""Accuracy and IoU of the paper's own model (Ji et al., Table 5, column "Ours")."""

_COLUMNS = ("accuracy", "IoU", "accuracy against the original", "IoU against the original")
_NAME = "robustness"


@dataclass(frozen=True, slots=True)
class RobustnessReport:
    """What was written, and its table."""

    folder: Path
    rows: tuple[PaperRow, ...]
    is_synthetic: bool


def write_robustness(
    folder: Path,
    measured: Mapping[str, dict[str, Any]],
    titles: Mapping[str, str],
    key: Mapping[str, Any],
    sources: Sequence[str] = (),
) -> RobustnessReport:
    """Writes robustness.md, .tex, .csv, .html, .png and .svg.

    Args:
        folder: Where they go.
        measured: By name of the change, `ORIGINAL` first: numbers of an evaluation, and its `gain`.
        titles: Of the changes.
        key: What the numbers rest on: seed, data, checksums, commit.
        sources: Of the images, one each.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    rows = tuple(_row(name, titles.get(name, "as it is"), numbers) for name, numbers in measured.items())
    report = RobustnessReport(folder, rows, any(numbers["is_synthetic"] for numbers in measured.values()))
    write_figure(folder, _NAME, (9, 4), partial(_draw, measured))
    notes = [
        INTERVALS,
        *note_of_sources("Test set", sources),
        "True regions move with a crop; an image that loses all of its regions leaves the IoU, not the accuracy.",
        "Paper: Ji et al., Table 5, their model on their images.",
        f"Measured with: {'; '.join(f'{name} {value}' for name, value in key.items())}",
    ]
    table = PaperTable(
        "Robustness",
        ("change", *_COLUMNS),
        ("paper: accuracy", "paper: IoU"),
        rows,
        tuple([SYNTHETIC, *notes] if report.is_synthetic else notes),
        _NAME,
        "Accuracy and IoU by strength of the change",
    )
    write_table(table, folder, _NAME)
    return report


def _row(name: str, title: str, numbers: dict[str, Any]) -> PaperRow:
    overall, gain = numbers["overall"], (numbers["gain"] or {}).get("metrics", {})
    cells = [estimate_cell(overall[metric]) for metric in ("accuracy", "iou")]
    cells += [estimate_cell(gain.get(metric), sign="+") for metric in ("accuracy", "iou")]
    paper = PAPER.get(name)
    return PaperRow(name, title, tuple(cells), (f"{paper[0]:.3f}", f"{paper[1]:.3f}") if paper else ("", ""))


def _draw(measured: Mapping[str, dict[str, Any]], figure: "Figure") -> None:
    """Accuracy and IoU over the strengths of each kind of change, mildest first, with intervals."""
    kinds: dict[str, list[str]] = {}
    for name in measured:
        if name != ORIGINAL:
            kinds.setdefault(name.split("-")[0], []).append(name)
    for axes, metric, label in zip(figure.subplots(1, 2), ("accuracy", "iou"), ("accuracy", "IoU"), strict=True):
        for kind, names in kinds.items():
            parts = [measured[name]["overall"][metric] for name in (ORIGINAL, *names)]
            known = [(i, p) for i, p in enumerate(parts) if p["value"] is not None]
            errors = [  # few resamples may all lie on one side, or give no bound
                [0 if p[bound] is None else max(0, sign * (p[bound] - p["value"])) for _, p in known]
                for bound, sign in (("low", -1), ("high", 1))
            ]
            axes.errorbar(
                [i for i, _ in known], [p["value"] for _, p in known], errors, label=kind, marker="o", capsize=2
            )
        axes.set(ylim=(0, 1), ylabel=label, xlabel="strength (0: as it is)")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].legend(fontsize="small")
