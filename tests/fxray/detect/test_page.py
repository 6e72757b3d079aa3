"""The page of `detect` in a browser. Skipped where there is no Playwright or no Chromium."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from fxray.detect.page import write_page

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
TIMEOUT_MS = 100_000
PROBABILITIES = (0.1, 0.6, 0.9)


@pytest.fixture
def opened(tmp_path: Path):
    """Opens the page of three images, with some preferences of the reader."""
    regions = [{"box": [10, 5, 60, 45], "caption": "a hand"}]
    records = [
        {"file": f"{k}.png", "sha256": "", "size_bytes": 9, "width_px": 100, "height_px": 50, "provenance": None,
         "verdict": "generated", "assessment": "generated", "probability": probability, "raw_probability": None,
         "calibration": None, "regions": regions, "tags": [], "answer": "", "faults": [], "timings": None}
        for k, probability in enumerate(PROBABILITIES)
    ]  # fmt: skip
    write_page(tmp_path / "report.html", records, lambda _: b"", {})
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=TIMEOUT_MS)

        def open_page(**preferences: str):
            page = browser.new_context(**preferences).new_page()
            page.set_default_timeout(TIMEOUT_MS)
            page.goto((tmp_path / "report.html").as_uri())
            return page

        yield open_page
        browser.close()


def test_an_empty_bound_bounds_nothing(opened):
    page = opened()
    page.get_by_label("Lowest percentage").fill("50")
    assert page.locator("#shown").inner_text() == "2 of 3 shown"
    page.get_by_label("Highest percentage").fill("")
    assert page.locator("#shown").inner_text() == "2 of 3 shown"
    page.get_by_label("Lowest percentage").fill("")
    assert page.locator("#shown").inner_text() == "3 shown"


def test_forced_colours_leave_what_is_chosen_and_which_number_is_which_box(opened):
    page = opened(forced_colors="active")
    colour = "e => getComputedStyle(e).backgroundColor"
    buttons = page.locator("button[data-verdict]")
    assert buttons.nth(0).evaluate(colour) != buttons.nth(1).evaluate(colour)
    plain = page.locator("body").evaluate(colour)
    for mark in (".captions i", ".tally i"):
        assert page.locator(mark).first.evaluate(colour) != plain


def test_headings_follow_each_other_without_a_gap(opened):
    headings = opened().locator("h1, h2, h3, h4").evaluate_all("all => all.map(each => Number(each.tagName[1]))")
    assert headings[0] == 1
    assert all(level <= before + 1 for before, level in pairwise(headings))
