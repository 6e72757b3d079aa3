"""Settings and their trials as a table: Markdown, LaTeX, CSV, JSON, HTML, and the best setting as a configuration."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fxray.counts import counted
from fxray.experiments.measure import Numbers
from fxray.experiments.tables import label_of
from fxray.files import write_atomically
from fxray.report.paper_table import (
    NOTHING,
    SYNTHETIC,
    PaperRow,
    PaperTable,
    estimate_cell,
    note_of_sources,
    write_table,
)
from fxray.sweep.file import Sweep
from fxray.sweep.measure import Lead, SettingResult, TrialResult, gained, shown

NAME = "sweep"
READING = (
    "Settings: mean ± standard deviation over their seeds; gains from SFT are means over the seeds, in brackets 95 % "
    "bootstrap intervals over the images, the same images for all. Trials: intervals over the images."
)
SECONDS = "Seconds are those of all recorded steps, SFT's among them, also where several trials share an SFT."
FIGURE_TEXT = "By value of each field: a dot for each trial, a bar for the mean of those with this value"


def write_results(
    sweep: Sweep,
    results: Sequence[SettingResult],
    lead: Lead | None,
    folder: Path,
    facts: Mapping[str, object],
    *,
    is_synthetic: bool,
    best: Sequence[str],
    sources: Sequence[str],
    figure: str = "",
) -> PaperTable:
    """Writes sweep.md, .tex, .csv, .html and .json.

    Args:
        sweep: What was asked.
        results: By setting.
        lead: Of the best setting over the next.
        folder: Where to.
        facts: What the numbers rest on.
        is_synthetic: Whether the data are photographs with planted defects.
        best: Name of the best setting, and of those that tie with it; empty where none is done.
        sources: Of the images that were asked about, one each.
        figure: Name of a figure that lies there already.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    table = as_table(sweep, results, lead, facts, is_synthetic=is_synthetic, best=best, sources=sources, figure=figure)
    write_table(table, folder, NAME)
    content = {
        "title": sweep.title,
        "sweep": sweep.model_dump(mode="json"),
        "is_synthetic": is_synthetic,
        "facts": dict(facts),
        "best": best[0] if best else None,
        "tied": list(best[1:]),
        "lead": _finite(asdict(lead)) if lead else None,
        "settings": [asdict(result) for result in results],
        "notes": list(table.notes),
    }
    write_atomically(folder / f"{NAME}.json", json.dumps(content, indent=2, allow_nan=False, default=str) + "\n")
    return table


def as_table(
    sweep: Sweep,
    results: Sequence[SettingResult],
    lead: Lead | None,
    facts: Mapping[str, object],
    *,
    is_synthetic: bool,
    best: Sequence[str],
    sources: Sequence[str],
    figure: str = "",
) -> PaperTable:
    """A row for each setting, and beneath it one for each of its trials."""
    metrics, gains = shown(sweep.metric), gained(sweep.metric)
    has_gains = any(result.gains for result in results)
    header = ["setting", "state", *map(label_of, metrics)]
    header += [f"{label_of(metric)} from SFT" for metric in gains] * has_gains + ["seconds"]
    word, rows = ", best" if len(best) == 1 else ", tied as best", list[PaperRow]()
    for result in results:
        state = f"{result.num_done} of {counted(len(result.trials), 'seed')}{word if result.setting in best else ''}"
        mute = [t for t in result.trials if not t.state and t.metrics[sweep.metric]["value"] is None]
        state += f", {len(mute)} without {label_of(sweep.metric)}" if mute else ""
        cells = [state, *(_spread_cell(result.metrics.get(metric)) for metric in metrics)]
        cells += [_gain_cell(result.gains.get(metric)) for metric in gains] * has_gains + [_seconds(result.seconds)]
        rows.append(PaperRow(result.setting, result.title, tuple(cells), ()))
        rows += [_trial_row(trial, metrics, gains if has_gains else ()) for trial in result.trials]
    phase = sweep.phase or "the last phase"
    notes = [SYNTHETIC] * is_synthetic + [
        f"{label_of(sweep.metric)} after {phase}, on the validation split; the test split was not asked.",
        *note_of_sources("Validation split", sources),
        READING,
        SECONDS,
    ]
    if lead is not None:
        notes.append(sentence_of(lead, sweep.metric, results))
    if len(best) > 1:
        titles = "; ".join(result.title for result in results if result.setting in best)
        tie = f"{len(best)} settings tie in {label_of(sweep.metric)}, and none is better"
        notes.append(f"{tie}: {titles}. best.yaml is of the first.")
    notes.append(f"Measured with: {'; '.join(f'{name} {value}' for name, value in facts.items())}")
    return PaperTable(sweep.title, tuple(header), (), tuple(rows), tuple(notes), figure, FIGURE_TEXT)


def sentence_of(lead: Lead, metric: str, results: Sequence[SettingResult]) -> str:
    """What the seeds allow to say of the best setting, and no more."""
    titles = {result.setting: result.title for result in results}
    words = f"Best in {label_of(metric)}: {titles[lead.best]}, by {lead.value:.3f} before {titles[lead.next]}"
    if math.isnan(lead.low):
        return f"{words}, of one seed each: another seed may turn it round."
    verdict = "which excludes 0" if lead.low > 0 else "which includes 0: the seeds do not tell them apart"
    chosen = f", as if the two were not chosen of {len(results)}" if len(results) > 2 else ""
    return f"{words} (95 % t interval over the seeds{chosen}: {lead.low:+.3f} to {lead.high:+.3f}, {verdict})."


def _trial_row(trial: TrialResult, metrics: Sequence[str], gains: Sequence[str]) -> PaperRow:
    cells = [trial.state or "measured", *(estimate_cell(trial.metrics.get(metric)) for metric in metrics)]
    cells += [estimate_cell(trial.gains.get(metric), sign="+") for metric in gains]
    return PaperRow(trial.trial, f"· seed {trial.seed}", (*cells, _seconds(trial.seconds)), ())


def _spread_cell(numbers: Numbers | None) -> str:
    if numbers is None or numbers["value"] is None:
        return NOTHING
    spread = "" if numbers["sd"] is None else f" ± {numbers['sd']:.3f}"
    return f"{numbers['value']:.3f}{spread}"


def _gain_cell(numbers: Numbers | None) -> str:
    cell = estimate_cell(numbers, sign="+")
    if numbers is None or numbers["sd"] is None or cell == NOTHING:
        return cell
    return cell.replace(" [", f" ± {numbers['sd']:.3f} [", 1)


def _seconds(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{seconds:,.0f}"


def _finite(numbers: Mapping[str, object]) -> dict[str, object]:
    """The same, null where a number is not finite."""
    return {n: None if isinstance(value, float) and not math.isfinite(value) else value for n, value in numbers.items()}
