"""Annotations are drawn where they belong, whatever the image and the captions are."""

import pytest
from PIL import Image, ImageColor

from fxray import draw
from fxray.draw import (
    MAX_CAPTION_CHARACTERS,
    PALETTE,
    contact_sheet,
    draw_annotation,
    draw_notice,
    fitted,
    plain_text,
)
from fxray.schema import Box, Region, Tag, Verdict

GREY = (90, 90, 90)


def drawn(size: tuple[int, int], *boxes: Box, caption: str = "Hand bent") -> Image.Image:
    regions = [Region(box, caption) for box in boxes]
    return draw_annotation(Image.new("RGB", size, GREY), heading="Truth", verdict=Verdict.GENERATED, regions=regions)


def test_a_small_image_is_enlarged_with_its_boxes() -> None:
    panel = drawn((112, 56), Box(28, 14, 84, 42))
    assert panel.width == 448
    first = ImageColor.getrgb(PALETTE[0])
    assert panel.getpixel((4 * 84 - 1, 4 * 42 - 1)) == first  # lower right corner of the box
    assert panel.getpixel((4 * 84 + 1, 4 * 42 + 1)) == GREY
    assert panel.getpixel((4 * 60, 4 * 28)) == GREY  # the inside stays to be seen


def test_a_large_image_keeps_its_pixels() -> None:
    panel = drawn((900, 500), Box(100, 100, 300, 400))
    assert panel.width == 900
    assert panel.getpixel((299, 399)) == ImageColor.getrgb(PALETTE[0])


def test_boxes_differ_in_colour_and_are_listed_below() -> None:
    two, one = drawn((448, 448), Box(10, 10, 50, 50), Box(200, 200, 300, 300)), drawn((448, 448), Box(10, 10, 50, 50))
    assert two.getpixel((299, 299)) == ImageColor.getrgb(PALETTE[1])
    assert two.height > one.height > 448


def test_what_lies_outside_is_neither_drawn_nor_listed() -> None:
    assert drawn((448, 448), Box(500, 500, 600, 600)).tobytes() == drawn((448, 448)).tobytes()


def test_the_image_itself_is_left_alone() -> None:
    image = Image.new("L", (448, 448), 90)
    draw_annotation(image, heading="Truth", verdict=None, regions=[Region(Box(0, 0, 100, 100), "x")])
    assert image.getextrema() == (90, 90)


@pytest.mark.parametrize(
    "caption", ["", " ", "\x00\n\r\u2028<script>", "w" * 100_000, "手指弯曲", "🙂" * 50, "a b " * 5000, "\ud800"]
)
def test_any_caption_can_be_drawn(caption: str) -> None:
    panel = drawn((30, 30), Box(-1e9, -1e9, 1e9, 1e9), Box(29.9, 29.9, 30, 30), caption=caption)
    assert panel.width == 448
    assert panel.height < 1200


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (3, 4000), (4000, 3)])
def test_any_image_can_be_drawn_on(size: tuple[int, int]) -> None:
    panel = drawn(size, Box(0, 0, *size))
    assert panel.width >= 448
    assert panel.height < 8000


def test_a_thousand_boxes_do_not_make_an_endless_legend() -> None:
    assert drawn((448, 448), *[Box(i, i, i + 5, i + 5) for i in range(400)]).height < 1000


def test_tags_and_an_unread_verdict_are_said() -> None:
    image = Image.new("RGB", (448, 448), GREY)
    bare = draw_annotation(image, heading="a", verdict=None)
    tagged = draw_annotation(image, heading="a", verdict=None, tags=[Tag.TEXTURE])
    read = draw_annotation(image, heading="a", verdict=Verdict.REAL)
    noted = draw_annotation(image, heading="a", verdict=None, tags=[Tag.TEXTURE], note="b")
    assert bare.height < tagged.height < noted.height
    assert tagged.height > bare.height == read.height
    assert bare.tobytes() != read.tobytes()


def test_text_of_a_model_becomes_one_short_line() -> None:
    assert plain_text(" a\n\tb\x00c ") == "a b c"
    assert len(plain_text("x" * 10_000)) == MAX_CAPTION_CHARACTERS
    assert plain_text("x" * 10_000).endswith("…")


def test_a_large_image_is_reduced_with_its_regions() -> None:
    image, regions = fitted(Image.new("RGB", (2000, 500), GREY), [Region(Box(100, 100, 300, 500), "Hand bent")], 400)
    assert image.size == (400, 100)
    assert regions == (Region(Box(20, 20, 60, 100), "Hand bent"),)
    small = Image.new("RGB", (30, 20), GREY)
    assert fitted(small, regions, 400) == (small, regions)
    sliver, (region,) = fitted(Image.new("L", (30_000, 1)), [Region(Box(0, 0, 30_000, 1), "Line")], 300)
    assert sliver.size == (300, 1)
    assert region.box == Box(0, 0, 300, 1)


def test_a_narrow_image_is_not_enlarged_beyond_the_height_asked_for() -> None:
    tall = Image.new("RGB", (5, 448), GREY)
    panel = draw_annotation(tall, heading="Truth", verdict=None, max_enlarged_height_px=600)
    assert panel.width == 448
    assert panel.height < 700


def test_a_number_stands_beside_a_box_that_it_would_hide() -> None:
    first = ImageColor.getrgb(PALETTE[0])
    inside = drawn((448, 448), Box(200, 200, 212, 212)).crop((206, 206, 207, 207)).getpixel((0, 0))
    assert inside == GREY
    above, below = drawn((448, 448), Box(200, 200, 212, 212)), drawn((448, 448), Box(200, 0, 212, 12))
    assert above.getpixel((203, 190)) == first
    assert below.getpixel((203, 22)) == first


def test_a_sheet_holds_every_panel_in_rows() -> None:
    panels = [Image.new("RGB", (448, height), (height, 0, 0)) for height in (100, 200, 50)]
    sheet = contact_sheet(panels, 2)
    assert sheet.size == (16 + 2 * 464, 16 + 216 + 66)
    corners = [(16, 16), (480, 16), (16, 232)]
    assert [sheet.getpixel(corner) for corner in corners] == [(100, 0, 0), (200, 0, 0), (50, 0, 0)]
    assert sheet.getpixel((16, 116)) == sheet.getpixel((500, 240)) == sheet.getpixel((0, 0))


def test_a_notice_says_why_there_is_no_picture() -> None:
    short, long = draw_notice("s1", "damaged"), draw_notice("s1", "damaged " * 25)
    assert short.width == 448
    assert long.height > short.height
    assert short.convert("L").getextrema()[0] < 60


def test_a_long_heading_stays_inside_its_panel() -> None:
    panel = draw_annotation(
        Image.new("RGB", (448, 100), "white"), heading="W" * 90, verdict=Verdict.REAL, regions=(), tags=()
    )
    right_edge = panel.crop((panel.width - 8, 100, panel.width, panel.height))
    assert right_edge.getextrema() == ((255, 255),) * 3


def test_what_no_font_can_draw_is_said_and_never_an_empty_box(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = draw._font_files(bold=False)[0]
    monkeypatch.setattr(draw, "_font_files", lambda *, bold: (shipped,))
    assert draw.readable("左手 six fingers 六 יד") == "[no font] six fingers [no font] יד"
    monkeypatch.setattr(draw, "_font_files", lambda *, bold: (shipped, "eastern"))
    monkeypatch.setattr(
        draw, "_characters", lambda path: frozenset(map(ord, "左手 ok" if path == "eastern" else "ok "))
    )
    monkeypatch.setattr(draw, "_font", lambda path, size_px: path)
    assert draw.readable("左手 ok") == "左手 ok"
    assert [draw._font_of(text, 14) for text in ("左手", "ok", "?")] == ["eastern", shipped, shipped]


class Monospaced:
    """A font whose letters are all of one width."""

    def __init__(self, width_px: int) -> None:
        self._width_px = width_px

    def getlength(self, text: str) -> int:
        return self._width_px * len(text)


def test_a_line_of_a_mixed_caption_fits_in_the_font_that_it_is_drawn_in(monkeypatch: pytest.MonkeyPatch) -> None:
    latin, eastern = frozenset(map(ord, "finger melts ")), frozenset(map(ord, "finger melts 手"))
    monkeypatch.setattr(draw, "_font_files", lambda *, bold: ("wide", "narrow"))
    monkeypatch.setattr(draw, "_characters", lambda path: latin if path == "wide" else eastern)
    monkeypatch.setattr(draw, "_font", lambda path, size_px: Monospaced(12 if path == "wide" else 8))
    lines = draw._wrap("finger melts finger 手 meltsfingermeltsfinger手", 10, 170, 10)
    assert lines == ["finger melts", "finger 手", "meltsfingerm", "eltsfinger手"]
    assert all(draw._font_of(line, 10).getlength(line) <= 150 for line in lines)
