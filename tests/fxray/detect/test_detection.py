"""What a detection says in words and as a picture."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fxray.detect.detection import Detection, Timings, Versions, open_picture
from fxray.errors import DataError
from fxray.schema import Box, Region, Tag, Verdict

ANSWERED = Detection(
    name="photos/a.png",
    sha256="",
    width_px=60,
    height_px=40,
    verdict=Verdict.GENERATED,
    probability=0.9,
    raw_probability=0.9,
    assessment="generated",
    calibration=None,
    regions=(Region(Box(10, 10, 30, 30), "Hand\nbent"),),
    tags=(Tag.STRUCTURE,),
    answer="",
    faults=(),
    is_strict=True,
    timings=Timings(0, 0),
    versions=Versions("0.0", "tiny", "", ""),
)


def test_its_text_says_how_sure_where_and_why() -> None:
    first, second, *rest = ANSWERED.as_text().splitlines()
    assert first == "photos/a.png: looks generated. This is evidence to be checked, not proof."
    assert second.startswith("  90 % of the model's weight is on generated (uncalibrated")
    assert rest[-2:] == ["  1. Hand bent  [x 10 to 30, y 10 to 30]", "  tags: structure errors"]
    unread = replace(ANSWERED, verdict=None, assessment=None, probability=None, regions=(), tags=())
    assert unread.as_text().splitlines()[0].endswith("no verdict, the model's answer could not be read.")


def test_its_picture_is_the_image_with_boxes_and_words_below(tmp_path: Path) -> None:
    image, encoded = Image.new("RGB", (60, 40), "white"), io.BytesIO()
    image.save(encoded, "PNG")
    (tmp_path / "a.png").write_bytes(encoded.getvalue())
    drawn = ANSWERED.draw(image)
    assert drawn.mode == "RGB"
    assert drawn.width == 448
    assert drawn.height > 448 * 40 / 60
    assert drawn.getpixel((5, 5)) == (255, 255, 255)
    assert drawn.crop((70, 70, 230, 230)).getcolors() != [(160 * 160, (255, 255, 255))]
    for source in (encoded.getvalue(), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert ANSWERED.draw(source) == drawn
    assert replace(ANSWERED, assessment="real").draw(image) != drawn
    large = replace(ANSWERED, width_px=4000, height_px=1000)
    assert large.draw(Image.new("RGB", (4000, 1000))).width == 2048


def test_another_image_is_not_drawn_on(tmp_path: Path) -> None:
    Image.new("RGB", (40, 60)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: is 40x60 px, the image that was examined 60x40"):
        ANSWERED.draw(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"^photos/a\.png: is 40x60 px"):
        ANSWERED.draw(Image.open(tmp_path / "b.png"))
    with pytest.raises(DataError, match="none"):
        ANSWERED.draw(tmp_path / "none.png")


def test_pixels_that_cannot_be_read_are_refused_by_name() -> None:
    file = io.BytesIO()
    Image.effect_noise((99, 99), 50).save(file, "PNG")
    closed = Image.open(io.BytesIO(file.getvalue()))
    closed.close()
    cut_short, rare = Image.open(io.BytesIO(file.getvalue()[:-999])), Image.new("LA", (60, 60)).convert("La")
    for image in (closed, cut_short, rare):
        with pytest.raises(DataError, match="photo: its pixels cannot be read: "):
            open_picture(image, "photo")
