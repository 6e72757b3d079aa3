"""The page in a browser, over the fake detector; see `browser.py`."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from browser import choose, drag
from fake_service import HOSTILE_CAPTION, png
from PIL import Image

pytestmark = pytest.mark.slow
ROTATED = 6
"""EXIF orientation: the camera was turned, a quarter to the right makes it upright."""


def jpeg(width: int, height: int, orientation: int = 1) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "upright"),
    [
        (png(320, 100), (320, 100)),
        (jpeg(300, 200, ROTATED), (200, 300)),
        (png(9, 7), (9, 7)),
        (png(3, 400), (3, 400)),
        (jpeg(6000, 4000), (6000, 4000)),
    ],
    ids=["wide", "rotated", "tiny", "narrow", "huge"],
)
def test_a_box_lies_where_its_pixels_are(page, content, upright):
    choose(page, ("a.png", content))
    image = page.locator(".canvas img")
    image.evaluate("image => image.decode()")
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == list(upright)
    for button in ("Fit", "Original pixels"):
        page.get_by_role("button", name=button).click()
        shown, box = (
            page.locator(place).evaluate("e => (r => [r.x, r.y, r.width, r.height])(e.getBoundingClientRect())")
            for place in (".canvas img", ".mark-group .line")
        )
        assert box == pytest.approx([shown[0], shown[1], shown[2] / 2, shown[3] / 2], abs=1)
        assert shown[2] / shown[3] == pytest.approx(upright[0] / upright[1], rel=0.05, abs=1 / shown[3])
    assert shown[2:] == pytest.approx(upright, abs=1)


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


def test_a_name_turns_no_text_round(page):
    choose(page, ("holiday\N{RIGHT-TO-LEFT OVERRIDE}gnp.jpg", png(300, 200)))
    assert page.locator(".file").text_content() == "holiday gnp.jpg"
    assert page.locator("#rows").inner_text().startswith("holiday gnp.jpg")


def test_an_unsure_answer_says_so_and_what_its_probability_rests_on(page):
    choose(page, ("unsure.png", png(300, 200)))
    assert page.locator(".headline").inner_text() == "Unsure"
    said = page.locator(".weight").inner_text()
    assert "Probability that it is generated: 87\N{NO-BREAK SPACE}%, calibrated on 512 images of validation" in said
    assert "From 30\N{NO-BREAK SPACE}% to 80\N{NO-BREAK SPACE}% it is unsure." in said
    band, scale = page.locator(".band").bounding_box(), page.locator(".scale").bounding_box()
    assert band["width"] / scale["width"] == pytest.approx(0.5, abs=0.01)


def test_what_looks_real_with_marked_flaws_is_not_called_flawless_and_its_verdict_is_the_readers(page):
    choose(page, ("real.png", png(300, 200)))
    said = page.locator(".side").inner_text()
    assert "Looks real" in said
    assert "The model marked flaws all the same." in said
    assert "No flaw was found" not in said
    assert page.locator("[name=own-verdict]:checked").count() == 0
    assert page.get_by_role("button", name="Corrections").is_disabled()


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


def test_what_is_typed_and_opened_outlives_whatever_else_is_new(page):
    choose(page, ("a.png", png(300, 200)), ("b.png", png(200, 300)))
    page.get_by_text("2 examined", exact=True).wait_for()
    page.get_by_text("The answer itself").click()
    page.get_by_role("button", name="Edit region 1").click()
    page.get_by_label("Caption").fill("hand of seven fingers")
    page.get_by_label("left, px").fill("7")
    page.get_by_role("button", name="Accept region 1").click()
    held = []
    page.route("**/v1/stability*", lambda route: held.append(route))  # noqa: PLW0108  Playwright marks what it is given
    with page.expect_request("**/v1/stability*"):
        page.get_by_role("button", name="Try changed copies").click()
    caption = page.get_by_label("Caption")
    caption.focus()
    caption.evaluate("input => input.setSelectionRange(5, 5)")
    held[0].continue_()
    page.locator(".trials").wait_for()
    page.keyboard.type("left ")
    page.get_by_role("button", name="b.png").click()
    assert page.get_by_label("Caption").count() == 0
    page.get_by_role("button", name="a.png").click()
    assert page.get_by_label("Caption").input_value() == "hand left of seven fingers"
    assert page.get_by_label("left, px").input_value() == "7"
    assert page.locator("details").get_attribute("open") is not None
    page.get_by_role("button", name="Edit region 1").click()  # closed by hand, it forgets
    page.get_by_role("button", name="Edit region 1").click()
    assert page.get_by_label("Caption").input_value() == HOSTILE_CAPTION


def test_an_open_editor_follows_what_is_drawn(page):
    choose(page, ("a.png", png(300, 200)))
    page.get_by_role("button", name="Edit region 1").click()
    page.get_by_label("Caption").fill("hand of seven fingers")
    page.get_by_role("button", name="Redraw region 1").click()
    drag(page, (30, 40), (130, 140))
    shown = [float(page.get_by_label(f"{name}, px").input_value()) for name in ("left", "top", "right", "bottom")]
    assert shown == pytest.approx([30, 40, 130, 140], abs=1)
    page.get_by_role("button", name="Apply").click()
    box = [float(value) for value in page.locator(".mark-group").get_attribute("data-box").split()]
    assert box == shown
    assert "hand of seven fingers" in page.locator(".caption").inner_text()


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
    page.get_by_role("button", name="Try changed copies").click()
    page.locator(".trials").wait_for()
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
    assert report.get_by_text("does not hold under 1 of 9 changes").count() == 1
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


def test_a_picture_that_the_browser_cannot_draw_is_refused_in_words(page):
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "TIFF")
    choose(page, ("a.tiff", buffer.getvalue()))
    page.get_by_role("button", name="Annotated PNG").click()
    said = page.get_by_role("alert").filter(has_text="Annotated PNG cannot be made: ")
    said.wait_for()
    with page.expect_download():
        page.get_by_role("button", name="JSON", exact=True).click()
    assert page.get_by_role("alert").filter(has_text="cannot be made").count() == 0


def test_regions_of_a_try_that_broke_off_are_forgotten_at_the_next(page):
    counts = page.evaluate("""async () => {
        const { examination } = await import("/static/examination.js");
        const item = examination(new File(["x"], "a.png"), ""), counts = [];
        for (const size of [{ width_px: 2, height_px: 1 }, { width_px: 2, height_px: 1 }]) {
            item.draft("image", { image: size });
            item.draft("region", { region: { box: [0, 0, 1, 1], caption: "hand bent" } });
            counts.push(item.regions.length);
        }
        return counts;
    }""")
    assert counts == [1, 1]


def test_drawing_gives_the_pixels_under_the_pointer(page):
    choose(page, ("a.png", png(300, 200)))
    page.get_by_role("button", name="Redraw region 1").click()
    drag(page, (30, 40), (130, 140))
    box = [float(value) for value in page.locator(".mark-group").get_attribute("data-box").split()]
    assert box == pytest.approx([30, 40, 130, 140], abs=1)


def test_numbers_of_boxes_whose_corners_are_close_stand_beside_each_other(page):
    choose(page, ("a.png", png(300, 200)))
    page.get_by_role("button", name="Mark another region").click()
    image = page.locator(".canvas img").bounding_box()
    page.mouse.move(image["x"] + 10, image["y"] + 10)
    page.mouse.down()
    page.mouse.move(image["x"] + image["width"] / 3, image["y"] + image["height"] / 3)
    page.mouse.up()
    first, second = (badge.bounding_box() for badge in page.locator(".badge").all())
    assert first["x"] + first["width"] <= second["x"] + 2  # the rims meet


def test_what_becomes_of_the_answer_is_shown_when_asked_for(page):
    choose(page, ("a.png", png(300, 200)))
    page.get_by_role("button", name="Try changed copies").click()
    page.locator(".trials").wait_for()
    panel = page.locator(".stability")
    assert "“Looks generated” does not hold under 1 of 9 changes." in panel.inner_text()
    assert [row.split("\t") for row in panel.locator("tr.flipped").all_inner_texts()] == [
        ["resized to 50%", "real", "20\N{NO-BREAK SPACE}%", "0.00"]
    ]
    assert panel.locator("tbody tr").count() == 10


def test_each_image_is_examined_by_the_model_that_was_chosen(page):
    model = page.get_by_label("Model")
    model.locator("option").nth(1).wait_for(state="attached")  # the page asks the service for them
    assert model.locator("option").all_inner_texts() == ["default", "strict"]
    choose(page, ("a.png", png(300, 200)))
    model.select_option("strict")
    page.set_input_files("#files", [{"name": "b.png", "mimeType": "image/png", "buffer": png(200, 300)}])
    page.get_by_text("2 examined", exact=True).wait_for()
    for name, answered in (("a.png", "fake+0"), ("b.png", "fake+1")):
        page.get_by_role("button", name=name).click()
        assert answered in page.locator("details").last.text_content()


def test_commands_of_the_interfaces_page_ask_the_service_that_shows_it(page):
    origin = page.evaluate("location.origin")
    page.goto(f"{origin}/docs")
    page.wait_for_selector("#routes section")
    commands = page.locator("#commands").inner_text().splitlines()
    assert [command.split()[-1] for command in commands] == [f"{origin}/v1/detect"] * 2


def test_the_table_says_probability_where_all_answers_are_calibrated_and_a_failed_image_has_its_name(page):
    head = page.locator("#weight-head")
    choose(page, ("unsure.png", png(300, 200)))
    assert head.inner_text().lower() == "probability of “generated”"
    page.set_input_files(
        "#files",
        [
            {"name": "uncalibrated.png", "mimeType": "image/png", "buffer": png(200, 300)},
            {"name": "broken.png", "mimeType": "image/png", "buffer": b"no image"},
        ],
    )
    page.get_by_text("3 examined", exact=True).wait_for()
    assert head.inner_text().lower() == "weight on “generated”"
    page.get_by_role("button", name="broken.png").click()
    assert "broken.png" in page.locator(".side").inner_text()
    assert "Not examined" in page.locator(".side").inner_text()


def test_a_touch_that_the_system_takes_away_leaves_no_half_drawn_box(page):
    choose(page, ("a.png", png(300, 200)))
    page.get_by_role("button", name="Redraw region 1").click()
    image = page.locator(".canvas img").bounding_box()
    page.mouse.move(image["x"] + 10, image["y"] + 10)
    page.mouse.down()
    page.mouse.move(image["x"] + 60, image["y"] + 60)
    assert float(page.locator("rect.drawing").get_attribute("width")) > 0
    page.locator("rect.drawing").dispatch_event("pointercancel", {"bubbles": True})
    page.mouse.move(image["x"] + 90, image["y"] + 90)
    assert float(page.locator("rect.drawing").get_attribute("width")) == 0
    page.mouse.up()
    drag(page, (30, 40), (130, 140))
    box = [float(value) for value in page.locator(".mark-group").get_attribute("data-box").split()]
    assert box == pytest.approx([30, 40, 130, 140], abs=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_report_numbers_its_boxes_and_keeps_the_shape_of_an_image_that_no_browser_shows(page, browser, kind):
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200)).save(buffer, kind)
    choose(page, ("a.img", buffer.getvalue()))
    with page.expect_download() as download:
        page.get_by_role("button", name="Report").click()
    opened = browser.new_page()
    opened.set_content(Path(download.value.path()).read_text("utf-8"))
    frame, box = (opened.locator(place).first.bounding_box() for place in (".picture", "rect.line"))
    assert frame["width"] / frame["height"] == pytest.approx(1.5, rel=0.01)
    assert box["width"] / frame["width"] == pytest.approx(0.5, rel=0.02)
    assert opened.locator(".picture text").all_text_contents() == ["1"]
    number = opened.locator(".picture text").bounding_box()
    assert frame["x"] <= number["x"] < box["x"] + box["width"]
    opened.close()
