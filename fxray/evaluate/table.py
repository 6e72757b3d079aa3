"""Evaluations as tables for a terminal. Every table says so where the samples are synthetic."""

import math
from collections.abc import Mapping, Sequence

from rich.table import Table

from fxray.counts import counted
from fxray.evaluate.comparison import Comparison, Gain, title_of
from fxray.evaluate.decisions import DECISIONS, CalibratedScores
from fxray.evaluate.estimates import Estimate
from fxray.evaluate.evaluation import Evaluation, Slice

SYNTHETIC_NOTE = "SYNTHETIC: photographs with planted defects; not comparable with published numbers"
PROBABILITY_COLUMNS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "tpr_at_1_fpr": "TPR at 1 % FPR",
    "tpr_at_5_fpr": "TPR at 5 % FPR",
    "ece": "ECE",
    "brier": "Brier",
}
_DETAIL_COLUMNS = {
    "precision": "precision",
    "accuracy_generated": "recall",
    "f1": "F1",
    "box_ap": "box AP .1 to .5",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "tag_f1": "tag F1",
    "hallucination": "real with boxes",
}
COLUMNS = {
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
    caption += dict.fromkeys(note for e in comparison.evaluations if (note := e.note_of_sources))
    return _table("Stages", "stage", rows, is_synthetic=comparison.is_synthetic, notes=caption)


def probability_table(evaluations: Sequence[Evaluation]) -> Table | None:
    """One row per stage that gives probabilities, calibrated ones below its own; None where none does."""
    rows = []
    for evaluation in evaluations:
        title = title_of(evaluation.name) or "own"
        if evaluation.probabilities:
            rows.append((title, evaluation.probabilities))
        if evaluation.calibrated:
            rows.append((f"{title}, calibrated", evaluation.calibrated.probabilities))
    if not rows:
        return None
    is_synthetic = any(evaluation.is_synthetic for evaluation in evaluations)
    table = _empty("Probabilities", "stage", PROBABILITY_COLUMNS, is_synthetic=is_synthetic, notes=[])
    for title, scores in rows:
        cells = [format_estimate(scores.metrics[metric]) for metric in PROBABILITY_COLUMNS]
        table.add_row(title, str(scores.num_images), *cells)
    return table


def decision_table(scores: CalibratedScores, *, is_synthetic: bool) -> Table:
    """What a calibration comes to on the test split, a row each."""
    used = scores.calibration
    max_fpr, max_error = percent(used.max_fpr), percent(used.max_error)
    notes = [
        f"generated from {used.threshold:.3f}, for at most {max_fpr} false alarms on the validation split",
        f"unsure from {used.unsure_low:.3f} to {used.unsure_high:.3f}, for at most {max_error} wrong beyond",
    ]
    table = _empty("Decisions on the test split", "what", {"share": "share"}, is_synthetic=is_synthetic, notes=notes)
    for name, estimate in scores.decisions.items():
        table.add_row(DECISIONS[name], str(scores.num_images[name]), format_estimate(estimate))
    return table


def generator_table(evaluation: Evaluation) -> Table:
    """One row per generator, then per group, then overall."""
    title = " ".join(filter(None, ["Generators", title_of(evaluation.name)]))
    rows = [*evaluation.by_generator.items(), *evaluation.by_group.items(), ("Overall", evaluation.overall)]
    notes = [f"{counted(evaluation.num_unread, 'answer')} without a readable verdict, counted as wrong"]
    notes += filter(None, [evaluation.note_of_sources])
    return _table(title, "generator", rows, is_synthetic=evaluation.is_synthetic, notes=notes)


def detail_table(evaluation: Evaluation) -> Table:
    """Precision, recall, boxes, captions, tags and hallucination: overall and for every part of the samples."""
    e = evaluation
    title = " ".join(filter(None, ["Details", title_of(e.name)]))
    parts = [e.by_generator, e.by_group, e.by_category, e.by_tag, e.by_size]
    rows = [*(row for each in parts for row in each.items()), ("Overall", e.overall)]
    notes = ["BLEU and ROUGE-L: captions of matched regions only, fractions of 1"]
    return _table(title, "part", rows, is_synthetic=e.is_synthetic, notes=notes, columns=_DETAIL_COLUMNS)


def gain_table(gain: Gain, *, is_synthetic: bool) -> Table:
    """The paired difference of two detectors, a row per metric."""
    title = f"From {title_of(gain.before)} to {title_of(gain.after)}"
    notes = ["differences on the same images, resampled in pairs; * where the interval excludes 0"]
    table = _empty(title, "metric", {"gain": "difference"}, is_synthetic=is_synthetic, notes=notes, has_count=False)
    for name, estimate in gain.metrics.items():
        if not math.isnan(estimate.value):
            table.add_row(name, f"{format_estimate(estimate)}{' *' if estimate.excludes_zero else '  '}")
    return table


def format_estimate(estimate: Estimate) -> str:
    """Value and interval, three decimals; a dash where the metric does not apply."""
    if math.isnan(estimate.value):
        return "–"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def percent(share: float) -> str:
    """A share that somebody chose, as it was chosen: 0.001 is 0.1 %."""
    return f"{100 * share:g} %"


def _table(
    title: str,
    first: str,
    rows: Sequence[tuple[str, Slice]],
    *,
    is_synthetic: bool,
    notes: list[str],
    columns: Mapping[str, str] = COLUMNS,
) -> Table:
    table = _empty(title, first, columns, is_synthetic=is_synthetic, notes=notes)
    for name, part in rows:
        cells = [format_estimate(part.metrics[metric]) for metric in columns]
        table.add_row(name, str(part.num_samples), *cells)
    return table


def _empty(
    title: str,
    first: str,
    columns: Mapping[str, str],
    *,
    is_synthetic: bool,
    notes: list[str],
    has_count: bool = True,
) -> Table:
    caption = "\n".join(["95 % bootstrap intervals in brackets", *notes, *([SYNTHETIC_NOTE] if is_synthetic else [])])
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column(first, no_wrap=True)
    if has_count:
        table.add_column("n", justify="right")
    for label in columns.values():
        table.add_column(label, justify="right")
    return table
