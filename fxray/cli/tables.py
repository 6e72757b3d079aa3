"""Tables on a terminal, and as plain as wide elsewhere."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from fxray.report import Report

PLAIN_WIDTH = 160
"""Columns where there is no terminal; a table of ours fits."""


def print_table(table: Table) -> None:
    """Prints a table to stdout, in the terminal's width if there is one; names in it are text, never markup."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, markup=False, emoji=False).print(table)


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
