"""What an experiment would do, and how far it has come; nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fxray.config.limits import check
from fxray.errors import ConfigError
from fxray.experiments.baselines import Question, key_of, questions_of, state_of_baseline
from fxray.experiments.data import fold_names
from fxray.experiments.experiment import Experiment, Row
from fxray.experiments.trainings import (
    Setting,
    Training,
    num_grpo_steps,
    num_training_samples,
    phases_of,
    refuse_unequal_steps,
    state_of,
    state_without,
    training_of,
    trainings_of,
)
from fxray.launch.data import Splits
from fxray.launch.run import GO_ON, refuse_changed
from rewards.custom import load_reward


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row before it is worked on: its training, how far that is, and its GRPO steps as far as they are known."""

    title: str
    training: str
    state: str
    num_steps: int | None


def plan(experiment: Experiment, setting: Setting) -> list[PlannedRow]:
    """What an experiment would do; nothing is written.

    Raises:
        ConfigError: Trainings that should take equally many steps do not, or the folder is of another configuration.
        DataError: A data file is missing or malformed.
    """
    config = setting.configure(())
    refuse_changed(setting.out, config, GO_ON)
    refuse_unequal_steps(experiment, setting, ())
    folds = fold_names(experiment.split, config) if experiment.split else []
    nowhere = Splits(Path(), Path(), Path(), is_synthetic=False)  # what is asked is not looked at here
    questions = questions_of(experiment, folds, nowhere, setting)
    if experiment.split is not None:
        others = [_planned_other(row, questions) for row in experiment.rows if row.absent or row.baseline]
        return [_planned(f"fold {t.fold}", t, setting) for t in trainings_of(experiment, folds)] + others
    return [
        _planned(row.title, training_of(row), setting, row.phase) if row.is_trained else _planned_other(row, questions)
        for row in experiment.rows
    ]


def _planned_other(row: Row, questions: Sequence[Question]) -> PlannedRow:
    """A row without a training."""
    if row.absent:
        return PlannedRow(row.title, "", row.absent, None)
    state = state_of_baseline(row.baseline, questions, {}) or ("answered" if questions else "no data: --ood NAME=FILE")
    return PlannedRow(row.title, key_of(row.baseline), state, None)


def _planned(title: str, training: Training, setting: Setting, phase: str = "") -> PlannedRow:
    try:
        config = setting.configure(training.overrides)
        problems = check(config)
        for function in config.reward.functions:
            load_reward(function.path)
    except ConfigError as error:
        return PlannedRow(title, training.name, f"cannot run: {error.message}", None)
    if phase and phase not in phases_of(config):
        return PlannedRow(title, training.name, state_without(phase), None)
    state = f"cannot run: {problems[0]}" if problems else state_of(training, setting.out)
    num_train = None if training.fold else num_training_samples(config)
    return PlannedRow(title, training.name, state, num_grpo_steps(config, num_train, phase))
