"""Rows that are about other detectors: each baseline is fitted on the very images, and answers the very tests.

OUT/baselines/<test or fold>/<baseline>/               as `fxray baseline run` leaves it, of small networks
OUT/baselines/<test or fold>-published/<baseline>/     of those of the papers' sizes
OUT/baselines/own-changed/<baseline>/                  on the test set as it is and under changes

What is there is not fitted again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fxray.baselines.measure import PREDICTIONS, RECORD, UNDER, Under
from fxray.baselines.ports import Settings, Size
from fxray.baselines.registry import BASELINES, find
from fxray.baselines.run import Outcome, read_record, run_baselines
from fxray.config.tree import Config
from fxray.data.dataset import Dataset
from fxray.errors import DataError, FxrayError
from fxray.events import OnEvent
from fxray.experiments.data import fold_file
from fxray.experiments.experiment import OWN, Experiment, split_column
from fxray.experiments.trainings import Setting
from fxray.files import distinct_slug, file_sha256, make_folder
from fxray.launch.data import Splits
from fxray.launch.evaluation import rows_to_answer
from fxray.launch.robustness import read_scores
from fxray.report.robustness import ORIGINAL
from fxray.versions import versions


@dataclass(frozen=True, slots=True)
class Question:
    """What the baselines of an experiment are fitted on, and asked about.

    Attributes:
        name: Test, or fold.
        train: Parquet file.
        test: Parquet file.
        folder: Of their answers.
        size: Of the networks that are asked.
        changes: Of the test images, which are asked about, too; None for a question that is not of changes.
    """

    name: str
    train: Path
    test: Path
    folder: Path
    size: Size
    changes: tuple[str, ...] | None = None

    def answers(self, baseline: str) -> Path:
        """Where a baseline's predictions lie, once it has answered."""
        return self.folder / baseline / PREDICTIONS

    def numbers_under(self, baseline: str, change: str, metrics: Sequence[str]) -> dict[str, Any] | None:
        """Numbers of the images under a change, of none for the images as they are; None before they are measured.

        Raises:
            DataError: Their file is damaged, or lacks one of the metrics.
        """
        file = self.folder / baseline / UNDER / f"{change or ORIGINAL}.json"
        if not (self.is_answered(baseline) and file.is_file()):
            return None
        return read_scores(file, metrics, self.folder / baseline)

    def is_answered(self, baseline: str) -> bool:
        """Whether a baseline of this size has answered; what lies there may be of another."""
        record = self.folder / baseline / RECORD
        try:
            if not record.is_file():
                return False
            return read_record(record)["key"].get("size") == self.size or not has_sizes(baseline)
        except DataError:  # whoever fits it next says so
            return False


PUBLISHED = "-published"
"""What the folder of a test or fold ends in, where networks are of the papers' sizes."""
Fit = Callable[[Sequence[str], Question, Setting, Config, OnEvent], Outcome]


def questions_of(experiment: Experiment, folds: Sequence[str], splits: Splits, setting: Setting) -> list[Question]:
    """One for each test set that a column is about and that is given, or one for each fold.

    Args:
        experiment: With or without baselines.
        folds: Of an experiment in folds.
        splits: Files of the configuration.
        setting: Where everything lies.
    """
    size, ending = setting.baseline_size, PUBLISHED if setting.baseline_size == "published" else ""
    out = setting.out / "baselines"
    if experiment.split is not None:
        scheme = experiment.split
        files = [[fold_file(setting.out, scheme, fold, name) for name in ("train", "test")] for fold in folds]
        return [
            Question(fold, train, test, out / f"{scheme.name}-{distinct_slug(fold)}{ending}", size)
            for fold, (train, test) in zip(folds, files, strict=True)
        ]
    if experiment.kind == "robustness":
        folder = out / f"{OWN}-changed{ending}"
        return [Question(OWN, splits.train, splits.test, folder, size, experiment.changes_of_baselines)]
    questions = []
    for test in dict.fromkeys(split_column(column)[0] for column in experiment.columns):
        if test == OWN:
            questions.append(Question(test, splits.train, splits.test, out / f"{test}{ending}", size))
        elif (file := setting.outside.get(test)) is not None:
            folder = out / f"{test}-{file_sha256(file)[:12]}{ending}"
            questions.append(Question(test, splits.train, file, folder, size))
    return questions


def fit(names: Sequence[str], question: Question, setting: Setting, config: Config, on_event: OnEvent) -> Outcome:
    """Fits some baselines, and lets them answer; on CUDA where there is a device.

    Raises:
        DataError: A dataset cannot be read.
    """
    import torch

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    settings, under = Settings(config.seed, device, size=setting.baseline_size), None
    if question.changes is not None:
        rows = rows_to_answer(len(Dataset.open(question.test)), config.evaluate.num_samples)
        under = Under(question.changes, tuple(rows), config.evaluate.num_bootstrap)
    return run_baselines(
        find(names), settings, {}, train=question.train, test=question.test, out=question.folder,
        versions=versions(), on_event=on_event, under=under,
    )  # fmt: skip


def answer_all(
    experiment: Experiment, questions: Sequence[Question], setting: Setting, fit: Fit, config: Config, on_event: OnEvent
) -> dict[str, FxrayError]:
    """Lets every baseline of an experiment answer every question; failures by name, the others go on."""
    failures = dict[str, FxrayError]()
    for question in questions if experiment.baselines else ():
        if not (question.train.is_file() and question.test.is_file()):  # of a fold that could not be made
            continue
        _set_apart(question, experiment.baselines)
        try:
            failures |= fit(experiment.baselines, question, setting, config, on_event).failures
        except FxrayError as error:
            failures |= dict.fromkeys(experiment.baselines, error)
    return failures


def _set_apart(question: Question, baselines: Sequence[str]) -> None:
    """Earlier versions kept both sizes in one folder: published ones go to their own before small ones are fitted."""
    shared = question.folder.with_name(question.folder.name.removesuffix(PUBLISHED))
    own = shared.with_name(f"{shared.name}{PUBLISHED}")
    earlier = replace(question, folder=shared, size="published")
    for name in baselines:
        if has_sizes(name) and earlier.is_answered(name) and not (own / name).exists():
            make_folder(own)
            (shared / name).rename(own / name)


def has_boxes(baseline: str) -> bool:
    """Whether a baseline says where."""
    return next(entry.has_masks for entry in BASELINES if entry.name == baseline)


def has_sizes(baseline: str) -> bool:
    """Whether a baseline is another one with networks of another size."""
    return next("size" in entry.takes for entry in BASELINES if entry.name == baseline)


def state_of_baseline(baseline: str, questions: Sequence[Question], failures: Mapping[str, str]) -> str:
    """Why it has no answers, or no more; empty where all are there."""
    if reason := failures.get(key_of(baseline)):
        return reason
    lacking = [question.name for question in questions if not question.is_answered(baseline)]
    return f"not fitted for {', '.join(lacking)}" if lacking else ""


def key_of(baseline: str) -> str:
    """Its name among trainings."""
    return f"baseline-{baseline}"
