"""Draws what is said of an image onto it: numbered boxes, and below them the verdict, tags and captions."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fxray.geometry import clip
from fxray.schema import Box, Region, Tag

PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, told apart by colour-blind eyes too; box k has colour k modulo their number."""

MIN_WIDTH_PX = 448
MAX_LISTED_REGIONS = 12
MAX_CAPTION_CHARACTERS = 240
NO_FONT = "[no font]"
_EASTERN = re.compile(
    r"NotoSans(Mono)?CJK.*Regular|NotoSans(SC|TC|JP|KR)|SourceHanSans|DroidSansFallback|wqy|ipag|unifont|Arial ?Unicode"
    r"|msyh|YuGoth|malgun|PingFang|Hiragino",
    re.IGNORECASE,
)
_INK, _FAINT, _PAPER, _BACKING = "#1b1f24", "#57606a", "#ffffff", "#d8dde3"


def draw_annotation(
    image: Image.Image,
    *,
    heading: str,
    verdict: str | None,
    regions: Sequence[Region] = (),
    tags: Sequence[Tag] = (),
    note: str = "",
    max_enlarged_height_px: int = 2048,
) -> Image.Image:
    """The image with its boxes, and a legend below it.

    Args:
        image: Upright original; a narrow one is enlarged to 448 pixels in width.
        heading: Who says so: "Truth", "Prediction", a file name.
        verdict: A verdict, or what else is said of the image; None where no verdict could be read.
        regions: Boxes in pixels of the original; what lies outside the image is cut off.
        tags: Image-level tags.
        note: What else is to be known; nothing where it is empty.
        max_enlarged_height_px: A narrow image is not enlarged beyond this height.

    Returns:
        A new RGB image, as wide as the (enlarged) original and at least 448 pixels.
    """
    scale = max(1.0, min(MIN_WIDTH_PX / image.width, max_enlarged_height_px / image.height))
    size = (round(image.width * scale), max(1, round(image.height * scale)))
    picture = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    inside = [(region, clip(region.box, image.width, image.height)) for region in regions]
    shown = [(region.caption, _scaled(box, scale)) for region, box in inside if box is not None]
    width = max(MIN_WIDTH_PX, picture.width)
    font_px = max(14, round(width / 38))
    _draw_boxes(picture, [box for _, box in shown], font_px)
    captions = [caption for caption, _ in shown]
    legend = _legend(width, font_px, _verdict_line(heading, verdict), tags, captions, note)
    panel = Image.new("RGB", (width, picture.height + legend.height), _PAPER)
    panel.paste(picture, (0, 0))
    panel.paste(legend, (0, picture.height))
    return panel


def fitted(image: Image.Image, regions: Sequence[Region], max_side_px: int) -> tuple[Image.Image, tuple[Region, ...]]:
    """An image no longer than `max_side_px` on either side, and its regions in the same scale.

    A larger image is reduced; a smaller one stays as it is.
    """
    scale = min(1.0, max_side_px / max(image.size))
    if scale == 1.0:
        return image, tuple(regions)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    x, y = size[0] / image.width, size[1] / image.height
    scaled = (Box(r.box.x_min * x, r.box.y_min * y, r.box.x_max * x, r.box.y_max * y) for r in regions)
    moved = tuple(Region(box, region.caption) for box, region in zip(scaled, regions, strict=True))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0), moved


def draw_notice(heading: str, text: str) -> Image.Image:
    """A panel that says why there is no picture."""
    font_px = 14
    return _legend(MIN_WIDTH_PX, font_px, plain_text(heading), (), (), note=plain_text(text))


def contact_sheet(panels: Iterable[Image.Image], num_columns: int) -> Image.Image:
    """Panels in rows from left to right, each row as high as its highest panel."""
    placed = list(panels)
    rows = [placed[start : start + num_columns] for start in range(0, len(placed), num_columns)]
    column_px, gap = max(panel.width for panel in placed), MIN_WIDTH_PX // 28
    heights = [max(panel.height for panel in row) for row in rows]
    width = gap + min(len(placed), num_columns) * (column_px + gap)
    sheet = Image.new("RGB", (width, gap + sum(height + gap for height in heights)), _BACKING)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        for k, panel in enumerate(row):
            sheet.paste(panel, (gap + k * (column_px + gap), y))
        y += height + gap
    return sheet


def plain_text(text: str, max_characters: int = MAX_CAPTION_CHARACTERS) -> str:
    """A text of the model on one line: nothing unprintable, and not longer than given."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * max_characters]).split())
    return line if len(line) <= max_characters else line[: max_characters - 1].rstrip() + "…"


def _verdict_line(heading: str, verdict: str | None) -> str:
    return f"{plain_text(heading)}: {verdict or 'no verdict could be read'}"


def _scaled(box: Box, scale: float) -> tuple[int, int, int, int]:
    x_min, y_min, x_max, y_max = (round(value * scale) for value in box)
    return x_min, y_min, max(x_max, x_min + 1), max(y_max, y_min + 1)


def _draw_boxes(picture: Image.Image, boxes: Sequence[tuple[int, int, int, int]], font_px: int) -> None:
    canvas = ImageDraw.Draw(picture)
    line_px = max(2, font_px // 6)
    for k, (x_min, y_min, x_max, y_max) in enumerate(boxes):
        edge = (x_min, y_min, x_max - 1, y_max - 1)
        canvas.rectangle(edge, outline=_PAPER, width=line_px + 2)  # a rim that shows on dark and on light pixels
        canvas.rectangle(edge, outline=PALETTE[k % len(PALETTE)], width=line_px)
    height_px = round(1.4 * font_px)
    for k, (x_min, y_min, x_max, y_max) in enumerate(boxes):  # after all boxes, so that no line crosses a number
        y = y_min
        if min(x_max - x_min, y_max - y_min) < 2 * height_px:  # the number would hide what it points at
            y = y_min - height_px if y_min >= height_px else y_max
        x = min(x_min, picture.width - 2 * font_px)
        y = min(y, picture.height - height_px)
        _draw_number(canvas, k, max(0, x), max(0, y), font_px)


def _draw_number(canvas: ImageDraw.ImageDraw, k: int, x: int, y: int, font_px: int) -> None:
    label = str(k + 1)
    font = _font_of(label, font_px, bold=True)
    width, height = round(font.getlength(label)) + font_px // 2 + 2, round(1.3 * font_px)
    canvas.rectangle((x, y, x + width, y + height), fill=PALETTE[k % len(PALETTE)], outline=_PAPER)
    canvas.text((x + width / 2, y + height / 2), label, fill=_PAPER, font=font, anchor="mm")


def _legend(
    width: int, font_px: int, title: str, tags: Sequence[Tag], captions: Sequence[str], note: str = ""
) -> Image.Image:
    margin, line_px = font_px, round(1.45 * font_px)
    indent = 2 * font_px if len(captions) < 10 else round(2.7 * font_px)
    rows: list[tuple[int | None, str, bool]] = [
        (None, line, True) for line in _wrap(title, font_px, width, margin, bold=True)
    ]
    for line_below in filter(None, (note, "; ".join(tag.value for tag in tags))):
        rows += [(None, line, False) for line in _wrap(line_below, font_px, width, margin)]
    for k, caption in enumerate(captions[:MAX_LISTED_REGIONS]):
        first, *rest = _wrap(plain_text(caption) or "(no caption)", font_px, width, margin + indent)
        rows += [(k, first, False), *((-1, line, False) for line in rest)]
    if len(captions) > MAX_LISTED_REGIONS:
        rows.append((None, f"and {len(captions) - MAX_LISTED_REGIONS} more", False))
    legend = Image.new("RGB", (width, line_px * len(rows) + margin), _PAPER)
    canvas = ImageDraw.Draw(legend)
    for row, (number, line, is_bold) in enumerate(rows):
        y = margin // 2 + row * line_px
        if number is not None and number >= 0:
            _draw_number(canvas, number, margin, y, font_px)
        x = margin if number is None else margin + indent
        ink = _FAINT if number is None and not is_bold else _INK
        canvas.text((x, y + line_px / 2), line, fill=ink, font=_font_of(line, font_px, bold=is_bold), anchor="lm")
    return legend


def _wrap(text: str, font_px: int, width: int, margin: int, *, bold: bool = False) -> list[str]:
    """Lines no wider than the panel; a word that is wider by itself is broken."""
    room = max(font_px, width - margin - font_px)

    def fits(line: str) -> bool:  # in its own font, which may be another than that of the whole text
        return _font_of(line, font_px, bold=bold).getlength(line) <= room

    lines = [""]
    for word in readable(text).split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if fits(joined):
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and not fits(lines[-1] + character):
                lines.append("")
            lines[-1] += character
    return lines


def readable(text: str) -> str:
    """The text, with what no font here can draw replaced by a word that says so: empty boxes would look like damage."""
    if any(_covers(path, text) for path in _font_files(bold=False)):
        return text
    known, out = _characters(_font_files(bold=False)[0]), ""
    for character in text:
        if ord(character) in known:
            out += character
        elif not out.endswith(NO_FONT):
            out += NO_FONT
    return out


def _font_of(text: str, size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The first font that has every character of a text; DejaVu Sans where none has."""
    return _font(font_file(text, bold=bold), size_px)


def font_file(text: str, *, bold: bool = False) -> str:
    """The path of that font."""
    files = _font_files(bold=bold)
    return next((path for path in files if _covers(path, text)), files[0])


def _covers(path: str, text: str) -> bool:
    return all(ord(character) in _characters(path) for character in text)


@cache
def _characters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())


@cache
def _font_files(*, bold: bool) -> tuple[str, ...]:
    """DejaVu Sans, which matplotlib ships, then what the system has for Chinese, Japanese and Korean."""
    import matplotlib as mpl
    from matplotlib.font_manager import findSystemFonts

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    shipped = str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name)
    return shipped, *sorted(path for path in findSystemFonts() if _EASTERN.search(Path(path).name))


@cache
def _font(path: str, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size_px)
