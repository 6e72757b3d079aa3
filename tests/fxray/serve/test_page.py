"""The page in a browser, over the fake detector. Skipped where there is no Playwright or no Chromium.

Screenshots go to the folder that FXRAY_SCREENSHOTS names.
"""

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_service import HOSTILE_CAPTION, FakeBackend, png, settings_of
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TIMEOUT_MS = 100_000
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    import uvicorn

    from fxray.serve.api import build_app
    from fxray.serve.keys import KeyRing
    from fxray.serve.service import Service

    roomy = {"max_waiting": 100, "max_image_bytes": 2**25, "max_request_bytes": 2**26, "max_image_pixels": 10**8}
    roomy |= {"upload_deadline_s": 60.0, "request_deadline_s": 60.0}
    service = Service(FakeBackend(), settings_of(tmp_path_factory.mktemp("serve"), **roomy), KeyRing({}))
    server = uvicorn.Server(uvicorn.Config(build_app(service), port=8792, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
        assert thread.is_alive()
    yield "http://127.0.0.1:8792"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=TIMEOUT_MS)
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 860, "light"), (390, 844, "dark")], ids=["desktop", "phone"])
def page(browser, url, request):
    width, height, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    yield page
    if folder := os.environ.get("FXRAY_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{request.node.name}.png", full_page=True)
    context.close()
    assert said == []  # no error, and nothing that the policy stopped


def choose(page, *images: tuple[str, bytes]) -> None:
    files = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in images]
    page.set_input_files("#files", files)
    page.wait_for_selector("details summary")


@pytest.mark.parametrize("size", [(320, 100), (100, 320), (9, 7), (1500, 1000)])
def test_a_box_lies_where_its_pixels_are(page, size):
    choose(page, ("a.png", png(*size)))
    page.locator(".canvas img").evaluate("image => image.decode()")
    image = page.locator(".canvas img").bounding_box()
    box = page.locator(".mark-group .line").bounding_box()
    x_scale, y_scale = image["width"] / size[0], image["height"] / size[1]
    expected = (image["x"], image["y"], size[0] / 2 * x_scale, size[1] / 2 * y_scale)
    for got, want in zip((box["x"], box["y"], box["width"], box["height"]), expected, strict=True):
        assert got == pytest.approx(want, abs=3)  # the line is 2.5 px wide, and counts
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_caption_is_text_and_lights_up_with_its_box(page):
    choose(page, ("a.png", png(300, 200)))
    assert page.locator(".caption").inner_text().endswith(HOSTILE_CAPTION)
    assert page.locator(".side img").count() == 0
    assert page.title() == "fxray"
    page.locator(".caption").focus()
    assert page.locator(".mark-group.selected").count() == 1
    page.evaluate("document.activeElement.blur()")
    page.locator(".mark-group").focus()
    assert page.locator(".region.selected .caption").get_attribute("aria-pressed") == "true"


def test_an_unsure_answer_says_so_and_what_its_probability_rests_on(page):
    choose(page, ("unsure.png", png(300, 200)))
    assert page.locator(".headline").inner_text() == "Unsure"
    said = page.locator(".weight").inner_text()
    assert "Probability that it is generated: 87 %, calibrated on 512 images of validation.parquet (40 sources," in said
    assert "From 30 % to 80 % it is unsure." in said
    band, scale = page.locator(".band").bounding_box(), page.locator(".scale").bounding_box()
    assert band["width"] / scale["width"] == pytest.approx(0.5, abs=0.01)


def test_what_the_file_says_of_itself_stands_apart(page):
    choose(page, ("a.png", png(300, 200)))
    said = page.locator(".origin").inner_text()
    assert said.startswith("What the file says of itself")
    assert "which proves nothing" in said


def test_corrections_are_read_by_the_import(page, tmp_path):
    from fxray.data.dataset import Dataset

    choose(page, ("hand.png", png(300, 200)))
    page.get_by_role("button", name="Edit region 1").click()
    for name, value in (("left", "11"), ("top", "12"), ("right", "113"), ("bottom", "94")):
        page.get_by_label(f"{name}, px").fill(value)
    page.get_by_label("Caption").fill("hand of six fingers")
    page.get_by_role("button", name="Apply").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Corrections").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.name == "hand.labelme.json"
    dst = tmp_path / "dataset"
    done = subprocess.run(
        [sys.executable, "-m", "fxray", "data", "import", "labelme", str(file), str(dst), "--strict"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (sample,) = Dataset.open(dst / "dataset.parquet").samples
    assert sample.annotation.verdict == "generated"
    (region,) = sample.annotation.regions
    assert (tuple(region.box), region.caption) == ((11, 12, 113, 94), "hand of six fingers")


def test_rejected_regions_leave_and_contradictions_are_not_saved(page):
    choose(page, ("a.png", png(300, 200)))
    page.get_by_role("button", name="Reject region 1").click()
    assert page.get_by_role("button", name="Corrections").is_disabled()
    page.get_by_label("real", exact=True).check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Corrections").click()
    document = json.loads(Path(download.value.path()).read_text())
    assert (document["flags"], document["shapes"]) == ({"real": True}, [])


def test_many_images_make_a_table_and_a_bad_one_does_not_stop_it(page):
    choose(page, ("a.png", png(30, 20)), ("broken.png", b"no image"), ("b.png", png(40, 20)))
    page.get_by_text("3 examined", exact=True).wait_for()
    rows = page.locator("#rows tr").all_inner_texts()
    assert ["not examined" in row for row in rows] == [False, True, False]
    page.get_by_role("button", name="broken.png").click()
    assert "no image" in page.locator(".side").inner_text()
    page.get_by_role("button", name="b.png").press("Enter")
    assert page.locator(".file").inner_text() == "b.png"
    with page.expect_download() as download:
        page.get_by_role("button", name="Save all").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert [found["width_px"] for found in saved["detections"]] == [30, 40]


def test_a_report_needs_nothing_else_and_holds_no_markup_of_the_model(page, browser):
    choose(page, ("a.png", png(300, 200)))
    with page.expect_download() as download:
        page.get_by_role("button", name="Report").click()
    text = Path(download.value.path()).read_text()
    context = browser.new_context()
    report = context.new_page()
    asked: list[str] = []
    report.on("request", lambda request: asked.append(request.url))
    report.set_content(text)
    assert [address for address in asked if not address.startswith("data:")] == []
    assert report.locator("li").inner_text().endswith(HOSTILE_CAPTION)
    assert report.locator("img").count() == 1
    assert report.title() != "1"
    context.close()


def test_a_picture_to_take_along_has_the_pixels_of_the_original(page):
    original = Image.open(io.BytesIO(png(600, 400)))
    choose(page, ("a.png", png(600, 400)))
    with page.expect_download() as download:
        page.get_by_role("button", name="Annotated PNG").click()
    picture = Image.open(download.value.path()).convert("RGB")
    assert picture.width == 600
    assert picture.height > 400
    assert picture.getpixel((500, 300)) == original.getpixel((500, 300))
    assert picture.getpixel((300, 100)) == (0xD5, 0x5E, 0x00)  # the right edge of the box


def test_drawing_gives_the_pixels_under_the_pointer(page):
    choose(page, ("a.png", png(300, 200)))
    page.get_by_role("button", name="Redraw region 1").click()
    image = page.locator(".canvas img").bounding_box()
    scale = image["width"] / 300
    page.mouse.move(image["x"] + 30 * scale, image["y"] + 40 * scale)
    page.mouse.down()
    page.mouse.move(image["x"] + 130 * scale, image["y"] + 140 * scale)
    page.mouse.up()
    box = [float(value) for value in page.locator(".mark-group").get_attribute("data-box").split()]
    assert box == pytest.approx([30, 40, 130, 140], abs=1)
