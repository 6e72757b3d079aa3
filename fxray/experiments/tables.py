"""Lines as a table of the paper: Markdown, LaTeX, CSV, HTML, JSON, and curves beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fxray.experiments.experiment import OWN, Experiment, split_column
from fxray.experiments.measure import Line
from fxray.files import write_atomically
from fxray.report.paper_table import INTERVALS, NOTHING, SYNTHETIC, PaperRow, PaperTable, estimate_cell, write_table

LABELS = {"iou": "IoU", "matched_iou": "matched IoU"}
FIRST = {"trainings": "training", "folds": "images", "robustness": "change"}
UNCHANGED = "the images as they are"
"""What changed images are compared with, where no row of the experiment is named for it."""


def write_lines(
    experiment: Experiment,
    lines: Sequence[Line],
    folder: Path,
    name: str,
    facts: Mapping[str, object],
    *,
    is_synthetic: bool,
    figure: str = "",
    notes: Sequence[str] = (),
) -> PaperTable:
    """Writes NAME.md, .tex, .csv, .html and .json.

    Args:
        experiment: What the lines are of.
        lines: In order.
        folder: Where to.
        name: Of the files.
        facts: What the numbers rest on.
        is_synthetic: Whether the data are photographs with planted defects.
        figure: Name of curves that lie there already.
        notes: On the images that were asked about.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    table = as_table(experiment, lines, facts, is_synthetic=is_synthetic, figure=figure, more_notes=notes)
    write_table(table, folder, name)
    content = {
        "experiment": name,
        "title": experiment.title,
        "source": experiment.source,
        "is_synthetic": is_synthetic,
        "facts": dict(facts),
        "lines": [asdict(line) for line in lines],
        "notes": list(table.notes),
    }
    write_atomically(folder / f"{name}.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    return table


def as_table(
    experiment: Experiment,
    lines: Sequence[Line],
    facts: Mapping[str, object],
    *,
    is_synthetic: bool,
    figure: str = "",
    more_notes: Sequence[str] = (),
) -> PaperTable:
    """Columns that no line fills are left out, but those that the experiment names."""
    columns = experiment.columns
    compared = [column for column in columns if any(column in line.gains for line in lines)]
    spread = [column for column in columns if any(column in line.spread for line in lines)]
    printed = [column for column in columns if any(column in line.paper for line in lines)]
    has_steps = any(line.num_steps is not None for line in lines)
    has_images = any(line.num_images is not None for line in lines)
    header = [FIRST[experiment.kind], "state", *map(label_of, columns)]
    reference = experiment.reference or UNCHANGED
    header += [f"{label_of(column)} against {reference}" for column in compared]
    header += [f"{label_of(column)}, mean ± sd over folds" for column in spread]
    header += ["GRPO steps"] * has_steps + ["images"] * has_images
    rows = []
    for line in lines:
        cells = [line.state or "measured"]
        cells += [estimate_cell(line.metrics.get(column)) for column in columns]
        cells += [estimate_cell(line.gains.get(column), sign="+") for column in compared]
        cells += ["{:.3f} ± {:.3f}".format(*line.spread[c]) if c in line.spread else NOTHING for c in spread]
        cells += [NOTHING if line.num_steps is None else str(line.num_steps)] * has_steps
        cells += [NOTHING if line.num_images is None else str(line.num_images)] * has_images
        paper = tuple(f"{line.paper[column]:.3f}" if column in line.paper else "" for column in printed)
        rows.append(PaperRow(line.training, line.title, tuple(cells), paper))
    notes = [SYNTHETIC] * is_synthetic + [INTERVALS, *more_notes]
    if printed:
        notes.append(f"Paper: Ji et al., {experiment.source}, their model on their images.")
    notes += [*experiment.notes, f"Measured with: {'; '.join(f'{name} {value}' for name, value in facts.items())}"]
    return PaperTable(
        experiment.title,
        tuple(header),
        tuple(f"paper: {label_of(column)}" for column in printed),
        tuple(rows),
        tuple(notes),
        figure,
        "Accuracy, IoU and reward by step",
    )


def label_of(column: str) -> str:
    """How a table calls a column."""
    test, metric = split_column(column)
    label = LABELS.get(metric, metric.replace("_", " "))
    return label if test == OWN else f"{test}: {label}"
