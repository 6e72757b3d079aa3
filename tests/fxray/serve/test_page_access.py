"""The page without a mouse, and for those who do not see it: keys alone, and axe-core's rules."""

from pathlib import Path

import pytest
from browser import TIMEOUT_MS, choose
from fake_service import png

pytestmark = pytest.mark.slow
MAX_STOPS = 60
KEY = "fxray_right-key"
MARK = """e => e.matches(".mark-group") ? getComputedStyle(e.querySelector(".rim")).strokeDasharray
  : getComputedStyle(e.type === "file" ? e.parentElement : e).outlineStyle"""
"""How the focus shows: as an outline, or as the dashes of a box."""


def go_to(page, selector: str) -> None:
    """Presses Tab until the focus is there; wherever it stops on the way, it can be seen."""
    for _ in range(MAX_STOPS):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.evaluate(MARK) != "none", focused.evaluate("e => e.outerHTML.slice(0, 200)")
        if focused.evaluate("(e, selector) => e.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached with Tab")


def test_from_an_image_to_its_corrections_with_keys_alone(page, tmp_path):
    (tmp_path / "photo.png").write_bytes(png(300, 200))
    go_to(page, "#files")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(tmp_path / "photo.png")
    page.wait_for_selector("details summary")
    assert page.locator("#announcer").inner_text() == "photo.png: Looks generated, 1 region."
    go_to(page, ".mark-group")
    assert page.locator(".region.selected").count() == 1
    go_to(page, ".caption")
    for key, name, pressed in (("Enter", "accept", "true"), ("Space", "reject", "true"), ("Space", "reject", "false")):
        if page.locator(":focus").get_attribute("data-focus") != f"{name}-0":
            go_to(page, f"[data-focus={name}-0]")
        page.keyboard.press(key)
        assert page.locator(":focus").get_attribute("data-focus") == f"{name}-0"  # it stays where the reader is
        assert page.locator(":focus").get_attribute("aria-pressed") == pressed
    go_to(page, "[data-focus=save-corrections]")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "photo.labelme.json"
    assert Path(download.value.path()).stat().st_size > 0


def show_results(page) -> None:
    choose(page, ("a.png", png(300, 200)), ("broken.png", b"no image"))
    page.get_by_text("2 examined", exact=True).wait_for()
    page.get_by_role("button", name="Edit region 1").click()
    page.get_by_role("button", name="Try changed copies").click()
    page.locator(".trials").wait_for()
    page.locator("details summary").click()


@pytest.fixture
def guarded(browser, url):
    """The page of a service that wants a key; the browser's own console complains of each refusal."""
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.route("**/v1/models", answer)
    page.goto(url)
    yield page
    context.close()


def answer(route) -> None:
    if route.request.headers.get("authorization") == f"Bearer {KEY}":
        route.continue_()
    else:
        route.fulfill(status=401, json={})


@pytest.mark.parametrize("wrong", [f"\u200b{KEY}", KEY.replace("-", "\N{EN DASH}"), "\xfc"])
def test_a_key_that_no_header_can_hold_is_refused_in_the_dialog_and_the_right_one_is_taken(guarded, wrong):
    dialog, field = guarded.locator("#ask-key"), guarded.get_by_label("API key", exact=True)
    dialog.wait_for()
    field.fill(wrong)
    guarded.get_by_role("button", name="Use this key").click()
    assert dialog.is_visible()
    assert field.evaluate("e => e.validity.patternMismatch")
    assert "Copy it again" in field.get_attribute("title")
    field.fill(f" {KEY}\t")
    guarded.get_by_role("button", name="Use this key").click()
    guarded.get_by_label("Model").locator("option").nth(1).wait_for(state="attached")
    assert guarded.evaluate("Object.values(sessionStorage)") == [KEY]


def test_a_key_that_no_header_can_hold_can_be_given_up(guarded):
    guarded.get_by_label("API key", exact=True).fill(f"\u200b{KEY}")
    guarded.get_by_role("button", name="Cancel").click()
    guarded.locator("#notice").wait_for()
    assert not guarded.locator("#ask-key").is_visible()
    assert guarded.evaluate("Object.values(sessionStorage)") == []


STATES = {
    "start": lambda page: None,
    "results": show_results,
    "failure": lambda page: (show_results(page), page.get_by_role("button", name="broken.png").click()),
    "key": lambda page: page.evaluate("document.getElementById('ask-key').showModal()"),
    "interface": lambda page: (page.get_by_role("link", name="Interface").click(), page.wait_for_selector(".route")),
}


@pytest.mark.parametrize("state", STATES)
def test_axe_finds_nothing(page, state):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    STATES[state](page)
    found = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []


def test_a_region_is_marked_with_keys_alone(page):
    choose(page, ("a.png", png(300, 200)))
    page.locator("[data-focus=add]").focus()
    page.keyboard.press("Enter")
    assert "Enter" in page.locator(".zoom-label").inner_text()  # a status: it is said, too
    page.keyboard.press("Escape")
    assert page.locator(".zoom-label").inner_text() == "fitted"
    assert page.locator(".mark-group").count() == 1
    page.locator("[data-focus=add]").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.locator(":focus").get_attribute("data-focus") == "caption-1"
    page.keyboard.type("a hand")
    for name, value in (("left", 10), ("top", 20), ("right", 110), ("bottom", 90)):
        page.keyboard.press("Tab")
        assert page.locator(":focus").get_attribute("data-focus") == f"{name}-1"
        page.keyboard.type(str(value))
    page.keyboard.press("Enter")
    assert page.locator(".mark-group").nth(1).get_attribute("data-box") == "10 20 110 90"


@pytest.fixture
def narrow_forced(browser, url):
    """The page as narrow as any must be shown, by somebody who chose its colours."""
    context = browser.new_context(viewport={"width": 320, "height": 640}, forced_colors="active")
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(url)
    yield page
    context.close()


def test_the_smallest_screen_and_colours_of_the_readers_own_lose_nothing(narrow_forced):
    page = narrow_forced
    page.locator("#choice").wait_for()
    choose(page, ("a.png", png(300, 200)))
    page.get_by_role("button", name="Accept region 1").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    colour = "e => getComputedStyle(e).backgroundColor"
    accept, reject = (page.get_by_role("button", name=f"{what} region 1") for what in ("Accept", "Reject"))
    assert accept.evaluate(colour) != reject.evaluate(colour)
    for mark in (".marker", ".number"):
        assert page.locator(mark).first.evaluate(colour) != page.locator("body").evaluate(colour)
    assert "gradient" in page.locator(".scale").evaluate("e => getComputedStyle(e).backgroundImage")
