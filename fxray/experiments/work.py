"""Does what an experiment is missing: trains, lets outside images be answered, changes images. What is there stays.

A training whose settings before GRPO equal those of a finished SFT takes over its adapter and its answers.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Event
from typing import Any, Protocol, get_args

from fxray.checkpoints import CALIBRATION_FILE
from fxray.config.tree import Config
from fxray.data.changes import HARDSHIPS, Change
from fxray.events import Note, OnEvent
from fxray.experiments.baselines import Fit, fit
from fxray.experiments.experiment import Experiment, Row
from fxray.experiments.trainings import (
    Setting,
    Training,
    are_equal_before_grpo,
    config_of,
    is_done,
    phases_of,
    training_of,
)
from fxray.files import atomic_dir, file_sha256, make_folder, write_atomically
from fxray.launch import phases
from fxray.launch.apart import Surroundings, run_process
from fxray.launch.base_model import has_other_base
from fxray.launch.phases import NO_FT, SFT
from fxray.launch.robustness import FOLDER as ROBUSTNESS
from fxray.launch.robustness import NUMBERS, measure_robustness, read_numbers
from fxray.launch.run import RunDirectory, Split, open_run
from fxray.metrics import METRICS_FILE
from fxray.report.robustness import ORIGINAL, RobustnessReport


class Answer(Protocol):
    """Lets the base model, or an adapter on it, answer a data set into a predictions file."""

    def __call__(self, config: Config, adapter: Path | None, data: Path, out: Path, on_event: OnEvent) -> object: ...


class Robustness(Protocol):
    """Lets a phase of a run answer changed images."""

    def __call__(
        self, run_dir: Path, stage: str | None, changes: Sequence[Change], overrides: Sequence[str], on_event: OnEvent
    ) -> RobustnessReport: ...


class Apart(Protocol):
    """Runs an `fxray` command in a process of its own, as `run_process` does, and ends it once it is told to stop."""

    def __call__(self, arguments: list[str], run_dir: Path, log: Path, around: Surroundings, stop: Event) -> object: ...


@dataclass(frozen=True, slots=True)
class Launch:
    """The port to what trains and answers; tests put fakes in."""

    train: Callable[[Config, Path, OnEvent], object]
    answer: Answer
    robustness: Robustness
    baselines: Fit
    apart: Apart = run_process


REAL = Launch(phases.train, phases.evaluate_adapter, measure_robustness, fit)


def train(
    training: Training, data_overrides: Sequence[str], setting: Setting, launch: Launch, on_event: OnEvent
) -> None:
    """Trains to the end, or goes on, or finds it done.

    Raises:
        FxrayError: As `fxray.launch.phases.train` says.
    """
    folder = training.folder(setting.out)
    config = setting.configure([*data_overrides, *training.overrides])
    if is_done(folder, config):
        on_event(Note(f"{training.name}: finished already"))
        return
    take_over_sft(folder, config, on_event)
    launch.train(config, folder, on_event)


def answer_outside(
    experiment: Experiment, training: Training, setting: Setting, launch: Launch, on_event: OnEvent
) -> None:
    """Lets the phases that rows are about answer the outside data sets that are given.

    Raises:
        FxrayError: As `fxray.launch.phases.evaluate_adapter` says.
    """
    run = RunDirectory(training.folder(setting.out))
    config = config_of(run.root)
    assert config is not None, "it was trained"
    rows = [row for row in experiment.rows if row.is_trained and training_of(row) == training]
    for test in experiment.outside:
        for row in rows if test in setting.outside else []:
            phase = row.phase or phases_of(config)[-1]
            if phase not in phases_of(config):
                continue
            answers = outside_answers(setting, test, training, phase)
            _take_earlier_answers(answers, training, setting, run.predictions(phase))
            if not answers.exists():
                adapter = None if phase == NO_FT else run.adapter(phase)
                launch.answer(config, adapter, setting.outside[test], answers, on_event)


def outside_answers(setting: Setting, test: str, training: Training, phase: str) -> Path:
    """Where the answers to an outside data set lie, beside what gave them; other data of the name are new."""
    checksum = file_sha256(setting.outside[test])[:12]
    return training.folder(setting.out) / "outside" / f"{test}-{checksum}" / f"{phase}.parquet"


def _take_earlier_answers(answers: Path, training: Training, setting: Setting, own_test: Path) -> None:
    """Earlier versions kept answers in OUT/outside, whatever became of a training: what is younger is its own."""
    earlier = setting.out / "outside" / answers.parent.name / f"{training.name}.{answers.name}"
    if earlier.exists() and own_test.exists() and earlier.stat().st_mtime_ns > own_test.stat().st_mtime_ns:
        make_folder(answers.parent)
        earlier.rename(answers)


def change_images(
    experiment: Experiment, training: Training, setting: Setting, launch: Launch, on_event: OnEvent
) -> None:
    """Lets the last phase of a training answer its test split under the changes that rows name.

    Raises:
        FxrayError: As `fxray.launch.robustness` says.
    """
    wanted = {row.change for row in experiment.rows if row.is_trained}
    changes = [change for change in HARDSHIPS if change.name in wanted]
    launch.robustness(training.folder(setting.out), None, changes, (), on_event)


def read_change(row: Row, training: Training, out: Path, columns: Sequence[str]) -> dict[str, Any] | None:
    """Numbers of the images under a row's change; None before they are measured.

    Raises:
        DataError: Their file is damaged, or lacks a column's.
    """
    folder = training.folder(out)
    config = config_of(folder)
    if config is None:
        return None
    phase = phases_of(config)[-1]
    change = folder / ROBUSTNESS / phase / (row.change or ORIGINAL)
    return read_numbers(change, columns) if (change / NUMBERS).is_file() else None


def take_over_sft(folder: Path, config: Config, on_event: OnEvent) -> None:
    """Copies adapter, answers and records of an SFT with equal settings, and of the base model, from a run beside.

    Raises:
        ConfigError: The run was started with another configuration.
        FxrayError: Another process works on it.
    """
    if RunDirectory(folder).sft_adapter.is_dir():
        return
    donor = _donor(folder, config)
    if donor is None:
        return
    with open_run(folder, config) as run:
        if not (run.root / METRICS_FILE).exists() and (donor.root / METRICS_FILE).exists():
            lines = (donor.root / METRICS_FILE).read_text("utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["phase"] == SFT]
            write_atomically(run.root / METRICS_FILE, "".join(kept))
        for name, split in product((NO_FT, SFT), get_args(Split)):
            answers = donor.predictions(name, split)
            if answers.exists() and not run.predictions(name, split).exists():
                write_atomically(run.predictions(name, split), answers.read_bytes())
        with atomic_dir(run.sft_adapter) as aside:
            ignore = shutil.ignore_patterns(CALIBRATION_FILE)
            shutil.copytree(donor.sft_adapter, aside, ignore=ignore, dirs_exist_ok=True)
        write_atomically(run.root / "sft" / "taken-from", f"{donor.root.name}\n")
    on_event(Note(f"SFT and answers before GRPO are those of {donor.root.name}, whose settings are equal"))


def _donor(folder: Path, config: Config) -> RunDirectory | None:
    for other in sorted(folder.parent.iterdir()) if folder.parent.is_dir() else []:
        run = RunDirectory(other)
        its = config_of(other)
        if other == folder or its is None or not run.sft_adapter.is_dir():
            continue
        if are_equal_before_grpo(its, config) and not has_other_base(other, config.model.path):
            return run
    return None
