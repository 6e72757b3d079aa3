"""Panels as SVG."""

import re

import pytest

from fxray.report.chart import draw_panel
from fxray.report.curves import Curve, Mark, Panel, Phase


@pytest.mark.parametrize("num_curves", [1, 2, 3])
def test_what_was_measured_after_a_phase_stands_within_its_band(num_curves: int) -> None:
    phases = tuple(Phase(name, 1, 9) for name in ("sft", "alpha", "beta"))
    marks = tuple(Mark(x, 0.5, 0.4, 0.6, str(x)) for x in (1.0, 2.0, 3.0))
    curves = tuple(Curve(str(k), (((0.1, 0.5), (0.9, 0.6)),), marks) for k in range(num_curves))
    svg = str(draw_panel(Panel("accuracy", "", phases, curves)))
    bands = [
        (float(x), float(x) + float(width)) for x, width in re.findall(r'band\d" x="(\S+)" y="\S+" width="(\S+)"', svg)
    ]
    dots = [float(x) for x in re.findall(r'<circle cx="(\S+)"', svg)]
    assert (len(bands), len(dots)) == (3, 3 * num_curves)
    for k in range(num_curves):
        for (left, right), x in zip(bands, dots[3 * k : 3 * k + 3], strict=True):
            assert left < x - 4 < x + 4 <= right
    assert len(set(dots)) == len(dots)
