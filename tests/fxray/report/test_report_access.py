"""Of a report: what is needed to read it without a mouse or a view of the whole."""

import re
from collections.abc import Callable
from pathlib import Path

from fxray.report.page import write_report


def test_tables_that_scroll_can_be_reached_by_keys_and_have_names(make_run: Callable[..., Path]) -> None:
    text = write_report(make_run()).page.read_text("utf-8")
    tables = re.findall(r'<div class="scroll"[^>]*>', text)
    names = [re.search(r'tabindex="0" role="region" aria-label="(Table of [^"]+)"', table) for table in tables]
    assert all(names)
    assert len({name[1] for name in names if name}) == len(tables) >= 2
