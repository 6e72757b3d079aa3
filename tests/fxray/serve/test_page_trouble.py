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
