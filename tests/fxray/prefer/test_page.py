"""The page of a study in a browser. Skipped where there is no Playwright or no Chromium.

Screenshots go to the folder that FXRAY_SCREENSHOTS names.
"""

import asyncio
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from study_files import HOSTILE_CAPTION

from fxray.listening import bound_socket
from fxray.prefer.application import build_app
from fxray.prefer.ballots import read_ballots
from fxray.prefer.raters import invite, rater_of
from fxray.prefer.votes import cast, open_positions

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TIMEOUT_MS = 100_000
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
WIDE, PHONE = (1280, 800, "light"), (390, 844, "dark")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=TIMEOUT_MS)
        yield browser
        browser.close()


@pytest.fixture
def served(store):
    import uvicorn

    bound = bound_socket("127.0.0.1", 0, "the port")
    server = uvicorn.Server(uvicorn.Config(build_app(store, ("127.0.0.1",)), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
        assert thread.is_alive()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def link(store, served):
    store.facts |= {"pairs_per_rater": 4, "checks_per_rater": 0}
    return f"{served}#{invite(store, 'ana')}"


@pytest.fixture
def opened(browser, request):
    """Opens pages; at the end nothing may have been said on their consoles but of lost connections."""
    contexts, said, asked = [], [], []

    def open_page(url, look=WIDE):
        width, height, scheme = look
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda made: asked.append(made.url))
        page.goto(url)
        return page

    open_page.asked = asked
    yield open_page
    for k, context in enumerate(contexts):
        if folder := os.environ.get("FXRAY_SCREENSHOTS"):
            context.pages[0].screenshot(path=Path(folder) / f"prefer-{request.node.name}-{k}.png")
        context.close()
    assert [text for text in said if "Failed to load resource" not in text] == []


def at_pair(page, number):
    page.get_by_text(f"Pair {number} of 4", exact=True).wait_for()
    page.locator("#choose-left[aria-disabled=false]").wait_for()


@pytest.mark.parametrize("look", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_rater_judges_by_key_and_button_takes_back_and_goes_on_after_a_reload(opened, link, store, look):
    page = opened(link, look)
    at_pair(page, 1)
    assert page.locator("#undo").is_disabled()
    assert (
        page.get_by_role("img", name="Annotation A").count()
        == page.get_by_role("img", name="Annotation B").count()
        == 1
    )
    captions = page.locator(".caption").all_inner_texts()
    assert len(captions) == 2
    assert page.locator(".side-of img").count() == 2  # of captions none is markup
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.keyboard.press("1")
    at_pair(page, 2)
    page.keyboard.press("ArrowDown")
    at_pair(page, 3)
    page.keyboard.press("u")
    at_pair(page, 2)
    page.reload()
    at_pair(page, 2)
    page.get_by_role("button", name="B is better").click()
    at_pair(page, 3)
    page.get_by_role("button", name="No preference").press("Enter")
    at_pair(page, 4)
    page.locator(".view").first.focus()  # the stage's own key 1 must not take this
    page.keyboard.press("2")
    page.get_by_role("heading", name="Thank you").wait_for()
    assert [ballot.choice for ballot in read_ballots(store)] == ["left", "right", "neutral", "right"]
    assert all(0 < ballot.seconds < 100 for ballot in read_ballots(store))
    assert page.title() == "Which annotation is better?"
    assert {url.split("/")[2] for url in opened.asked if not url.startswith("blob:")} == {link.split("/")[2]}
    assert not any(link.partition("#")[2] in url.partition("#")[0] for url in opened.asked)


def test_hostile_captions_are_text(opened, link, store):
    page = opened(link)
    seen = []
    for number in range(1, 5):
        at_pair(page, number)
        seen += page.locator(".caption").all_inner_texts()
        page.keyboard.press("3")
    page.get_by_role("heading", name="Thank you").wait_for()
    assert [caption for caption in seen if HOSTILE_CAPTION in caption]


def test_a_lost_answer_and_a_server_that_is_away_cost_no_vote_and_double_none(opened, link, store):
    page = opened(link)
    at_pair(page, 1)
    passed = []

    def lose(route):
        passed.append(route.request.url)
        if len(passed) == 1:
            route.fetch()  # saved, but the page does not hear of it
        if len(passed) < 3:
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/votes/*", lose)
    page.keyboard.press("1")
    page.get_by_text("Trying again").wait_for()
    page.keyboard.press("2")  # too early: nothing is chosen while a vote is on its way
    at_pair(page, 2)
    assert len(set(passed)) == 1
    assert [ballot.choice for ballot in read_ballots(store)] == ["left"]
    assert page.locator("#notice").is_hidden()


def test_two_windows_on_one_link_agree_on_what_is_judged(opened, link, store):
    one, other = opened(link), opened(link, PHONE)
    at_pair(one, 1)
    at_pair(other, 1)
    one.keyboard.press("1")
    at_pair(one, 2)
    other.keyboard.press("2")
    at_pair(other, 2)
    assert "judged already" in other.locator("#notice").inner_text()
    assert [ballot.choice for ballot in read_ballots(store)] == ["left"]


def test_a_link_that_is_cut_off_or_finished_says_so(opened, served, link, store):
    page = opened(link[:-4])
    page.get_by_text("This link is not known.").wait_for()
    assert page.locator("#choices").is_hidden()
    opened(served).get_by_text("needs the whole link").wait_for()
    rater = rater_of(store, link.partition("#")[2])
    for position in open_positions(store, rater):
        cast(store, rater, f"{position:032x}", position, "neutral", None)
    done = opened(link)
    done.get_by_role("heading", name="Thank you").wait_for()
    done.keyboard.press("u")
    at_pair(done, 4)
