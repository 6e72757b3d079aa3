"""What the votes say, as Markdown, CSV, JSON and a figure (PNG, SVG)."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxray.counts import counted
from fxray.draw import font_file, readable
from fxray.files import write_atomically
from fxray.prefer.analysis import Analysis, Cell
from fxray.report.figure import write_figure
from fxray.report.paper_table import SYNTHETIC

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

NAME = "preference"
_WHO = {
    "human": "people",
    "judge": "models, no people",
    "all": "people and models together",
}
_NONE = "–"


def write_analysis(folder: Path, analysis: Analysis, facts: Mapping[str, Any]) -> None:
    """Writes preference.md, .csv, .json, .png and .svg.

    Args:
        folder: Where they go.
        analysis: What is told.
        facts: Of the study.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    size = len(analysis.sources)
    size_in = (4.6 + 1.5 * size, 1.6 + 0.8 * size)
    write_figure(folder, NAME, size_in, partial(_draw, analysis, facts["is_synthetic"]))
    numbers = analysis.to_json() | {"study": dict(facts)}
    write_atomically(folder / f"{NAME}.json", json.dumps(numbers, indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / f"{NAME}.csv", _csv(analysis, facts))
    write_atomically(folder / f"{NAME}.md", _markdown(analysis, facts))


def matrix_rows(analysis: Analysis) -> list[list[str]]:
    """The matrix as text: the sources' names above and before, in each cell what row won over column."""
    cells = {(cell.row, cell.column): cell for cell in analysis.cells}
    rows = [["row over column", *analysis.sources]]
    return rows + [
        [row, *(_cell_text(cells.get((row, each))) for each in analysis.sources)] for row in analysis.sources
    ]


def score_rows(analysis: Analysis) -> list[list[str]]:
    """Bradley-Terry scores as text, best first."""
    best_first = sorted(analysis.scores.items(), key=lambda item: -item[1].value)
    rows = [["source", "score"]]
    for name, score in best_first:
        known = f"{score.value:+.2f} [{score.low:+.2f}, {score.high:+.2f}]"
        rows.append([name, known if math.isfinite(score.value) else _NONE])
    return rows


def notes(analysis: Analysis, facts: Mapping[str, Any]) -> list[str]:
    """What the numbers rest on, a sentence each."""
    kept, out = len(analysis.raters), len(analysis.excluded)
    checked = [*analysis.raters, *analysis.excluded]
    failed, asked = sum(r.num_failed_checks for r in checked), sum(r.num_checks for r in checked)
    bad = sum(r.num_bad_answers for r in checked)
    preferring = f"{counted(analysis.num_votes, 'vote')}, {analysis.num_neutral} of them without a preference"
    rule = f"raters who failed more than {analysis.max_failed_checks} are left out"
    agreement = f"Krippendorff's alpha {_number(analysis.alpha)} over {counted(analysis.num_shared_pairs, 'pair')}"
    sides = f"{analysis.left_frac:.1%} of the votes with a preference were for the left side"
    three = "Wilson's (scores: of the Fisher information), raters drawn anew and images drawn anew"
    resampling = f"{analysis.num_bootstrap} draws each, seed {analysis.seed}"
    source = f"{facts['data']}, SHA-256 {facts['data_sha256'][:12]}, fxray {facts['fxray']}"
    identical = counted(facts["num_identical"], "pair of equal annotations was", "pairs of equal annotations were")
    lines = [
        f"Raters: {_WHO[analysis.group]}; {sum(r.num_votes > 0 for r in analysis.raters)} of {kept} have voted.",
        f"{preferring}: shares and scores leave these out.",
        f"{failed} of {counted(asked, 'attention check')} failed by raters; {rule}: {out}.",
        f"{agreement} that several raters judged (one side, the other, or neither).",
        f"{sides}. Median time of a vote: {_number(analysis.median_s, 1)} s.",
        f"In brackets 95 % intervals, the widest of {three} ({resampling}).",
        f"{identical} not asked. Data: {source}.",
    ]
    if bad:
        models = counted(bad, "answer of a model was", "answers of models were")
        lines.append(f"{models} none of left, right, neutral: not counted.")
    return [SYNTHETIC, *lines] if facts["is_synthetic"] else lines


def _cell_text(cell: Cell | None) -> str:
    if cell is None:
        return _NONE
    return f"{cell.share.value:.1%} [{cell.share.low:.1%}, {cell.share.high:.1%}] of {cell.num_won + cell.num_lost}"


def _number(value: float, decimals: int = 3) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else _NONE


def _markdown(analysis: Analysis, facts: Mapping[str, Any]) -> str:
    def table(rows: list[list[str]]) -> str:
        header, *rest = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([header, "|" + " --- |" * len(rows[0]), *rest])

    listed = "\n".join(f"- {note}" for note in notes(analysis, facts))
    return (
        f"# Preference: {facts['name']}\n\n"
        f"Share of the votes that the row won over the column, as in Figure 2 of the paper.\n\n"
        f"{table(matrix_rows(analysis))}\n\n"
        f"Bradley-Terry scores: the log-odds that one wins over another are the difference of their scores.\n\n"
        f"{table(score_rows(analysis))}\n\n![Matrix and scores]({NAME}.png)\n\n{listed}\n"
    )


def _csv(analysis: Analysis, facts: Mapping[str, Any]) -> str:
    """One line per cell; the notes are lines that start with #."""
    out = io.StringIO()
    out.writelines(f"# {note}\n" for note in notes(analysis, facts))
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "column", "share", "low", "high", "num_won", "num_lost", "num_neutral"])
    for cell in analysis.cells:
        numbers = (f"{value:.6f}" for value in (cell.share.value, cell.share.low, cell.share.high))
        writer.writerow([cell.row, cell.column, *numbers, cell.num_won, cell.num_lost, cell.num_neutral])
    return out.getvalue()


def _draw(analysis: Analysis, is_synthetic: bool, figure: "Figure") -> None:
    """The matrix as in Figure 2, and beside it the scores with intervals, best on top."""
    left, right = figure.subplots(1, 2, width_ratios=(1.5 * len(analysis.sources), 4))
    _draw_matrix(left, analysis)
    _draw_scores(right, analysis)
    num_votes = analysis.num_votes - analysis.num_neutral
    data = ", SYNTHETIC data" if is_synthetic else ""
    figure.suptitle(f"Preference of {_WHO[analysis.group]}: {counted(num_votes, 'vote')}{data}", fontsize=11)


def _draw_matrix(axes: "Axes", analysis: Analysis) -> None:
    index = {name: k for k, name in enumerate(analysis.sources)}
    size = len(index)
    shares = [[math.nan] * size for _ in range(size)]
    for cell in analysis.cells:
        shares[index[cell.row]][index[cell.column]] = cell.share.value
    axes.imshow(shares, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    for cell in analysis.cells:
        x, y, share = index[cell.column], index[cell.row], cell.share
        ink = "white" if abs(share.value - 0.5) > 0.3 else "black"
        axes.text(x, y, f"{share.value:.1%}", ha="center", va="bottom", color=ink, fontsize=11)
        axes.text(x, y, f"{share.low:.0%} to {share.high:.0%}", ha="center", va="top", color=ink, fontsize=7.5)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    for axis in (axes.xaxis, axes.yaxis):
        _name_ticks(axis, analysis.sources)
    axes.set_title("share of votes, row over column", fontsize=9)
    axes.spines[:].set_visible(False)


def _draw_scores(axes: "Axes", analysis: Analysis) -> None:
    known = [(n, s) for n, s in analysis.scores.items() if math.isfinite(s.value)]
    known.sort(key=lambda item: item[1].value)
    values = [score.value for _, score in known]
    errors = [[max(0.0, s.value - s.low) for _, s in known], [max(0.0, s.high - s.value) for _, s in known]]
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.errorbar(values, range(len(known)), xerr=errors, fmt="o", color="#0b6b74", capsize=3)
    _name_ticks(axes.yaxis, [name for name, _ in known])
    axes.set_ylim(-0.6, len(known) - 0.4)
    axes.set_title("Bradley-Terry score, log-odds", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _name_ticks(axis: "Axis", names: Sequence[str]) -> None:
    """Names from 0 on, each in a font that has its characters."""
    from matplotlib.font_manager import FontProperties

    axis.set_ticks(range(len(names)), [readable(name) for name in names])
    for label in axis.get_ticklabels():
        label.set_fontproperties(FontProperties(fname=font_file(label.get_text()), size=label.get_fontsize()))
