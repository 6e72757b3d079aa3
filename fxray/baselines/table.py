"""All baselines of a folder in one table: baselines.md, .tex, .csv and .html, and in baselines.json every number."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fxray.baselines.measure import PREDICTIONS
from fxray.baselines.registry import FLOOR, find
from fxray.counts import counted
from fxray.data.dataset import Dataset
from fxray.evaluate.comparison import measure_gain
from fxray.evaluate.estimates import Estimate
from fxray.evaluate.evaluation import Evaluation, evaluate
from fxray.evaluate.predictions import read_predictions
from fxray.files import write_atomically
from fxray.report.paper_table import (
    INTERVALS,
    NOTHING,
    SYNTHETIC,
    PaperRow,
    PaperTable,
    estimate_cell,
    note_of_sources,
    write_table,
)

NAME = "baselines"
"""Of the files, without their endings."""
CHANCE = 0.5
"""Balanced accuracy of a guess."""
HEADER = (
    "baseline", "settings", "accuracy", "AUROC", "IoU", "box AP .1 to .5", "real with boxes", "beats chance",
    f"beats {FLOOR}", "fit, s", "predict, ms an image", "MiB", "parameters",
)  # fmt: skip


def write_baselines(
    out: Path, records: Mapping[str, dict[str, Any]], test: Path, *, num_bootstrap: int, seed: int
) -> PaperTable:
    """Scores the predictions of each record, and writes the table.

    Args:
        out: Folder of the baselines.
        records: By name, of baselines that answered `test`; at least one.
        test: Parquet file with the truth.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.

    Raises:
        DataError: Predictions cannot be read, or are of other samples.
        ResourceError: The disk is full or not writable.
    """
    samples = Dataset.open(test).samples
    scored = {
        name: evaluate(
            read_predictions(out / name / PREDICTIONS),
            samples,
            num_bootstrap=num_bootstrap,
            seed=seed,
            name=name,
            has_boxes=record["has_masks"],
        )
        for name, record in records.items()
    }
    gains = {name: _gain(scored.get(FLOOR), each) for name, each in scored.items()}
    rows = tuple(_row(record, scored[name], gains[name]) for name, record in records.items())
    table = PaperTable(
        "Baselines", HEADER, (), rows, tuple(_notes(records, scored, [sample.source for sample in samples]))
    )
    write_table(table, out, NAME)
    numbers = {
        name: {
            "record": record,
            "evaluation": scored[name].to_json(),
            "gain_of_balanced_accuracy": None if (gain := gains[name]) is None else gain.to_json(),
        }
        for name, record in records.items()
    }
    content = {"notes": table.notes, "baselines": numbers}
    write_atomically(out / f"{NAME}.json", json.dumps(content, indent=2) + "\n")
    return table


def _gain(floor: Evaluation | None, evaluation: Evaluation) -> Estimate | None:
    if floor is None or floor is evaluation:
        return None
    return measure_gain(floor, evaluation).metrics["balanced_accuracy"]


def _row(record: Mapping[str, Any], scored: Evaluation, gain: Estimate | None) -> PaperRow:
    metrics = scored.overall.metrics
    assert scored.probabilities is not None  # every baseline gives a score
    estimates = [metrics["accuracy"], scored.probabilities.metrics["auroc"]]
    estimates += [metrics[name] for name in ("iou", "box_ap", "hallucination")]
    memory = [record["peak_memory_mib"], *filter(None, [record["peak_device_memory_mib"]])]
    cells = (
        _settings(find([record["name"]])[0].heeded(record["key"])),
        *(estimate_cell(estimate.to_json()) for estimate in estimates),
        _shown(metrics["balanced_accuracy"].low > CHANCE),
        NOTHING if gain is None else _shown(gain.low > 0),
        f"{record['fit']['seconds']:.0f} ({record['fit']['processor_seconds']:.0f})",
        f"{1000 * record['predict']['seconds'] / scored.overall.num_samples:.1f}",
        " + ".join(f"{mib:,}" for mib in memory),
        f"{record['num_parameters']:,}",
    )
    return PaperRow(record["name"], record["name"], cells, ())


def _settings(key: Mapping[str, Any]) -> str:
    """What one baseline may have other than the next."""
    epochs = "" if key["epochs"] is None else counted(key["epochs"], "epoch")
    weights = "" if key["weights_sha256"] is None else f"weights {key['weights_sha256'][:8]}"
    return ", ".join(filter(None, [key["size"], epochs, weights, key["device"]]))


def _shown(is_above: bool) -> str:
    return "yes" if is_above else "not shown"


def _notes(
    records: Mapping[str, dict[str, Any]], scored: Mapping[str, Evaluation], sources: Sequence[str]
) -> Sequence[str]:
    first, evaluation = next(iter(records.values())), next(iter(scored.values()))
    commits = dict.fromkeys(str(record["versions"].get("git_revision", "unknown")) for record in records.values())
    facts = "; ".join(f"{name} {first['key'][name]}" for name in ("seed", "train_sha256", "test_sha256"))
    notes = [
        INTERVALS,
        *note_of_sources("Test set", sources),
        f"Scored on {evaluation.num_real} real and {counted(evaluation.num_generated, 'generated image')}.",
        "Thresholds are chosen on a fifth of the training set that shares no source with what is fitted on.",
        f"'beats' speaks of balanced accuracy: its interval lies above {CHANCE}, or the paired difference's above 0.",
        "Seconds by the clock, in brackets of processor time; memory is the process's peak, + the device's.",
        f"Measured with: {facts}; commit {', '.join(commits)}",
    ]
    return [SYNTHETIC, *notes] if any(record["is_synthetic"] for record in records.values()) else notes
