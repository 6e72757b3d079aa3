"""Curves of several trainings in one figure."""

import math

from fxray.report.chart import draw_panel
from fxray.report.curves import panels_of
from fxray.report.record import read_run
from fxray.report.training_curves import draw_trainings


def test_every_training_is_a_line_in_each_of_three_charts(make_run, tmp_path):
    one = make_run(num_samples=8)
    assert draw_trainings({"Best": one, "fixed": one, "not begun": tmp_path / "none"}, tmp_path, "curves")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "curves.svg").read_text()
    for label in ("accuracy", "IoU", "reward", "Best", "fixed"):
        assert f">{label}</text>" in text
    assert "not begun" not in text
    assert text.count('<g id="LineCollection_') == 2 * 2  # intervals of held-out images, of accuracy and IoU
    assert not draw_trainings({"not begun": tmp_path / "none"}, tmp_path, "nothing")
    assert not (tmp_path / "nothing.svg").exists()


def test_a_title_is_text_even_with_dollars_and_a_leading_underscore(make_run, tmp_path):
    run_dir = make_run(num_samples=8)
    titles = ["pay $$ net", "$\\frac$", "_hidden", "a $b$"]
    assert draw_trainings(dict.fromkeys(titles, run_dir), tmp_path, "curves")
    assert all(f">{title}</text>" in (tmp_path / "curves.svg").read_text() for title in titles)


def test_an_interval_beside_its_value_is_drawn(make_run, tmp_path):
    run_dir = make_run(num_samples=8)
    (run_dir / "config.yaml").write_text("model: {path: tiny}\nevaluate: {num_bootstrap: 1}\n")
    marks = [e.overall.metrics["accuracy"] for e in read_run(run_dir).comparison.evaluations]
    assert any(not mark.low <= mark.value <= mark.high for mark in marks)
    assert draw_trainings({"one draw": run_dir}, tmp_path, "curves")


def test_a_value_without_an_interval_is_drawn_as_a_dot(make_run):
    run_dir = make_run(num_samples=2)
    is_without = False
    for seed in range(8):  # the one resample of some seed holds no generated image
        (run_dir / "config.yaml").write_text(f"seed: {seed}\nmodel: {{path: tiny}}\nevaluate: {{num_bootstrap: 1}}\n")
        record = read_run(run_dir)
        iou = record.comparison.evaluations[0].overall.metrics["iou"]
        is_without |= math.isfinite(iou.value) and math.isnan(iou.low)
        assert all("nan" not in draw_panel(panel) for panel in panels_of(record.steps, record.comparison))
    assert is_without
