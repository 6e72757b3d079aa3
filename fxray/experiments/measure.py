"""From the answers of trainings to the numbers of a table's lines. Nothing here trains or asks a model."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from fxray.config.tree import Config
from fxray.counts import counted
from fxray.data.dataset import Dataset
from fxray.data.generators import one_spelling, plain_name
from fxray.evaluate.comparison import measure_gain
from fxray.evaluate.evaluation import Evaluation, Slice, evaluate
from fxray.evaluate.predictions import Prediction, read_predictions
from fxray.experiments.baselines import Question, has_boxes, key_of, state_of_baseline
from fxray.experiments.experiment import OWN, Experiment, Row, split_column
from fxray.experiments.trainings import (
    Setting,
    Training,
    config_of,
    num_grpo_steps,
    num_training_samples,
    phases_of,
    state_of,
    state_without,
    training_of,
)
from fxray.experiments.work import outside_answers, read_change
from fxray.grammar.views import VIEWS
from fxray.launch.calibration import recorded_splits
from fxray.launch.evaluation import rows_to_answer
from fxray.launch.run import RunDirectory
from fxray.schema import Sample, Verdict

Numbers = Mapping[str, float | None]
"""An estimate as JSON: value, low, high."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is known of a row.

    Attributes:
        title: Of the row.
        state: Why there are no numbers, or no more; empty where all are there.
        training: Name of its training; empty where several or none stand behind it.
        metrics: Estimates by column.
        gains: Differences from the reference row, by column.
        paper: The paper's numbers by column.
        num_steps: GRPO steps of its training.
        num_images: Images that were answered.
        spread: Per column mean and sample standard deviation over folds.
    """

    title: str
    state: str = ""
    training: str = ""
    metrics: Mapping[str, Numbers] = field(default_factory=dict)
    gains: Mapping[str, Numbers] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    num_steps: int | None = None
    num_images: int | None = None
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def measure_trainings(
    experiment: Experiment, setting: Setting, failures: Mapping[str, str], questions: Sequence[Question]
) -> list[Line]:
    """A line per row; a row that cannot be measured yet, or at all, says why.

    Args:
        experiment: Of kind trainings.
        setting: Where trainings and answers lie.
        failures: Reasons by name of the training or baseline.
        questions: That baselines are asked, by test.

    Raises:
        DataError: Answers are damaged.
    """
    found = {row.title: _evaluations(experiment, row, setting, questions) for row in experiment.rows}
    reference = found.get(experiment.reference, {})
    lines = []
    for row in experiment.rows:
        metrics, gains = {}, {}
        for column in experiment.columns:
            test, metric = split_column(column)
            if (evaluation := found[row.title].get(test)) is None:
                continue
            metrics[column] = evaluation.overall.metrics[metric].to_json()
            other = reference.get(test)
            if other is not None and row.title != experiment.reference and _have_same_images(other, evaluation):
                gains[column] = measure_gain(other, evaluation).metrics[metric].to_json()
        training = training_of(row) if row.is_trained else None
        lines.append(
            Line(
                row.title,
                _state(experiment, row, setting, failures, found[row.title], questions),
                training.name if training else _name_of(row),
                metrics,
                gains,
                row.paper,
                _num_steps(training, setting.out, row.phase) if training else None,
            )
        )
    return lines


def measure_changes(
    experiment: Experiment, setting: Setting, failures: Mapping[str, str], questions: Sequence[Question]
) -> list[Line]:
    """A line per change of the images, of kind robustness."""
    lines = []
    for row in experiment.rows:
        name = training_of(row).name if row.is_trained else _name_of(row)
        if row.baseline:
            asked = [] if name in failures else questions  # what lies there then may be of other settings
            found = (q.numbers_under(row.baseline, row.change, experiment.columns) for q in asked)
            numbers = next((each for each in found if each is not None), None)
        else:
            numbers = None if row.absent else read_change(row, training_of(row), setting.out, experiment.columns)
        if numbers is None:
            state = row.absent or failures.get(name) or "not measured yet"
            lines.append(Line(row.title, state, name, paper=row.paper))
            continue
        metrics = {column: numbers["overall"][column] for column in experiment.columns}
        gains = {column: numbers["gain"]["metrics"][column] for column in experiment.columns} if numbers["gain"] else {}
        images = numbers["num_real"] + numbers["num_generated"]
        lines.append(Line(row.title, "", name, metrics, gains, row.paper, num_images=images))
    return lines


def measure_folds(
    experiment: Experiment, trainings: Sequence[Training], setting: Setting, failures: Mapping[str, str]
) -> list[Line]:
    """A line per fold, each on the test part of its own, and what they come to on average."""
    lines, values = [], {column: list[float]() for column in experiment.columns}
    for training in trainings:
        evaluation = _fold_evaluation(training, setting)
        if evaluation is None:
            state = failures.get(training.name) or state_of(training, setting.out)
            lines.append(Line(training.fold, state, training.name))
            continue
        metrics = {column: evaluation.overall.metrics[column].to_json() for column in experiment.columns}
        for column, numbers in metrics.items():
            if (value := numbers["value"]) is not None:
                values[column].append(value)
        steps, images = _num_steps(training, setting.out), evaluation.overall.num_samples
        lines.append(Line(training.fold, "", training.name, metrics, num_steps=steps, num_images=images))
    spread = {
        column: (statistics.mean(each), statistics.stdev(each)) for column, each in values.items() if len(each) > 1
    }
    num_done = sum(not line.state for line in lines)
    return [
        *lines,
        Line(f"mean ± sd of {counted(num_done, 'fold')}", "" if num_done else "no fold is done", spread=spread),
    ]


def measure_parts(
    experiment: Experiment,
    trainings: Sequence[Training],
    setting: Setting,
    failures: Mapping[str, str],
    questions: Sequence[Question],
) -> list[Line]:
    """A line per generator or group, over the test parts of all folds; parts of the data that no row names follow."""
    done = [t for t in trainings if (RunDirectory(t.folder(setting.out)).predictions(_last(t, setting.out))).exists()]
    pooled = _pooled(done, setting) if done else None
    each = [evaluation for t in done if (evaluation := _fold_evaluation(t, setting)) is not None]
    rows = [*experiment.rows, *_unnamed(experiment, pooled)]
    lines = []
    for row in rows:
        if row.baseline:
            lines.append(_measure_baseline(experiment, row, setting, failures, questions))
            continue
        needed = _folds_of(experiment, row, trainings)
        lacking = [training for training in needed if training not in done]
        part = None if row.absent or pooled is None else _part(pooled, row)
        if part is None:
            nothing = "no such image in the data"
            if lacking and len(needed) == 1:
                nothing = failures.get(needed[0].name) or state_of(needed[0], setting.out)
            elif lacking:
                nothing = "in no fold that is done" if done else "not trained yet"
            lines.append(Line(row.title, row.absent or nothing, paper=row.paper))
            continue
        folds = [found for evaluation in each if (found := _part(evaluation, row)) is not None]
        state = f"{len(done)} of {counted(len(trainings), 'fold')}" if lacking else ""
        lines.append(_line_of_part(experiment, row, state, part, folds))
    return lines


def _folds_of(experiment: Experiment, row: Row, trainings: Sequence[Training]) -> Sequence[Training]:
    """The fold that holds out what a row is about, where there is one; else any may have its images."""
    if experiment.split is not None and experiment.split.scheme == f"leave-one-{row.part}-out":
        return [t for t in trainings if plain_name(t.fold) == plain_name(row.title)] or trainings
    return trainings


def _measure_baseline(
    experiment: Experiment, row: Row, setting: Setting, failures: Mapping[str, str], questions: Sequence[Question]
) -> Line:
    """Of all folds that a baseline has answered."""
    state = state_of_baseline(row.baseline, questions, failures)
    files = [(q.answers(row.baseline), q.test) for q in questions if q.is_answered(row.baseline)]
    if not files:
        return Line(row.title, state, _name_of(row), paper=row.paper)
    config = setting.configure(())
    folds = [_evaluate_other(row.baseline, [file], config).overall for file in files]
    return _line_of_part(experiment, row, state, _evaluate_other(row.baseline, files, config).overall, folds)


def _line_of_part(experiment: Experiment, row: Row, state: str, part: Slice, folds: Sequence[Slice]) -> Line:
    """Of the images of all folds, and how folds differ."""
    spread = {}
    for column in experiment.columns:
        values = [v for found in folds if (v := found.metrics[column].to_json()["value"]) is not None]
        if len(values) > 1:
            spread[column] = (statistics.mean(values), statistics.stdev(values))
    metrics = {column: part.metrics[column].to_json() for column in experiment.columns}
    return Line(row.title, state, _name_of(row), metrics, {}, row.paper, num_images=part.num_samples, spread=spread)


def _name_of(row: Row) -> str:
    return key_of(row.baseline) if row.baseline else ""


def is_synthetic(trainings: Sequence[Training], setting: Setting) -> bool:
    """Whether any number is, or will be, of photographs with planted defects."""
    return setting.configure(()).data.synth is not None or any(
        evaluation.is_synthetic for t in trainings if (evaluation := _fold_evaluation(t, setting)) is not None
    )


def _evaluations(
    experiment: Experiment, row: Row, setting: Setting, questions: Sequence[Question]
) -> dict[str, Evaluation]:
    """By name of the test, as far as answers are there."""
    if row.absent:
        return {}
    if row.baseline:
        own, asked = setting.configure(()), [q for q in questions if q.is_answered(row.baseline)]
        return {q.name: _evaluate_other(row.baseline, [(q.answers(row.baseline), q.test)], own) for q in asked}
    training = training_of(row)
    run = RunDirectory(training.folder(setting.out))
    config = config_of(run.root)
    if config is None:
        return {}
    phase = row.phase or phases_of(config)[-1]
    files = {}
    for test in {split_column(column)[0] for column in experiment.columns}:
        if test == OWN and run.predictions(phase).exists():
            files[test] = (run.predictions(phase), recorded_splits(run.root).test)
        elif test in setting.outside:
            files[test] = (outside_answers(setting, test, training, phase), setting.outside[test])
    return {test: _evaluate([found], config) for test, found in files.items() if found[0].exists()}


def _fold_evaluation(training: Training, setting: Setting) -> Evaluation | None:
    folder = training.folder(setting.out)
    config, answers = config_of(folder), RunDirectory(folder).predictions(_last(training, setting.out))
    if config is None or not answers.exists():
        return None
    return _evaluate([(answers, recorded_splits(folder).test)], config)


def _pooled(trainings: Sequence[Training], setting: Setting) -> Evaluation:
    """All folds as one: every image is answered by detectors that did not see it."""
    folders = [training.folder(setting.out) for training in trainings]
    files = [
        (RunDirectory(folder).predictions(_last(training, setting.out)), recorded_splits(folder).test)
        for training, folder in zip(trainings, folders, strict=True)
    ]
    config = config_of(folders[0])
    assert config is not None, "it has answered"
    return _evaluate(files, config)


def _evaluate(files: Sequence[tuple[Path, Path]], config: Config) -> Evaluation:
    says_where = VIEWS[config.data.view].has_regions
    return _evaluate_once(_stamped(files), config.evaluate.num_bootstrap, config.seed, says_where)


def _evaluate_other(baseline: str, files: Sequence[tuple[Path, Path]], config: Config) -> Evaluation:
    """A baseline answers whole files; what counts are the images that the detector beside it is asked about."""
    settings = config.evaluate
    return _evaluate_once(
        _stamped(files), settings.num_bootstrap, config.seed, has_boxes(baseline), settings.num_samples
    )


def _stamped(files: Sequence[tuple[Path, Path]]) -> tuple[tuple[Path, int, Path], ...]:
    return tuple((answers, answers.stat().st_mtime_ns, data) for answers, data in files)


@cache
def _evaluate_once(
    files: tuple[tuple[Path, int, Path], ...], num_bootstrap: int, seed: int, has_boxes: bool, num_asked: int = 0
) -> Evaluation:
    """Tables are written after every training; answers that did not change are scored once.

    Where generators are held out in turn, an image may be in the test parts of several folds. Each answer counts.
    Generators that differ in spelling alone are one.
    """
    said: list[Prediction] = []
    samples: list[Sample] = []
    for number, (answers, _, data) in enumerate(files):
        of_file, predictions = Dataset.open(data).samples, read_predictions(answers)
        if num_asked:
            asked = {of_file[row].sample_id for row in rows_to_answer(len(of_file), num_asked)}
            predictions = [prediction for prediction in predictions if prediction.sample_id in asked]
        answered = {prediction.sample_id for prediction in predictions}
        mark = f"{number}:" if len(files) > 1 else ""
        said += [replace(each, sample_id=mark + each.sample_id) for each in predictions]
        chosen = [sample for sample in of_file if sample.sample_id in answered]
        samples += [replace(each, sample_id=mark + each.sample_id) for each in chosen]
    spelling = one_spelling(s.generator for s in samples if s.annotation.verdict is Verdict.GENERATED)
    samples = [replace(each, generator=spelling.get(each.generator, each.generator)) for each in samples]
    return evaluate(said, samples, num_bootstrap=num_bootstrap, seed=seed, has_boxes=has_boxes)


def _have_same_images(one: Evaluation, other: Evaluation) -> bool:
    return one.scores.sample_ids == other.scores.sample_ids


def _last(training: Training, out: Path) -> str:
    config = config_of(training.folder(out))
    return "none" if config is None else phases_of(config)[-1]


def _num_steps(training: Training, out: Path, phase: str = "") -> int | None:
    config = config_of(training.folder(out))
    if config is None:
        return None
    is_known = not phase or phase in phases_of(config)
    return num_grpo_steps(config, num_training_samples(config), phase) if is_known else None


def _state(
    experiment: Experiment,
    row: Row,
    setting: Setting,
    failures: Mapping[str, str],
    found: Mapping[str, Evaluation],
    questions: Sequence[Question],
) -> str:
    if row.absent:
        return row.absent
    lacking = dict.fromkeys(split_column(c)[0] for c in experiment.columns if split_column(c)[0] not in found)
    if not lacking:
        return ""
    ungiven = [test for test in lacking if test != OWN and test not in setting.outside]
    no_data = f"no data: {' '.join(f'--ood {test}=FILE' for test in ungiven)}" if ungiven == list(lacking) else ""
    if row.baseline:
        return no_data or state_of_baseline(row.baseline, questions, failures)
    training = training_of(row)
    if training.name in failures:
        return failures[training.name]
    config = config_of(training.folder(setting.out))
    if row.phase and config is not None and row.phase not in phases_of(config):
        return state_without(row.phase)
    return no_data or state_of(training, setting.out)


def _part(evaluation: Evaluation, row: Row) -> Slice | None:
    """The images that a row is about."""
    if row.part == "overall":
        return evaluation.overall
    if row.part == "group":
        return evaluation.by_group.get(row.title)
    return {plain_name(name): part for name, part in evaluation.by_generator.items()}.get(plain_name(row.title))


def _unnamed(experiment: Experiment, pooled: Evaluation | None) -> list[Row]:
    """Rows of the generators and groups that are in the data and not in the experiment."""
    if pooled is None:
        return []
    named = {(row.part, plain_name(row.title)) for row in experiment.rows}
    found = [("generator", name) for name in pooled.by_generator if name != "real"]
    found += [("group", name) for name in pooled.by_group]
    return [Row(title=name, part=part) for part, name in found if (part, plain_name(name)) not in named]
