"""A table of the paper with numbers of one's own, as Markdown, LaTeX, CSV and one HTML file.

The paper's numbers stand beside in grey, in columns of their own. They are of another model on other images, and no
number is computed from both.
"""

import csv
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxray.files import write_atomically

SYNTHETIC = "SYNTHETIC: photographs with planted defects; not comparable with the paper's numbers."
INTERVALS = "In brackets 95 % bootstrap intervals; differences are on the same images, resampled in pairs."
NOTHING = "–"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;overflow-x:auto}"
    "table{border-collapse:collapse}td,th{padding:.25rem .75rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}td{white-space:nowrap}.paper{color:#767676}img{max-width:100%}"
)


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One line: its name in the CSV, its title, cells as text, and the paper's numbers, empty where it has none."""

    name: str
    title: str
    cells: tuple[str, ...]
    paper: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PaperTable:
    """What is written.

    Attributes:
        title: Heading.
        header: Of the titles' column and the cells'.
        paper_header: Of the paper's numbers.
        rows: Lines.
        notes: Below the table, or above it in formats that have comments.
        figure: File name without ending of a PNG and an SVG beside the table; empty for none.
        figure_text: What the figure shows.
    """

    title: str
    header: tuple[str, ...]
    paper_header: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    notes: tuple[str, ...]
    figure: str = ""
    figure_text: str = ""


def write_table(table: PaperTable, folder: Path, name: str) -> None:
    """Writes NAME.md, .tex, .csv and .html; a figure must be there already.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    for ending, text in (
        ("md", _markdown(table)),
        ("tex", _latex(table)),
        ("csv", _csv(table)),
        ("html", _html(table, folder)),
    ):
        write_atomically(folder / f"{name}.{ending}", text)


def estimate_cell(estimate: Mapping[str, Any] | None, sign: str = "") -> str:
    """Value and interval, three decimals; a dash where nothing was measured.

    Args:
        estimate: "value", "low" and "high", null where the metric does not apply.
        sign: "+" for differences.
    """
    if estimate is None or estimate["value"] is None:
        return NOTHING
    value, low, high = (f"{estimate[part]:{sign}.3f}" for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _markdown(table: PaperTable) -> str:
    header = [*table.header, *table.paper_header]
    lines = [header, ["---"] * len(header)]
    for row in table.rows:
        grey = [f'<span style="color:#999">{number}</span>' if number else "" for number in row.paper]
        lines.append([row.title, *row.cells, *grey])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    figure = f"![{table.figure_text}]({table.figure}.png)\n\n" if table.figure else ""
    notes = "\n".join(f"- {note}" for note in table.notes)
    return f"# {table.title}\n\n{text}\n\n{figure}{notes}\n"


def _latex(table: PaperTable) -> str:
    """A `tabular` for booktabs and xcolor."""

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells) + r" \\"

    header = [*table.header, *table.paper_header]
    rows = [
        line([_tex(row.title), *map(_tex, row.cells), *(rf"\textcolor{{gray}}{{{n}}}" if n else "" for n in row.paper)])
        for row in table.rows
    ]
    notes = [f"% {note}" for note in table.notes]
    parts = [*notes, r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}", r"\toprule", line(map(_tex, header))]
    return "\n".join([*parts, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    escaped = "".join(f"\\{c}" if c in "%&_#$" else c for c in text)
    for character, command in (("–", "--"), ("±", r"$\pm$"), ("α", r"$\alpha$"), ("β", r"$\beta$"), ("γ", r"$\gamma$")):
        escaped = escaped.replace(character, command)
    return escaped


def _csv(table: PaperTable) -> str:
    """Text as in the table; the notes are lines that start with #."""
    out = io.StringIO()
    out.writelines(f"# {note}\n" for note in table.notes)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", *table.header, *table.paper_header])
    writer.writerows([row.name, row.title, *row.cells, *row.paper] for row in table.rows)
    return out.getvalue()


def _html(table: PaperTable, folder: Path) -> str:
    """One file: the figure is inside."""
    figure = ""
    if table.figure:
        figure = (folder / f"{table.figure}.svg").read_text("utf-8")
        figure = figure[figure.index("<svg") :]

    def cells(tag: str, texts: Sequence[str], *, is_paper: bool = False) -> str:
        kind = ' class="paper"' if is_paper else ""
        return "".join(f"<{tag}{kind}>{html.escape(text)}</{tag}>" for text in texts)

    header = cells("th", table.header) + cells("th", table.paper_header, is_paper=True)
    rows = "".join(
        f"<tr>{cells('td', [row.title, *row.cells])}{cells('td', row.paper, is_paper=True)}</tr>\n"
        for row in table.rows
    )
    notes = "".join(f"<p>{html.escape(note)}</p>\n" for note in table.notes)
    title = html.escape(table.title)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style>\n"
        f"<h1>{title}</h1>\n<table><tr>{header}</tr>\n{rows}</table>\n{figure}\n{notes}</html>\n"
    )
