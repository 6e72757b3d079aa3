"""A table in its formats."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fxray.report.paper_table import SYNTHETIC, PaperRow, PaperTable, estimate_cell, write_table

ROWS = (
    PaperRow("base", "Best", ("measured", "0.5 [0.4, 0.6]"), ("0.981",)),
    PaperRow("odd", r"a_b {c} x^2 ~ \d", ("–", "–"), ("",)),
)
TABLE = PaperTable("Mine", ("row", "state", "accuracy"), ("paper: accuracy",), ROWS, (SYNTHETIC, "a note"))


@pytest.mark.parametrize("ending", ["md", "html", "tex"])
def test_that_data_are_synthetic_is_printed_with_the_numbers(tmp_path: Path, ending: str) -> None:
    write_table(TABLE, tmp_path, "mine")
    printed = [line for line in (tmp_path / f"mine.{ending}").read_text().splitlines() if not line.startswith("%")]
    assert sum("SYNTHETIC" in line for line in printed) == 1
    if ending != "tex":  # there it is the table's last line
        place, numbers = (next(i for i, line in enumerate(printed) if text in line) for text in ("SYNTHETIC", "0.981"))
        assert place < numbers
    write_table(replace(TABLE, notes=("a note",)), tmp_path, "mine")
    assert "SYNTHETIC" not in (tmp_path / f"mine.{ending}").read_text()


def test_words_are_set_to_the_left_and_numbers_to_the_right(tmp_path: Path) -> None:
    write_table(TABLE, tmp_path, "mine")
    text = (tmp_path / "mine.html").read_text()
    assert '<th class="text">row</th><th class="text">state</th><th class="number">accuracy</th>' in text
    assert '<td class="number">–</td><td class="paper"></td>' in text


def test_bars_and_line_breaks_in_names_of_ones_own_end_no_cell_and_no_row(tmp_path: Path) -> None:
    rows = (PaperRow("a|b", "a|b\nc", ("x|y", "1\n2"), ("",)), ROWS[0])
    write_table(replace(TABLE, title="My\ntable", rows=rows, notes=("a note\nof two lines",)), tmp_path, "mine")
    markdown = (tmp_path / "mine.md").read_text().splitlines()
    assert markdown[0] == "# My table"
    lines = [line for line in markdown if line.startswith("|")]
    assert lines[2] == r"| a\|b c | x\|y | 1 2 |  |"
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [5] * 4
    for ending, mark in (("tex", "%"), ("csv", "#")):
        assert (tmp_path / f"mine.{ending}").read_text().splitlines()[0] == f"{mark} a note of two lines"
    with (tmp_path / "mine.csv").open(newline="") as file:
        assert [len(row) for row in list(csv.reader(file))[1:]] == [5] * 3


def test_a_bound_that_no_resample_gave_is_a_dash() -> None:
    assert estimate_cell({"value": 0.5, "low": None, "high": None}) == "0.500 [–, –]"
    assert estimate_cell({"value": 0.5, "low": None, "high": 0.5}, sign="+") == "+0.500 [–, +0.500]"


def test_a_title_of_ones_own_is_text_in_latex(tmp_path: Path) -> None:
    write_table(TABLE, tmp_path, "mine")
    assert r"a\_b \{c\} x\textasciicircum{}2 \textasciitilde{} \textbackslash{}d" in (tmp_path / "mine.tex").read_text()
