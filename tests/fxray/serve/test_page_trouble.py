"""The page where something is in the way: the service, a key, the reader who leaves."""

import pytest
from browser import TIMEOUT_MS
from fake_service import png

pytestmark = pytest.mark.slow


@pytest.fixture
def opened(browser, url):
    """The page; the browser's own console complains of each request that fails."""
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(url)
    yield page
    context.close()


def hand_in(page, number: int) -> None:
    files = [{"name": f"{k}.png", "mimeType": "image/png", "buffer": png(30 + k, 20)} for k in range(number)]
    page.set_input_files("#files", files)


def test_images_that_a_service_was_away_for_are_asked_for_again(opened):
    opened.route("**/v1/detect*", lambda route: route.abort())
    hand_in(opened, 6)
    opened.get_by_text("6 examined", exact=True).wait_for()
    assert opened.locator("#rows .failed").count() == 6
    opened.unroute("**/v1/detect*")
    opened.get_by_role("button", name="Try again", exact=True).click()
    opened.locator("#rows .verdict-generated").nth(5).wait_for()
    assert opened.locator("#again").is_hidden()
    assert opened.locator(".headline").inner_text() == "Looks generated"


def test_an_image_that_is_none_is_not_asked_for_again(opened):
    opened.set_input_files("#files", [{"name": "broken.png", "mimeType": "image/png", "buffer": b"none"}])
    opened.get_by_role("heading", name="Not examined").wait_for()
    assert opened.get_by_role("button", name="Try", exact=False).count() == 0


def refuse(route) -> None:
    route.fulfill(status=401, json={"detail": "the key is unknown"})


def test_a_key_that_is_not_given_is_asked_for_once_for_all_images(opened):
    opened.route("**/v1/detect*", refuse)
    hand_in(opened, 9)
    opened.get_by_role("button", name="Cancel").click()
    opened.get_by_text("9 examined", exact=True).wait_for()
    assert not opened.locator("#ask-key").is_visible()
    opened.get_by_role("button", name="Try again", exact=True).click()  # this asks once more
    opened.get_by_role("button", name="Cancel").click()


def test_a_key_that_is_refused_is_said_to_be(opened):
    opened.route("**/v1/detect*", refuse)
    hand_in(opened, 1)
    dialog = opened.locator("#ask-key")
    dialog.wait_for()
    assert "is not accepted" not in dialog.inner_text()
    opened.get_by_label("API key", exact=True).fill("fxray_wrong")
    opened.get_by_role("button", name="Use this key").click()
    dialog.get_by_text("The key that was given is not accepted.").wait_for()


def test_a_refusal_from_before_the_key_was_given_asks_for_no_other(opened):
    held = []
    opened.route("**/v1/detect*", lambda route: held.append(route) if len(held) < 2 else route.continue_())
    hand_in(opened, 2)
    opened.locator("#rows .running").nth(1).wait_for()
    opened.wait_for_timeout(200)
    refuse(held[0])
    opened.get_by_label("API key", exact=True).fill("fxray_right")
    opened.get_by_role("button", name="Use this key").click()
    opened.locator("#rows .verdict-generated").wait_for()
    refuse(held[1])
    opened.locator("#rows .verdict-generated").nth(1).wait_for()
    assert not opened.locator("#ask-key").is_visible()


def test_a_box_in_the_making_outlives_whatever_else_is_new(opened):
    hand_in(opened, 1)
    held = []
    opened.route("**/v1/stability*", lambda route: held.append(route))  # noqa: PLW0108  Playwright marks what it is given
    with opened.expect_request("**/v1/stability*"):
        opened.get_by_role("button", name="Try changed copies").click()
    opened.get_by_role("button", name="Mark another region").click()
    shown = opened.locator(".canvas img").bounding_box()
    opened.mouse.move(shown["x"] + 10, shown["y"] + 10)
    opened.mouse.down()
    opened.mouse.move(shown["x"] + 60, shown["y"] + 60)
    held[0].continue_()
    opened.locator(".trials").wait_for()
    assert opened.locator(".drawing").is_visible()
    opened.mouse.up()
    assert opened.locator(".mark-group").count() == 2
    assert opened.locator(".drawing").count() == 0


def is_held(page) -> bool:
    """Whether the browser asks before it leaves the page."""
    asked = []
    page.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.evaluate("() => { location.href = '/docs'; }")
    page.wait_for_timeout(500)
    return asked == ["beforeunload"]


def test_leaving_asks_while_images_wait(opened):
    opened.route("**/v1/detect*", lambda route: None)  # none is ever answered
    hand_in(opened, 2)
    opened.locator("#rows .running").nth(1).wait_for()
    assert is_held(opened)


def test_leaving_asks_while_corrections_are_not_taken_along(opened):
    hand_in(opened, 1)
    opened.get_by_role("button", name="Accept region 1").click()
    assert is_held(opened)
    with opened.expect_download():
        opened.get_by_role("button", name="Corrections").click()
    assert not is_held(opened)
    opened.wait_for_url("**/docs")
