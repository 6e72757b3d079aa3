"""A training report in a browser. Skipped where there is no Playwright or no Chromium."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fxray.report.page import write_report

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


@pytest.fixture
def opened(make_run: Callable[..., Path]) -> Iterator[Callable[..., Any]]:
    """Opens the report of a run, with some preferences of the reader."""
    page_file = write_report(make_run()).page
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=100_000)

        def open_page(**preferences: str) -> Any:
            page = browser.new_context(**preferences).new_page()
            page.goto(page_file.as_uri())
            return page

        yield open_page
        browser.close()


def test_forced_colours_leave_which_line_is_which_and_the_intervals(opened: Callable[..., Any]) -> None:
    page = opened(forced_colors="active")
    colour = "all => all.map(e => getComputedStyle(e).backgroundColor + getComputedStyle(e).backgroundImage)"
    plain = page.locator("body").evaluate_all(colour)[0]
    for panel in page.locator("figure:has(.legend)").all():
        colours = panel.locator(".legend i").evaluate_all(colour)
        assert len({plain, *colours}) == 1 + len(colours)
    assert plain not in page.locator(".whisker, .whisker *").evaluate_all(colour)


def test_words_of_a_table_are_not_broken(opened: Callable[..., Any]) -> None:
    page = opened()
    lines = page.locator(".facts th").evaluate_all(
        "all => all.map(e => { const r = document.createRange(); r.selectNodeContents(e);"
        " return [e.textContent, new Set([...r.getClientRects()].map(box => box.y)).size]; })"
    )
    assert {name for name, _ in lines} >= {"Command", "Seed"}
    assert all(num_lines == 1 for name, num_lines in lines if " " not in name)
