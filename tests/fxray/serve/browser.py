"""The page in a browser, over the fake detector.

What uses it is skipped where there is no Playwright or no Chromium; `make test-page` wants a Chromium alone.

Screenshots go to the folder that FXRAY_SCREENSHOTS names.
"""

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_service import FakeBackend, settings_of

TIMEOUT_MS = 100_000
SCREENS = {"desktop": (1280, 860, "light"), "phone": (360, 780, "dark")}


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the service listens."""
    import uvicorn

    from fxray.serve.api import build_app
    from fxray.serve.service import Service

    roomy = {"max_waiting": 100, "max_image_bytes": 2**25, "max_request_bytes": 2**26, "max_image_pixels": 10**8}
    roomy |= {"max_upload_bytes": 2**28, "upload_deadline_s": 60.0, "request_deadline_s": 60.0}
    service = Service(FakeBackend(), settings_of(tmp_path_factory.mktemp("serve"), **roomy))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build_app(service), log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
        assert thread.is_alive()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium of the system. While it runs, no test of this process can call `asyncio.run`."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=TIMEOUT_MS)
        yield browser
        browser.close()


@pytest.fixture(params=SCREENS)
def page(browser, url, request):
    """The page as it opens. At the end nothing is wider than the screen, and the console holds no complaint."""
    width, height, scheme = SCREENS[request.param]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    yield page
    wide = page.evaluate("document.documentElement.scrollWidth")
    if folder := os.environ.get("FXRAY_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{request.node.name}.png", full_page=True)
    context.close()
    assert said == []  # no error, and nothing that the policy stopped
    assert wide <= width


def choose(page, *images: tuple[str, bytes]) -> None:
    """Hands images to the page, and waits for the first answer."""
    files = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in images]
    page.set_input_files("#files", files)
    page.wait_for_selector("details summary")


def drag(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws over the shown image from one of its own pixels to another."""
    shown = page.locator(".canvas img").bounding_box()
    scale = shown["width"] / page.locator(".canvas img").evaluate("image => image.naturalWidth")
    page.mouse.move(shown["x"] + start[0] * scale, shown["y"] + start[1] * scale)
    page.mouse.down()
    page.mouse.move(shown["x"] + end[0] * scale, shown["y"] + end[1] * scale)
    page.mouse.up()
