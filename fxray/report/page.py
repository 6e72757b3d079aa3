"""The report as one HTML file that needs nothing beside it, and the same numbers as JSON."""

import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from fxray.data.images import decode_image
from fxray.errors import DataError
from fxray.evaluate.comparison import Comparison, title_of
from fxray.evaluate.decisions import DECISIONS
from fxray.evaluate.probabilities import PROBABILITY_METRICS
from fxray.evaluate.scores import METRICS
from fxray.evaluate.table import COLUMNS, PROBABILITY_COLUMNS, percent
from fxray.files import write_atomically
from fxray.report.chart import draw_panel
from fxray.report.curves import panels_of
from fxray.report.gallery import Shelf, fill_shelves
from fxray.report.record import RunRecord, read_run, seconds_per_phase
from fxray.report.reliability import draw_reliability
from fxray.report.templates import load_style, load_template
from fxray.spans import role_of
from fxray.timeline import OLD_TIMELINE_FILE, TIMELINE_FILE, busy_s, length_s, read_timeline

REPORT_FILE, NUMBERS_FILE = "report.html", "metrics.json"

_LINKS = ("metrics.json", "metrics.jsonl", "config.yaml", "versions.json", "data.json", "timeline.json", "tensorboard")
_LINK_PATTERNS = ("sft/adapter", "grpo/*/final/adapter", "evaluation/*/predictions.parquet")


@dataclass(frozen=True, slots=True)
class Report:
    """What was written: the page, the evaluations that it shows, and what is missing or damaged."""

    page: Path
    comparison: Comparison
    notes: tuple[str, ...] = ()


def write_report(run_dir: Path) -> Report:
    """Writes `report.html` and `metrics.json` into a run directory.

    Args:
        run_dir: Of a finished, running or interrupted run; what is missing in it is said in the report.

    Raises:
        FxrayError: It is no run directory.
        DataError: The held-out images are not there, and a report with scores is.
        ResourceError: The disk is full or not writable.
    """
    record = read_run(run_dir)
    if record.dataset is None and _has_scores(run_dir / NUMBERS_FILE):
        raise DataError(
            "a report with scores is there, and stays: the held-out images that data.json names cannot be read",
            where=str(run_dir / REPORT_FILE),
            remedy="put them back, or give `fxray train` with this run directory the place that they were moved to",
        )
    page = render_page(record)  # first: it notes the images that cannot be read
    write_atomically(run_dir / NUMBERS_FILE, json.dumps(numbers_of(record), indent=2, allow_nan=False) + "\n")
    write_atomically(run_dir / REPORT_FILE, page.encode("utf-8", "backslashreplace"))  # names of files are any bytes
    return Report(run_dir / REPORT_FILE, record.comparison, tuple(record.notes))


def _has_scores(file: Path) -> bool:
    try:
        return bool(json.loads(file.read_bytes())["evaluations"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def numbers_of(record: RunRecord) -> dict[str, Any]:
    """Every number of the report, ready for `json.dumps`."""
    seconds = seconds_per_phase(record.steps)
    training = {
        name: {
            "num_steps": sum(step.phase == name for step in record.steps),
            "seconds": _finite(seconds[name]),
            "last": {
                metric: _finite(value)
                for metric, value in [step for step in record.steps if step.phase == name][-1].metrics.items()
            },
        }
        for name in seconds
    }
    return record.comparison.to_json() | {
        "is_synthetic": record.is_synthetic,
        "training": training,
        "versions": record.versions,
        "notes": record.notes,
    }


def render_page(record: RunRecord) -> str:
    """The whole page; images of it that cannot be read are added to the record's notes."""
    template = load_template(
        "fxray.report", "page.html.j2", number=_number, duration=_duration, share=_share, percent=percent
    )
    comparison = record.comparison
    last = comparison.evaluations[-1] if comparison.evaluations else None
    events = _timeline(record.run_dir)
    return template.render(
        style=load_style(),
        record=record,
        name=record.run_dir.resolve().name,
        written=dt.datetime.now(dt.UTC),
        metrics=METRICS | PROBABILITY_METRICS,
        probability_columns=_as_heads(PROBABILITY_COLUMNS),
        decisions=DECISIONS,
        diagrams=_diagrams(comparison),
        columns=_as_heads(COLUMNS),
        part_columns=_as_heads({name: COLUMNS[name] for name in COLUMNS if name != "balanced_accuracy"}),
        stages={title_of(e.name): e for e in comparison.evaluations},
        missing=[title_of(name) for name in record.phases if name not in {e.name for e in comparison.evaluations}],
        gain=comparison.gain,
        last=last,
        last_title=title_of(last.name) if last else "",
        before_title=title_of(comparison.gain.before) if comparison.gain else "",
        panels=[(panel, draw_panel(panel)) for panel in panels_of(record.steps, comparison)],
        shelves=_gallery(record),
        seconds={title_of(name): s for name, s in seconds_per_phase(record.steps).items()},
        num_steps={title_of(p): sum(s.phase == p for s in record.steps) for p in {s.phase for s in record.steps}},
        busy={track: s for track, s in busy_s(events).items() if role_of(track) != track},
        busy_of=_duration(length_s(events)) if (record.run_dir / OLD_TIMELINE_FILE).is_file() else "",
        links=_links(record.run_dir),
    )


def _as_heads(columns: Mapping[str, str]) -> dict[str, str]:
    """Columns of the terminal's tables, as the page writes them."""
    return {name: label[0].upper() + label[1:] for name, label in columns.items()}


def _diagrams(comparison: Comparison) -> dict[str, tuple[list[str], Markup]]:
    """By title of the stage: what is drawn, and the diagram."""
    diagrams = {}
    for evaluation in comparison.evaluations:
        if evaluation.probabilities is not None:
            curves = {"the model's own": evaluation.probabilities.bins}
            if evaluation.calibrated is not None:
                curves["calibrated"] = evaluation.calibrated.probabilities.bins
            title = title_of(evaluation.name)
            diagrams[title] = list(curves), draw_reliability(f"Reliability, {title}", curves)
    return diagrams


def _gallery(record: RunRecord) -> Sequence[Shelf]:
    dataset = record.dataset
    if dataset is None or not record.predictions:
        return []
    samples, unreadable = [dataset.samples[row] for row in record.rows], list[str]()

    def load_image(i: int) -> Image.Image | None:
        try:
            return decode_image(dataset.image_bytes(record.rows[i]), samples[i].sample_id)
        except DataError as error:
            unreadable.append(f"{error.message} ({error.where})")
            return None

    shelves = fill_shelves(
        samples,
        record.predictions,
        load_image,
        num_cards=record.gallery_size,
        seed=record.seed,
        has_boxes=record.has_boxes,
    )
    if unreadable:
        record.notes.append(f"images of the gallery that cannot be read: {len(unreadable)}, the first: {unreadable[0]}")
    return shelves


def _timeline(run_dir: Path) -> list[dict[str, Any]]:
    """All that is kept of the run's timeline."""
    return [event for name in (OLD_TIMELINE_FILE, TIMELINE_FILE) for event in read_timeline(run_dir / name)]


def _links(run_dir: Path) -> list[str]:
    """Files and folders of the run, relative to the report; `metrics.json` is written with it."""
    fixed = [name for name in _LINKS if name == NUMBERS_FILE or (run_dir / name).exists()]
    found = [str(path.relative_to(run_dir)) for pattern in _LINK_PATTERNS for path in sorted(run_dir.glob(pattern))]
    return fixed + found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float, decimals: int = 3, *, is_signed: bool = False) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:{'+' if is_signed else ''}.{decimals}f}".replace("-", "−")


def _share(value: float) -> str:
    """A position on a bar from 0 to 1, in per cent."""
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
