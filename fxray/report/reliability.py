"""Reliability diagrams as inline SVG: what a probability says against how often it was so."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fxray.counts import counted
from fxray.evaluate.probabilities import Bin

_WIDTH, _HEIGHT = 440, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 42
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LARGEST_PX = 9.0


def draw_reliability(title: str, curves: Mapping[str, Sequence[Bin]]) -> Markup:
    """An `<svg>`: the diagonal is what is wanted, each dot a bin, its area the share of the images in it.

    Thin lines lead from dot to dot; between them nothing was measured.

    Args:
        title: Read to those who do not see it.
        curves: Bins by what they are of; the first is drawn in the first colour of the page.
    """
    parts = [
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, title),
        *(_tick(tick) for tick in _TICKS),
        _line("diagonal", [(0.0, 0.0), (1.0, 1.0)]),
        _text(_LEFT + _plot()[0] / 2, _HEIGHT - 6, "probability of generated", "middle"),
        Markup('<text class="tick" transform="translate(14 {:.0f}) rotate(-90)" text-anchor="middle">{}</text>').format(
            _TOP + _plot()[1] / 2, "share that was generated"
        ),
    ]
    for k, bins in enumerate(curves.values()):
        total = sum(found.num_images for found in bins)
        parts.append(_line(f"raw c{k}", [(found.probability, found.generated) for found in bins]))
        parts += [_dot(k, found, total) for found in bins]
    return Markup("").join([*parts, Markup("</svg>")])


def _plot() -> tuple[int, int]:
    return _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM


def _place(x: float, y: float) -> tuple[float, float]:
    width, height = _plot()
    return _LEFT + width * x, _TOP + height * (1 - y)


def _tick(value: float) -> Markup:
    (left, y), (right, _) = _place(0, value), _place(1, value)
    return (
        Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(left, right, y, y)
        + _text(left - 8, y + 4, f"{value:g}", "end")
        + _text(_place(value, 0)[0], _HEIGHT - 24, f"{value:g}", "middle")
    )


def _line(style: str, points: Sequence[tuple[float, float]]) -> Markup:
    path = " ".join("{:.1f},{:.1f}".format(*_place(*point)) for point in points)
    return Markup('<polyline class="{}" points="{}"/>').format(style, path)


def _dot(k: int, found: Bin, total: int) -> Markup:
    x, y = _place(found.probability, found.generated)
    label = f"{counted(found.num_images, 'image')}: {found.probability:.2f} said, {found.generated:.2f} generated"
    return Markup('<circle class="c{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>').format(
        k, x, y, max(2.0, _LARGEST_PX * math.sqrt(found.num_images / total)), label
    )


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
