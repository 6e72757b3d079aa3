"""A table of the paper with numbers of one's own, as Markdown, LaTeX, CSV and one HTML file.

The paper's numbers stand beside in grey, in columns of their own. They are of another model on other images, and no
number is computed from both.
"""

import csv
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fxray.evaluate import bootstrap
from fxray.files import write_atomically

SYNTHETIC = "SYNTHETIC: photographs with planted defects; not comparable with the paper's numbers."
INTERVALS = "In brackets 95 % bootstrap intervals; differences are on the same images, resampled in pairs."
NOTHING = "–"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;overflow-x:auto}"
    "table{border-collapse:collapse}td,th{padding:.25rem .75rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child,.text{text-align:left}td{white-space:nowrap}.paper{color:#767676}img{max-width:100%}"
)
_TEX = {character: f"\\{character}" for character in "%&_#${}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "±": r"$\pm$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
}


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
        notes: Below the table, or above it in formats that have comments; that the data are synthetic stands before
            the numbers, and in LaTeX in the table itself, as comments are not printed.
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


def note_of_sources(test: str, sources: Sequence[str]) -> list[str]:
    """What a table has to say where images share sources: they are resampled one by one.

    Args:
        test: What was asked about.
        sources: Of its images, one each.
    """
    note = bootstrap.note_of_sources(len(sources), len(set(sources)))
    return [f"{test}: {note}."] if note else []


def write_table(table: PaperTable, folder: Path, name: str) -> None:
    """Writes NAME.md, .tex, .csv and .html, each text on one line; a figure must be there already.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    table = _on_one_line(table)
    for ending, text in (
        ("md", _markdown(table)),
        ("tex", _latex(table)),
        ("csv", _csv(table)),
        ("html", _html(table, folder)),
    ):
        write_atomically(folder / f"{name}.{ending}", text)


def estimate_cell(estimate: Mapping[str, Any] | None, sign: str = "") -> str:
    """Value and interval, three decimals; a dash where nothing was measured, and for a bound that no resample gave.

    Args:
        estimate: "value", "low" and "high", null where the metric does not apply.
        sign: "+" for differences.
    """
    if estimate is None or estimate["value"] is None:
        return NOTHING
    value, low, high = (
        NOTHING if estimate[part] is None else f"{estimate[part]:{sign}.3f}" for part in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]"


def _on_one_line(table: PaperTable) -> PaperTable:
    """The same table without line breaks, which would end a row or a comment: names of one's own may have some."""

    def line(text: str) -> str:
        return " ".join(text.split())

    def lines(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(map(line, texts))

    return replace(
        table,
        title=line(table.title),
        header=lines(table.header),
        paper_header=lines(table.paper_header),
        rows=tuple(PaperRow(r.name, line(r.title), lines(r.cells), lines(r.paper)) for r in table.rows),
        notes=lines(table.notes),
        figure_text=line(table.figure_text),
    )


def _markdown(table: PaperTable) -> str:
    header = [*table.header, *table.paper_header]
    lines = [header, ["---"] * len(header)]
    for row in table.rows:
        grey = [f'<span style="color:#999">{number}</span>' if number else "" for number in row.paper]
        lines.append([row.title, *row.cells, *grey])
    text = "\n".join(" | ".join(["", *(cell.replace("|", r"\|") for cell in line), ""]).strip() for line in lines)
    figure = f"![{table.figure_text}]({table.figure}.png)\n\n" if table.figure else ""
    warning = f"**{SYNTHETIC}**\n\n" if SYNTHETIC in table.notes else ""
    notes = "\n".join(f"- {note}" for note in table.notes if note != SYNTHETIC)
    return f"# {table.title}\n\n{warning}{text}\n\n{figure}{notes}\n"


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
    warning = [rf"\multicolumn{{{len(header)}}}{{l}}{{{_tex(SYNTHETIC)}}} \\"] if SYNTHETIC in table.notes else []
    return "\n".join([*parts, r"\midrule", *rows, r"\bottomrule", *warning, r"\end{tabular}", ""])


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


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

    kinds = [_kind([row.cells[column] for row in table.rows]) for column in range(len(table.header) - 1)]
    kinds = ["text", *kinds, *["paper"] * len(table.paper_header)]

    def cells(tag: str, texts: Sequence[str]) -> str:
        pairs = zip(texts, kinds, strict=True)
        return "".join(f'<{tag} class="{kind}">{html.escape(text)}</{tag}>' for text, kind in pairs)

    header = cells("th", [*table.header, *table.paper_header])
    rows = "".join(f"<tr>{cells('td', [row.title, *row.cells, *row.paper])}</tr>\n" for row in table.rows)
    warning = f"<p><strong>{html.escape(SYNTHETIC)}</strong></p>\n" if SYNTHETIC in table.notes else ""
    notes = "".join(f"<p>{html.escape(note)}</p>\n" for note in table.notes if note != SYNTHETIC)
    title = html.escape(table.title)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style>\n"
        f"<h1>{title}</h1>\n{warning}<table><tr>{header}</tr>\n{rows}</table>\n{figure}\n{notes}</html>\n"
    )


def _kind(cells: Iterable[str]) -> str:
    """How a column is set: words to the left, numbers to the right."""
    return "text" if any(cell[:1].isalpha() for cell in cells) else "number"
