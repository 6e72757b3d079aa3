"""The paper's Table 5 of a detector of one's own, and beyond it: as Markdown, LaTeX, CSV, one HTML file, PNG and SVG.

The paper's numbers stand beside in grey, in columns of their own. They are of another model on other images, and no
number here is computed from both.
"""

import csv
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxray.files import atomic_path, write_atomically

ORIGINAL = "original"
PAPER = {
    ORIGINAL: (0.981, 0.352),
    "jpeg-80": (0.978, 0.350),
    "jpeg-30": (0.973, 0.322),
    "crop-random": (0.981, 0.289),
    "resize-0.5": (0.981, 0.370),
}
"""Accuracy and IoU of the paper's own model (Ji et al., Table 5, column "Ours")."""

SYNTHETIC = "SYNTHETIC: photographs with planted defects; not comparable with the paper's numbers."
_COLUMNS = ("accuracy", "IoU", "accuracy against the original", "IoU against the original")
_NAME = "robustness"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;overflow-x:auto}"
    "table{border-collapse:collapse}td,th{padding:.25rem .75rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}td{white-space:nowrap}.paper{color:#767676}img{max-width:100%}"
)


@dataclass(frozen=True, slots=True)
class RobustnessRow:
    """One line of the table: cells as text, "–" where nothing applies, and the paper's two numbers."""

    name: str
    title: str
    cells: tuple[str, ...]
    paper: tuple[str, str]


@dataclass(frozen=True, slots=True)
class RobustnessReport:
    """What was written, and its table."""

    folder: Path
    rows: tuple[RobustnessRow, ...]
    is_synthetic: bool


def write_robustness(
    folder: Path, measured: Mapping[str, dict[str, Any]], titles: Mapping[str, str], key: Mapping[str, Any]
) -> RobustnessReport:
    """Writes robustness.md, .tex, .csv, .html, .png and .svg.

    Args:
        folder: Where they go.
        measured: By name of the change, `ORIGINAL` first: numbers of an evaluation, and its `gain`.
        titles: Of the changes.
        key: What the numbers rest on: seed, data, checksums, commit.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    rows = tuple(_row(name, titles.get(name, "as it is"), numbers) for name, numbers in measured.items())
    report = RobustnessReport(folder, rows, any(numbers["is_synthetic"] for numbers in measured.values()))
    facts = "; ".join(f"{name} {value}" for name, value in key.items())
    for ending in ("png", "svg"):
        with atomic_path(folder / f"{_NAME}.{ending}") as aside:
            _draw(measured, aside, ending)
    for ending, render in (("md", _markdown), ("tex", _latex), ("csv", _csv), ("html", _html)):
        write_atomically(folder / f"{_NAME}.{ending}", render(report, facts))
    return report


def _row(name: str, title: str, numbers: dict[str, Any]) -> RobustnessRow:
    overall, gain = numbers["overall"], (numbers["gain"] or {}).get("metrics", {})
    cells = [_cell(overall[metric]) for metric in ("accuracy", "iou")]
    cells += [_cell(gain.get(metric), sign="+") for metric in ("accuracy", "iou")]
    paper = PAPER.get(name)
    return RobustnessRow(name, title, tuple(cells), (f"{paper[0]:.3f}", f"{paper[1]:.3f}") if paper else ("", ""))


def _cell(estimate: dict[str, float | None] | None, sign: str = "") -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    value, low, high = (f"{estimate[part]:{sign}.3f}" for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _notes(report: RobustnessReport, facts: str) -> list[str]:
    notes = [
        "In brackets 95 % bootstrap intervals; differences are on the same images, resampled in pairs.",
        "True regions move with a crop; an image that loses all of its regions leaves the IoU, not the accuracy.",
        "Paper: Ji et al., Table 5, their model on their images.",
        f"Measured with: {facts}",
    ]
    return [SYNTHETIC, *notes] if report.is_synthetic else notes


def _header() -> list[str]:
    return ["change", *_COLUMNS, "paper: accuracy", "paper: IoU"]


def _markdown(report: RobustnessReport, facts: str) -> str:
    lines = [_header(), ["---"] * len(_header())]
    for row in report.rows:
        grey = [f'<span style="color:#999">{number}</span>' if number else "" for number in row.paper]
        lines.append([row.title, *row.cells, *grey])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {note}" for note in _notes(report, facts))
    return f"# Robustness\n\n{table}\n\n![Accuracy and IoU by strength of the change]({_NAME}.png)\n\n{notes}\n"


def _latex(report: RobustnessReport, facts: str) -> str:
    """A `tabular` for booktabs and xcolor."""

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells) + r" \\"

    rows = [
        line([_tex(row.title), *map(_tex, row.cells), *(rf"\textcolor{{gray}}{{{n}}}" if n else "" for n in row.paper)])
        for row in report.rows
    ]
    notes = [f"% {note}" for note in _notes(report, facts)]
    parts = [*notes, r"\begin{tabular}{l" + "r" * (len(_header()) - 1) + "}", r"\toprule", line(map(_tex, _header()))]
    return "\n".join([*parts, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    escaped = "".join(f"\\{c}" if c in "%&_#$" else c for c in text)
    return escaped.replace("–", "--")


def _csv(report: RobustnessReport, facts: str) -> str:
    """Text as in the table; the notes are lines that start with #."""
    out = io.StringIO()
    out.writelines(f"# {note}\n" for note in _notes(report, facts))
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", *_header()])
    writer.writerows([row.name, row.title, *row.cells, *row.paper] for row in report.rows)
    return out.getvalue()


def _html(report: RobustnessReport, facts: str) -> str:
    """One file: the figure is inside."""
    figure = (report.folder / f"{_NAME}.svg").read_text("utf-8")
    figure = figure[figure.index("<svg") :]

    def cells(tag: str, texts: Sequence[str], *, is_paper: bool = False) -> str:
        kind = ' class="paper"' if is_paper else ""
        return "".join(f"<{tag}{kind}>{html.escape(text)}</{tag}>" for text in texts)

    header = cells("th", _header()[:-2]) + cells("th", _header()[-2:], is_paper=True)
    rows = "".join(
        f"<tr>{cells('td', [row.title, *row.cells])}{cells('td', row.paper, is_paper=True)}</tr>\n"
        for row in report.rows
    )
    notes = "".join(f"<p>{html.escape(note)}</p>\n" for note in _notes(report, facts))
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Robustness</title><style>{_STYLE}</style>\n"
        f"<h1>Robustness</h1>\n<table><tr>{header}</tr>\n{rows}</table>\n{figure}\n{notes}</html>\n"
    )


def _draw(measured: Mapping[str, dict[str, Any]], path: Path, ending: str) -> None:
    """Accuracy and IoU over the strengths of each kind of change, mildest first, with intervals."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    kinds: dict[str, list[str]] = {}
    for name in measured:
        if name != ORIGINAL:
            kinds.setdefault(name.split("-")[0], []).append(name)
    with rc_context({"svg.hashsalt": _NAME, "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 4), layout="constrained")
        for axes, metric, label in zip(figure.subplots(1, 2), ("accuracy", "iou"), ("accuracy", "IoU"), strict=True):
            for kind, names in kinds.items():
                parts = [measured[name]["overall"][metric] for name in (ORIGINAL, *names)]
                known = [(i, p) for i, p in enumerate(parts) if p["value"] is not None]
                errors = [[p["value"] - p["low"] for _, p in known], [p["high"] - p["value"] for _, p in known]]
                axes.errorbar(
                    [i for i, _ in known], [p["value"] for _, p in known], errors, label=kind, marker="o", capsize=2
                )
            axes.set(ylim=(0, 1), ylabel=label, xlabel="strength (0: as it is)")
            axes.xaxis.get_major_locator().set_params(integer=True)
        figure.axes[0].legend(fontsize="small")
        metadata = {"Date": None} if ending == "svg" else {"Software": None}
        figure.savefig(path, format=ending, dpi=150, metadata=metadata)
