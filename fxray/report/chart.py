"""Panels as inline SVG. Colours come from the page's style, so that a chart follows its light and dark theme."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from fxray.report.curves import Curve, Mark, Panel

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 26
_PLOT_WIDTH, _PLOT_HEIGHT = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_NUM_TICKS = 5


def draw_panel(panel: Panel) -> Markup:
    """An `<svg>` of a panel: phases as bands, each step as a thin line, the running mean as a bold one."""
    low, high = _range(panel.curves)

    def to_x(x: float) -> float:
        return _LEFT + _PLOT_WIDTH * x / len(panel.phases)

    def to_y(y: float) -> float:
        return _TOP + _PLOT_HEIGHT * (high - min(max(y, low), high)) / (high - low)

    parts = [
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, panel.title),
    ]
    for i, phase in enumerate(panel.phases):
        width = to_x(1) - to_x(0)
        parts += [
            Markup('<rect class="band band{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>').format(
                i % 2, to_x(i), _TOP, width, _PLOT_HEIGHT
            ),
            _text("phase", to_x(i + 0.5), _TOP - 10, phase.title, "middle"),
            _text("tick", to_x(i) + 4, _HEIGHT - 10, str(phase.first_step), "start"),
            _text("tick", to_x(i + 1) - 4, _HEIGHT - 10, str(phase.last_step), "end"),
        ]
        if width > 150:
            parts.append(_text("tick", to_x(i + 0.5), _HEIGHT - 10, "step", "middle"))
    for tick in _ticks(low, high):
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
        parts.append(line.format(_LEFT, _WIDTH - _RIGHT, to_y(tick), to_y(tick)))
        parts.append(_text("tick", _LEFT - 8, to_y(tick) + 4, _number(tick), "end"))
    for k, curve in enumerate(panel.curves):
        for piece in curve.pieces:
            placed = [(to_x(x), to_y(y)) for x, y in piece]
            parts += [_line(f"raw c{k}", placed), _line(f"mean c{k}", _smoothed(placed))]
    for k, curve in enumerate(panel.curves):
        parts += [_mark(mark, k, len(panel.curves), to_x(mark.x), to_y) for mark in curve.marks]
    return Markup("").join([*parts, Markup("</svg>")])


def _range(curves: Sequence[Curve]) -> tuple[float, float]:
    """Lowest and highest value of the y axis: everything but the wildest 2 % of single steps."""
    values = []
    for curve in curves:
        steps = np.array([y for piece in curve.pieces for _, y in piece])
        if steps.size:
            values += np.percentile(steps, [1, 99]).tolist()
            values += [y for piece in curve.pieces for _, y in _smoothed(piece)]
        values += [bound for mark in curve.marks for bound in (mark.low, mark.high)]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - margin if low < 0 or low - margin > 0 else 0.0, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two bounds."""
    rough = (high - low) / _NUM_TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda size: abs(size - rough))
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}".replace("-", "−")


def _smoothed(points: Points) -> list[tuple[float, float]]:
    """Running mean over a tenth of the points; what there is of them at both ends."""
    reach = len(points) // 20
    ys = [y for _, y in points]
    return [(x, float(np.mean(ys[max(0, i - reach) : i + reach + 1]))) for i, (x, _) in enumerate(points)]


def _line(style: str, points: Points) -> Markup:
    if not points:
        return Markup("")
    if len(points) == 1:
        return Markup('<circle class="{} dot" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(style, *points[0])
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(style, path)


def _mark(mark: Mark, k: int, num_curves: int, x: float, to_y: Callable[[float], float]) -> Markup:
    """A dot with its interval; those of several curves stand beside each other, all within what ended at `x`."""
    x = max(x - 4 - 7 * (num_curves - 1 - k), _LEFT + 5)
    return Markup(
        '<g class="held c{k}"><title>{label}</title><line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        '<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/></g>'
    ).format(k=k, label=mark.label, x=x, low=to_y(mark.low), high=to_y(mark.high), y=to_y(mark.value))


def _text(style: str, x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(style, x, y, anchor, text)
