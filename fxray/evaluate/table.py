"""Evaluations as tables for a terminal. Every table says so where the samples are synthetic."""

import math
from collections.abc import Sequence

from rich.table import Table

from fxray.evaluate.comparison import Comparison, title_of
from fxray.evaluate.estimates import Estimate
from fxray.evaluate.evaluation import Evaluation, Slice

SYNTHETIC_NOTE = "SYNTHETIC: photographs with planted defects; not comparable with published numbers"
_COLUMNS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "iou": "IoU",
    "matched_iou": "matched IoU",
    "parse_rate": "parse rate",
    "boxes_per_image": "boxes",
}


def stage_table(comparison: Comparison) -> Table:
    """One row per stage, the gain below."""
    rows = [(title_of(evaluation.name), evaluation.overall) for evaluation in comparison.evaluations]
    caption = [comparison.gain.sentence()] if comparison.gain else []
    return _table("Stages", "stage", rows, is_synthetic=comparison.is_synthetic, notes=caption)


def generator_table(evaluation: Evaluation) -> Table:
    """One row per generator, then per group, then overall."""
    title = " ".join(filter(None, ["Generators", title_of(evaluation.name)]))
    rows = [*evaluation.by_generator.items(), *evaluation.by_group.items(), ("Overall", evaluation.overall)]
    notes = [f"{evaluation.num_unread} answers had no readable verdict and count as wrong"]
    return _table(title, "generator", rows, is_synthetic=evaluation.is_synthetic, notes=notes)


def format_estimate(estimate: Estimate) -> str:
    """Value and interval, three decimals; a dash where the metric does not apply."""
    if math.isnan(estimate.value):
        return "–"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _table(title: str, first: str, rows: Sequence[tuple[str, Slice]], *, is_synthetic: bool, notes: list[str]) -> Table:
    caption = "\n".join(["95 % bootstrap intervals in brackets", *notes, *([SYNTHETIC_NOTE] if is_synthetic else [])])
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column(first, no_wrap=True)
    table.add_column("n", justify="right")
    for label in _COLUMNS.values():
        table.add_column(label, justify="right")
    for name, part in rows:
        cells = [format_estimate(part.metrics[metric]) for metric in _COLUMNS]
        table.add_row(name, str(part.num_samples), *cells)
    return table
