"""Tables in terminals of several widths."""

import pytest
from rich.table import Table

from fxray.cli import tables
from fxray.cli.tables import print_table

ESTIMATE = "0.712 [0.654, 0.770]"


def wide_table(num_numbers: int) -> Table:
    table = Table(title="Details", caption="notes", title_justify="left", caption_justify="left")
    table.add_column("part", no_wrap=True)
    table.add_column("n", justify="right")
    for k in range(num_numbers):
        table.add_column(f"precision{k}", justify="right")
    table.add_row("stable-diffusion", "1200", *[ESTIMATE] * num_numbers)
    table.add_row("Overall", "12000", *["–"] * num_numbers)
    return table


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 240])
def test_no_number_is_broken_at_any_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(tables, "PLAIN_WIDTH", width)
    print_table(wide_table(8))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    words = printed.replace("┃", " ").replace("│", " ").split()
    assert [words.count(word) for word in ("0.712", "[0.654,", "0.770]")] == [8, 8, 8]
    assert [words.count(f"precision{k}") for k in range(8)] == [1] * 8
    assert [words.count(word) for word in ("Details", "notes", "1200", "n")] == [1, 1, 1, 1]
    assert words.count("stable-diffusion") == printed.count("┏")
    assert words.count("stable-diffusion") == 1 or width <= 120


def test_a_name_that_is_longer_than_its_column_goes_on_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "PLAIN_WIDTH", 40)
    table = Table("rule", "first of them")
    table.add_row("duplicate-across-splits", "train.parquet/" + "x" * 60)
    print_table(table)
    left, right = zip(
        *(line.split("│")[1:3] for line in capsys.readouterr().out.splitlines() if "│" in line), strict=True
    )
    assert "".join(map(str.strip, left)) == "duplicate-across-splits"
    assert "".join(map(str.strip, right)) == "train.parquet/" + "x" * 60


def test_a_table_of_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Table(title="Tags of generated images", show_header=False))
    assert "…" not in capsys.readouterr().out
