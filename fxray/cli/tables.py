"""Tables on a terminal, and as plain as wide elsewhere."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from fxray.report.page import Report
    from fxray.report.paper_table import PaperTable

PLAIN_WIDTH = 160
"""Columns where there is no terminal; a table of ours fits."""


def print_table(table: Table) -> None:
    """Prints a table to stdout, in the terminal's width if there is one; names in it are text, never markup."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, markup=False, emoji=False).print(table)


def print_paper_table(shown: PaperTable) -> None:
    """Prints a table without the paper's numbers, which are in the files."""
    from rich.table import Table

    from fxray.report.paper_table import SYNTHETIC

    caption = SYNTHETIC if SYNTHETIC in shown.notes else None
    table = Table(title=shown.title, caption=caption, title_justify="left", caption_justify="left")
    for column in shown.header:
        table.add_column(column, overflow="fold")  # a title that is cut off names nothing
    for row in shown.rows:
        table.add_row(row.title, *row.cells)
    print_table(table)


def number(value: float, decimals: int = 3) -> str:
    """Fixed decimals; a dash for what cannot be said."""
    return "–" if math.isnan(value) else f"{value:,.{decimals}f}"


def show_report(report: Report, page: str) -> None:
    """Prints the table of stages, if one is evaluated, and where the page is."""
    if report.comparison.evaluations:
        from fxray.evaluate.table import probability_table, stage_table

        print_table(stage_table(report.comparison))
        if table := probability_table(report.comparison.evaluations):
            print_table(table)
    typer.echo(page)
