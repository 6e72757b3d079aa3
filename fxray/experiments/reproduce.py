"""Experiments from start to table: data, trainings, measurements, tables after each of them.

    OUT/config.yaml data/ folds/<scheme>/<fold>/        what all trainings share
    OUT/runs/<training>/                                a run directory each, shared by the rows that need it
    OUT/runs/<training>/outside/<data set>/             its answers to data sets from outside
    OUT/baselines/<data set or fold>/<baseline>/        other detectors on the same images; -published/ of that size
    OUT/<experiment>/<experiment>.md .tex .csv .json .html, curves.png .svg

The same call goes on where it was. A training that fails is told in the table, and the others go on.
"""

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fxray.baselines.run import note_shared_sources
from fxray.config.tree import Config
from fxray.data.dataset import Dataset
from fxray.errors import FxrayError
from fxray.events import Note, OnEvent, PhaseStarted, Step, ignore
from fxray.experiments import measure
from fxray.experiments.at_once import refuse_no_room, train_at_once
from fxray.experiments.baselines import Question, answer_all, key_of, questions_of
from fxray.experiments.data import (
    fold_names,
    fold_overrides,
    notes_of_parts,
    plan_checksum,
    prepare_fold,
    prepare_splits,
    refuse_unreadable,
    split_overrides,
)
from fxray.experiments.experiment import OWN, Experiment, split_column
from fxray.experiments.tables import write_lines
from fxray.experiments.trainings import (
    Setting,
    Training,
    is_done,
    is_finished,
    refuse_unequal_steps,
    refuse_unknown_phases,
    trainings_of,
)
from fxray.experiments.work import REAL, Launch, answer_outside, change_images, train
from fxray.files import file_sha256, make_folder, write_atomically
from fxray.launch.data import Splits, refuse_shared_samples
from fxray.launch.lease import hold
from fxray.launch.run import GO_ON, adopt_config, refuse_changed
from fxray.report.paper_table import PaperTable, note_of_sources
from fxray.report.training_curves import draw_trainings
from fxray.versions import versions

CURVES = "curves"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an experiment.

    Attributes:
        folder: Its tables and curves.
        tables: What is in them, the main one first.
        failures: Reasons by training.
        is_synthetic: Whether the data are photographs with planted defects.
    """

    folder: Path
    tables: tuple[PaperTable, ...]
    failures: Mapping[str, str]
    is_synthetic: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """An experiment, the trainings behind its rows, and what its baselines are asked."""

    experiment: Experiment
    trainings: Sequence[Training]
    questions: Sequence[Question]

    @classmethod
    def of(cls, experiment: Experiment, splits: Splits, setting: Setting) -> "_Asked":
        folds = fold_names(experiment.split, setting.configure(())) if experiment.split else []
        questions = questions_of(experiment, folds, splits, setting)
        return cls(experiment, trainings_of(experiment, folds), questions)


def reproduce(
    experiments: Mapping[str, Experiment],
    setting: Setting,
    on_event: OnEvent = ignore,
    launch: Launch = REAL,
    *,
    max_concurrent: int = 1,
) -> dict[str, Result]:
    """Does what is missing of some experiments, and writes their tables.

    Args:
        experiments: By name.
        setting: Configuration and folders.
        on_event: Told of the progress.
        launch: What trains and answers.
        max_concurrent: Trainings at the same time, each in a process of its own if they are several.

    Raises:
        ConfigError: The folder is of another configuration, or trainings that should be equally long are not, or a row
            is about a phase that there is not, or so many at the same time have no room.
        DataError: The data cannot be read or made, an image that folds need cannot, or an outside data set has samples
            that train.
        FxrayError: Another process works on the folder.
        ResourceError: The disk is full or not writable.
    """
    make_folder(setting.out)
    config = setting.configure(())
    with hold(setting.out):
        adopt_config(setting.out, config, GO_ON)
        splits = prepare_splits(config, setting.out, on_event)
        _refuse_what_cannot_stand(experiments, splits, setting, on_event)
        asked = {name: _Asked.of(experiment, splits, setting) for name, experiment in experiments.items()}
        results, failures = {}, dict[str, str]()

        def write(name: str) -> None:
            part = asked[name]
            write_experiment(name, part.experiment, part.trainings, part.questions, setting, failures, has_curves=False)

        def fail(name: str, error: BaseException) -> None:
            failures[name] = _tell_failure(error, name, setting.out, on_event)

        if max_concurrent > 1:
            _train_ahead(asked, splits, setting, max_concurrent, launch, fail, write, on_event)
        for name, part in asked.items():
            for number, training in enumerate(part.trainings, start=1):
                on_event(Note(f"{name}: training {number} of {len(part.trainings)}: {training.name}"))
                if training.name in failures and not is_finished(training.folder(setting.out)):
                    continue
                try:
                    data = _prepared_data(part.experiment, training, splits, setting, on_event)
                    _work(part.experiment, training, data, setting, launch, on_event)
                    failures.pop(training.name, None)
                except Exception as error:  # noqa: BLE001 - one training shall not stop the others; its row tells
                    fail(training.name, error)
                write(name)
            told = failures | _ask_baselines(part.experiment, part.questions, setting, launch, on_event)
            results[name] = write_experiment(name, part.experiment, part.trainings, part.questions, setting, told)
        return results


def _train_ahead(
    asked: Mapping[str, _Asked],
    splits: Splits,
    setting: Setting,
    max_concurrent: int,
    launch: Launch,
    fail: Callable[[str, BaseException], None],
    write: Callable[[str], None],
    on_event: OnEvent,
) -> None:
    """Brings all trainings of all experiments to their ends at the same time; their tables are written after each.

    Raises:
        ConfigError: There is no room for so many.
        ResourceError: The cluster cannot be reached.
    """
    configs, experiments_of = dict[str, Config](), dict[str, list[str]]()
    for name, part in asked.items():
        for training in part.trainings:
            experiments_of.setdefault(training.name, []).append(name)
            try:
                data = _prepared_data(part.experiment, training, splits, setting, on_event)
                config = setting.configure([*data, *training.overrides])
                if not is_done(training.folder(setting.out), config):
                    configs[training.name] = config
            except FxrayError as error:
                fail(training.name, error)
    if not configs:
        return
    refuse_no_room(configs, setting.configure(()).ray, max_concurrent)
    logs = setting.out / "logs"
    on_event(Note(f"what trainings say is in {logs}; `fxray status {setting.out}/runs/NAME` tells how far one is"))
    on_event(PhaseStarted("trainings", len(configs)))
    ended: list[str] = []

    def done(name: str, error: BaseException | None) -> None:
        ended.append(name)
        if error is None:
            on_event(Note(f"{name}: finished"))
        else:
            fail(name, error)
        for experiment in experiments_of[name]:
            write(experiment)
        on_event(Step("trainings", len(ended), len(configs)))

    train_at_once(configs, setting.out, max_concurrent, done, launch.apart)


def _prepared_data(
    experiment: Experiment, training: Training, splits: Splits, setting: Setting, on_event: OnEvent
) -> list[str]:
    """Overrides that let a training read its data, which are made if they are of a fold and not there yet."""
    config, settings = setting.configure(()), experiment.split
    if settings is None:
        return split_overrides(config, setting.out)
    prepare_fold(settings, training.fold, splits, setting.out, config.seed, on_event)
    return fold_overrides(setting.out, settings, training.fold)


def write_experiment(
    name: str,
    experiment: Experiment,
    trainings: Sequence[Training],
    questions: Sequence[Question],
    setting: Setting,
    failures: Mapping[str, str],
    *,
    has_curves: bool = True,
) -> Result:
    """Tables of what is there, and curves, whose many intervals take their time, when they are asked for.

    Raises:
        DataError: Answers are damaged.
        ResourceError: The disk is full or not writable.
    """
    folder, out = setting.out / name, setting.out
    is_synthetic, facts = measure.is_synthetic(trainings, setting), _facts(experiment, trainings, setting)
    run_dirs = {training.fold or training.name: training.folder(out) for training in trainings}
    notes = notes_of_parts(out, experiment.split) if experiment.split else _notes_of_tests(experiment, setting)
    has_curves = has_curves and experiment.kind != "robustness" and draw_trainings(run_dirs, folder, CURVES)
    figure = CURVES if has_curves else ""
    if experiment.kind == "trainings":
        parts = {name: measure.measure_trainings(experiment, setting, failures, questions)}
    elif experiment.kind == "robustness":
        parts = {name: measure.measure_changes(experiment, setting, failures, questions)}
    else:
        parts = {}
        if experiment.rows:
            parts[name] = measure.measure_parts(experiment, trainings, setting, failures, questions)
        parts[f"{name}-folds" if parts else name] = measure.measure_folds(experiment, trainings, setting, failures)
    tables = [
        write_lines(experiment, lines, folder, part, facts, is_synthetic=is_synthetic, figure=figure, notes=notes)
        for part, lines in parts.items()
    ]
    names = [*(training.name for training in trainings), *map(key_of, experiment.baselines)]
    failed = {name: failures[name] for name in names if name in failures}
    return Result(folder, tuple(tables), failed, is_synthetic)


def _refuse_what_cannot_stand(
    experiments: Mapping[str, Experiment], splits: Splits, setting: Setting, on_event: OnEvent
) -> None:
    """Before anything is trained; raises what `reproduce` says of it."""
    _refuse_trained_on(experiments, splits.train, setting, on_event)
    shared = split_overrides(setting.configure(()), setting.out)
    for experiment in experiments.values():
        refuse_unequal_steps(experiment, setting, shared)
        refuse_unknown_phases(experiment, setting)
        _refuse_changed(experiment, setting, shared)
    refuse_unreadable([e.split for e in experiments.values() if e.split], splits, setting.out, on_event)


def _refuse_trained_on(experiments: Mapping[str, Experiment], train: Path, setting: Setting, on_event: OnEvent) -> None:
    """Keeps images that train from standing in a table as such that no training saw; shared sources are told.

    Raises:
        DataError: A file cannot be read, or has a sample that trains.
    """
    tests = dict.fromkeys(test for experiment in experiments.values() for test in experiment.outside)
    files = [setting.outside[test] for test in tests if test in setting.outside]
    refuse_shared_samples(*map(Dataset.open, (train, *files)))
    for file in files:
        note_shared_sources(train, file, on_event)


def _refuse_changed(experiment: Experiment, setting: Setting, shared: Sequence[str]) -> None:
    """Keeps a training from standing in a table for what its row, or a file that the row names, says by now.

    Raises:
        ConfigError: A training was begun with a configuration that comes to something else.
    """
    folds = fold_names(experiment.split, setting.configure(())) if experiment.split else []
    for training in trainings_of(experiment, folds):
        data = fold_overrides(setting.out, experiment.split, training.fold) if experiment.split else shared
        refuse_changed(training.folder(setting.out), setting.configure([*data, *training.overrides]), GO_ON)


def _work(
    experiment: Experiment,
    training: Training,
    data: Sequence[str],
    setting: Setting,
    launch: Launch,
    on_event: OnEvent,
) -> None:
    train(training, data, setting, launch, on_event)
    if experiment.kind == "robustness":
        change_images(experiment, training, setting, launch, on_event)
    answer_outside(experiment, training, setting, launch, on_event)


def _ask_baselines(
    experiment: Experiment, questions: Sequence[Question], setting: Setting, launch: Launch, on_event: OnEvent
) -> dict[str, str]:
    """Reasons of those that failed, by the names that they have among trainings."""
    found = answer_all(experiment, questions, setting, launch.baselines, setting.configure(()), on_event)
    return {key_of(name): _tell_failure(error, key_of(name), setting.out, on_event) for name, error in found.items()}


def _tell_failure(error: BaseException, name: str, out: Path, on_event: OnEvent) -> str:
    """The reason in one line; the traceback lies beside the runs."""
    file = out / "failures" / f"{name}.txt"
    write_atomically(file, "".join(traceback.format_exception(error)))
    message = error.message if isinstance(error, FxrayError) else f"{type(error).__name__}: {error}"
    reason = f"failed: {' '.join(message.split())[:200]}"
    if isinstance(error, FxrayError) and error.where:
        reason += f" ({error.where})"
    on_event(Note(f"{name} {reason} ({file})", is_warning=True))
    return reason


def _tests_of(experiment: Experiment, setting: Setting) -> dict[str, Path]:
    """Files of the tests that columns are about, as far as they are given; not of folds."""
    own = setting.out / json.loads((setting.out / "data.json").read_text("utf-8"))["test"]
    tests = dict.fromkeys(split_column(column)[0] for column in experiment.columns)
    given = {OWN: own, **setting.outside}
    return {test: given[test] for test in tests if test in given}


def _notes_of_tests(experiment: Experiment, setting: Setting) -> list[str]:
    return [
        note
        for test, file in _tests_of(experiment, setting).items()
        for note in note_of_sources("Test set" if test == OWN else test, [s.source for s in Dataset.open(file).samples])
    ]


def _facts(experiment: Experiment, trainings: Sequence[Training], setting: Setting) -> dict[str, object]:
    """What the numbers rest on."""
    runs = [training.folder(setting.out) for training in trainings]
    records = [json.loads(file.read_text("utf-8")) for run in runs if (file := run / "versions.json").is_file()]
    commits = dict.fromkeys(str(record.get("git_revision")) for record in records)
    config = setting.configure(())
    facts: dict[str, object] = {
        "config": "config.yaml",
        "base": config.model.path,
        "seed": config.seed,
        "num_bootstrap": config.evaluate.num_bootstrap,
    }
    if experiment.baselines:
        facts["baselines"] = f"{setting.baseline_size} networks from random weights"
    if experiment.split is not None:
        facts["data checksum"] = plan_checksum(setting.out, experiment.split)
    else:
        for test, file in _tests_of(experiment, setting).items():
            facts["data_sha256" if test == OWN else f"{test}_sha256"] = file_sha256(file)
    facts["commit"] = ", ".join(commits) or versions()["git_revision"]
    facts["machine"] = versions()["machine"]
    return facts
