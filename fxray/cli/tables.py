"""Tables on a terminal, and as plain as wide elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from copy import copy
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Column, Table

    from fxray.report.page import Report
    from fxray.report.paper_table import PaperTable

PLAIN_WIDTH = 160
"""Columns where there is no terminal; a table of ours fits."""


def print_table(table: Table) -> None:
    """Prints a table to stdout, in the terminal's width if there is one; names in it are text, never markup.

    Nothing is cut off: long words go on in the next line, and columns of numbers for which there is no room stand in
    tables of their own below, beside the first column again.
    """
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, markup=False, emoji=False)
    for part in _parts(table, console.width):
        console.print(part)


def _parts(table: Table, width: int) -> Iterator[Table]:
    """The table, or as many as it takes for none to be wider than `width` with a number broken."""
    first, numbers = table.columns[:1], [column for column in table.columns[1:] if column.justify == "right"]
    texts = [column for column in table.columns if column not in numbers]
    for column in table.columns:
        column.overflow = "fold"
    word = max((_longest(text.split()) for column in numbers for text in _texts(column)), default=1)
    groups: list[list[Column]] = [[]]
    left = width - 1 - sum(_room(column, word) for column in texts)
    for column in numbers:
        if groups[-1] and _room(column, word) > left:
            groups.append([])
            left = width - 1 - sum(_room(each, word) for each in first)
        groups[-1].append(column)
        left -= _room(column, word)
    for number, group in enumerate(groups):
        part = copy(table)
        kept = [*first, *group] if number else [*texts, *group]
        part.columns = [column for column in table.columns if column in kept]
        part.title = None if number else table.title
        part.caption = table.caption if group is groups[-1] else None
        yield part


def _room(column: Column, word: int) -> int:
    """Least width of a column with the line beside it, where one that may be wrapped is no wider than `word`."""
    whole = _longest(line for text in _texts(column) for line in text.splitlines())
    return 3 + (whole if column.no_wrap else min(whole, word))


def _texts(column: Column) -> list[str]:
    return [str(cell) for cell in (column.header, *column.cells)]


def _longest(texts: Iterable[str]) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, texts), default=0)


def print_paper_table(shown: PaperTable) -> None:
    """Prints a table without the paper's numbers, which are in the files."""
    from rich.table import Table

    from fxray.report.paper_table import SYNTHETIC

    caption = SYNTHETIC if SYNTHETIC in shown.notes else None
    table = Table(title=shown.title, caption=caption, title_justify="left", caption_justify="left")
    for column in shown.header:
        table.add_column(column)
    for row in shown.rows:
        table.add_row(row.title, *row.cells)
    print_table(table)


def number(value: float, decimals: int = 3) -> str:
    """Fixed decimals; a dash for what cannot be said."""
    return "–" if math.isnan(value) else f"{value:,.{decimals}f}"


def show_report(report: Report, page: str) -> None:
    """Prints the table of stages, if one is evaluated, what is missing or damaged, and where the page is."""
    if report.comparison.evaluations:
        from fxray.evaluate.table import probability_table, stage_table

        print_table(stage_table(report.comparison))
        if table := probability_table(report.comparison.evaluations):
            print_table(table)
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(page)
