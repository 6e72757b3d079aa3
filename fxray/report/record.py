"""What a run directory holds for a report. A part that is missing or damaged is said, never an error.

config.yaml versions.json data.json metrics.jsonl evaluation/<name>/predictions.parquet
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fxray.config.load import load_config
from fxray.config.schedule import load_stages
from fxray.config.tree import EvaluateConfig
from fxray.data.dataset import Dataset
from fxray.errors import FxrayError
from fxray.evaluate.calibration import Calibration, open_calibration
from fxray.evaluate.comparison import Comparison, compare
from fxray.evaluate.evaluation import Evaluation, evaluate
from fxray.evaluate.predictions import Prediction, read_predictions
from fxray.files import is_there
from fxray.grammar.views import VIEWS
from fxray.metrics import StepMetrics, read_metrics


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All that is known of a run.

    Attributes:
        run_dir: The run directory.
        config_text: The resolved configuration as YAML; empty where it is missing.
        seed: Seed of the run.
        gallery_size: Cards of the gallery.
        versions: Package versions, git revision, machine, command.
        is_synthetic: True where the data are photographs with planted defects.
        has_boxes: False where the run's view has none.
        phases: What can be evaluated, in the order of training: No-FT, SFT, and the stages of the schedule.
        steps: Recorded steps.
        comparison: Every stage that was evaluated.
        dataset: The held-out split; None where it cannot be read.
        rows: Rows of `dataset` that the last stage answered.
        predictions: Of the last stage, by sample id.
        notes: What is missing or damaged, in words.
    """

    run_dir: Path
    config_text: str
    seed: int
    gallery_size: int
    versions: dict[str, Any]
    is_synthetic: bool
    has_boxes: bool
    phases: list[str]
    steps: list[StepMetrics]
    comparison: Comparison
    dataset: Dataset | None
    rows: list[int]
    predictions: dict[str, Prediction]
    notes: list[str]


def read_run(run_dir: Path) -> RunRecord:
    """Reads what is there and scores every stage's predictions.

    Raises:
        FxrayError: Nothing of a run is there.
    """
    notes: list[str] = []
    config_text = _read_text(run_dir / "config.yaml", notes)
    data = _read_json(run_dir / "data.json", notes)
    evaluation = run_dir / "evaluation"
    if not config_text and not data and not (is_there(evaluation) and evaluation.is_dir()):
        raise FxrayError(
            "not a run directory: neither config.yaml nor data.json nor evaluation/ is there",
            where=str(run_dir),
            remedy="give the --run-dir of a `fxray train`",
        )
    seed, settings, has_boxes = _settings(config_text, notes)
    is_synthetic = bool(data.get("is_synthetic", False))
    dataset = _open_dataset(run_dir, data, notes)
    steps = _read_steps(run_dir, notes)
    phases = _order_of_training(run_dir, steps)
    answers = _read_answers(run_dir, phases, notes)
    evaluations = []
    if dataset:
        evaluations = _evaluate_all(
            dataset,
            answers,
            {name: _calibration(run_dir, name, notes) for name in answers},
            settings.num_bootstrap,
            seed,
            notes,
            is_synthetic=is_synthetic,
            has_boxes=has_boxes,
        )
    comparison = _compare(evaluations, notes)
    last = answers[comparison.evaluations[-1].name] if comparison.evaluations else []
    return RunRecord(
        run_dir=run_dir,
        config_text=config_text,
        seed=seed,
        gallery_size=settings.gallery_size,
        versions=_read_json(run_dir / "versions.json", notes),
        is_synthetic=is_synthetic or comparison.is_synthetic,
        has_boxes=has_boxes,
        phases=phases,
        steps=steps,
        comparison=comparison,
        dataset=dataset,
        rows=_rows(dataset, last) if dataset else [],
        predictions={prediction.sample_id: prediction for prediction in last},
        notes=notes,
    )


def seconds_per_phase(steps: Sequence[StepMetrics]) -> dict[str, float]:
    """Time each phase took: the sum of its steps' own `seconds`, else from its first record to its last."""
    phases: dict[str, list[StepMetrics]] = {}
    for step in steps:
        phases.setdefault(step.phase, []).append(step)
    return {
        name: sum(s.metrics["seconds"] for s in recorded)
        if all("seconds" in s.metrics for s in recorded)
        else recorded[-1].time - recorded[0].time
        for name, recorded in phases.items()
    }


def _read_text(path: Path, notes: list[str]) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        notes.append(f"{path.name} is missing or unreadable")
        return ""


def _read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    text = _read_text(path, notes)
    try:
        content = json.loads(text) if text else {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        notes.append(f"{path.name} is no JSON object")
        return {}
    return content


def _settings(config_text: str, notes: list[str]) -> tuple[int, EvaluateConfig, bool]:
    """Seed and evaluation settings of the run, and whether its view has boxes; defaults where these are missing."""
    try:
        tree = yaml.safe_load(config_text) or {}
        has_boxes = VIEWS[tree.get("data", {}).get("view", "full")].has_regions
        return int(tree.get("seed", 0)), EvaluateConfig.model_validate(tree.get("evaluate", {})), has_boxes
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        notes.append(f"config.yaml cannot be read: {str(error).splitlines()[0]}")
        return 0, EvaluateConfig(), True


def _open_dataset(run_dir: Path, data: Mapping[str, Any], notes: list[str]) -> Dataset | None:
    if "test" not in data:
        return None
    path = run_dir / str(data["test"])
    try:
        return Dataset.open(path)
    except FxrayError as error:
        notes.append(f"the held-out images cannot be read, so nothing is scored: {error.message} ({path})")
        return None


def _order_of_training(run_dir: Path, steps: Sequence[StepMetrics]) -> list[str]:
    """Stages as the run's schedule orders them, then those that are only recorded, as they were recorded."""
    try:
        scheduled = [stage.name for stage in load_stages(load_config(run_dir / "config.yaml").grpo.schedule)]
    except FxrayError:
        scheduled = []
    return list(dict.fromkeys(["no-ft", "sft", *scheduled, *(step.phase for step in steps)]))


def _read_answers(run_dir: Path, order: Sequence[str], notes: list[str]) -> dict[str, list[Prediction]]:
    """Predictions by stage, in the order of training; stages that it does not name come last, and are said."""
    found = {path.parent.name: path for path in sorted(run_dir.glob("evaluation/*/predictions.parquet"))}
    if unplaced := [name for name in found if name not in order]:
        notes.append(f"when {', '.join(unplaced)} was trained is not known: neither schedule nor metrics.jsonl says so")
    answers = {}
    for name in [*order, *unplaced]:
        if name not in found:
            continue
        try:
            answers[name] = read_predictions(found[name])
        except FxrayError as error:
            notes.append(f"{name}: {error.message} ({error.where})")
    return answers


def _evaluate_all(
    dataset: Dataset,
    answers: Mapping[str, Sequence[Prediction]],
    calibrations: Mapping[str, Calibration | None],
    num_bootstrap: int,
    seed: int,
    notes: list[str],
    *,
    is_synthetic: bool,
    has_boxes: bool,
) -> list[Evaluation]:
    evaluations = []
    for name, predictions in answers.items():
        samples = [dataset.samples[row] for row in _rows(dataset, predictions)]
        try:
            evaluation = evaluate(
                predictions,
                samples,
                num_bootstrap=num_bootstrap,
                seed=seed,
                name=name,
                is_synthetic=is_synthetic,
                has_boxes=has_boxes,
                calibration=calibrations[name],
            )
            evaluations.append(evaluation)
        except FxrayError as error:
            notes.append(f"{name}: {error.message}")
    return evaluations


def _calibration(run_dir: Path, name: str, notes: list[str]) -> Calibration | None:
    adapter = run_dir / "sft" / "adapter" if name == "sft" else run_dir / "grpo" / name / "final" / "adapter"
    try:
        return open_calibration(adapter)
    except FxrayError as error:
        notes.append(f"{name}: {error.message} ({error.where})")
        return None


def _rows(dataset: Dataset, predictions: Sequence[Prediction]) -> list[int]:
    answered = {prediction.sample_id for prediction in predictions}
    return [row for row, sample in enumerate(dataset.samples) if sample.sample_id in answered]


def _read_steps(run_dir: Path, notes: list[str]) -> list[StepMetrics]:
    try:
        return read_metrics(run_dir)
    except FxrayError as error:
        notes.append(f"{error.message} ({error.where})")
        return []


def _compare(evaluations: Sequence[Evaluation], notes: list[str]) -> Comparison:
    try:
        return compare(evaluations)
    except FxrayError as error:
        notes.append(error.message)
        return Comparison(tuple(evaluations), None)
