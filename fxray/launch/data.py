"""The three splits of a run: files that the configuration names, or synthetic ones made once in the run directory."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fxray.config.tree import Config
from fxray.counts import counted
from fxray.errors import DataError
from fxray.events import Note, OnEvent, PhaseDone, PhaseStarted, Step, ignore
from fxray.files import write_atomically
from fxray.launch.contents import DATA_FILE, SPLITS, fingerprint, refuse_other_contents
from fxray.launch.run import RunDirectory

if TYPE_CHECKING:
    from fxray.data.dataset import Dataset

PHASE = "data"
SILENT_S = 3.0
"""Nothing is told of a look at files that takes less."""
_LOOKED_AT = 1000
"""Files between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Parquet files of a run."""

    train: Path
    validation: Path
    test: Path
    is_synthetic: bool
    _opened: dict[Path, "Dataset"] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """All three."""
        return self.train, self.validation, self.test

    def open(self, path: Path) -> "Dataset":
        """The dataset of one of the files, which is read once: each of many rows takes its time.

        Raises:
            DataError: As `Dataset.open` says.
        """
        from fxray.data.dataset import Dataset

        if path not in self._opened:
            self._opened[path] = Dataset.open(path)
        return self._opened[path]


def prepare_data(config: Config, run: RunDirectory, on_event: OnEvent) -> Splits:
    """Makes sure that the three splits are there and readable, and records where in `data.json`.

    Raises:
        DataError: A file is missing, empty or malformed, or changed since the run began with it, or an image of the
            training part is in another, or the file of an image is not there (told while nothing is trained).
        FxrayError: Another driver took the run over meanwhile.
    """
    splits = named_splits(config) or _synthetic_splits(run)
    synth = config.data.synth
    if synth is not None and not all(path.exists() for path in splits.paths):
        from fxray.data.synth.write import synthesise

        start_s = time.monotonic()
        on_event(PhaseStarted(PHASE))
        synthesise(
            run.data_file("train").parent,
            num_train=synth.num_train,
            num_validation=synth.num_validation,
            num_test=synth.num_test,
            size_px=synth.size_px,
            seed=synth.seed,
            progress=lambda split, done, total: on_event(Step(f"{PHASE} {split}", done, total)),
        )
        on_event(PhaseDone(PHASE, time.monotonic() - start_s, str(run.data_file("train").parent)))
    if run.sft_adapter.is_dir():
        refuse_shared_samples(*map(splits.open, splits.paths))
    else:
        for note in check_splits(config, splits, on_event):
            on_event(Note(note))
    files = {name: getattr(splits, name) for name in SPLITS}
    contents = {name: fingerprint(splits.open(path)) for name, path in files.items()}
    refuse_other_contents(run.root, files, contents)
    record = {name: _name_in(run.root, path) for name, path in files.items()}
    facts = {"is_synthetic": splits.is_synthetic, "contents": contents}
    if run.lease is not None:
        run.lease.check()
    write_atomically(run.root / DATA_FILE, json.dumps(record | facts, indent=2) + "\n")
    return splits


def check_splits(config: Config, splits: Splits, on_event: OnEvent = ignore) -> list[str]:
    """What a training looks for in its data before it trains anything.

    Args:
        config: For what may be wrong.
        splits: The data.
        on_event: Told of the progress where it takes long.

    Returns:
        What the user should know: that the validation part is too small for the calibration at the end.

    Raises:
        DataError: A file is missing, empty or malformed, or a sample of the training part is in another, or the file
            of an image is not there.
    """
    refuse_shared_samples(*map(splits.open, splits.paths))
    if config.data.on_corrupt_image != "skip":
        _refuse_incomplete(splits, on_event)
    return _notes_of_few(config, splits)


def refuse_shared_samples(train: "Dataset", *others: "Dataset") -> None:
    """Sees to it that no sample that trains is in the others.

    It goes by `sample_id`, which costs nothing. Copies under another id, look-alikes and shared sources are for
    `fxray data check` to find, which reads every image.

    Raises:
        DataError: One is in two.
    """
    trained = {sample.sample_id: row for row, sample in enumerate(train.samples)}
    for other in others:
        shared = [(row, s.sample_id) for row, s in enumerate(other.samples) if s.sample_id in trained]
        if shared:
            row, sample_id = shared[0]
            raise DataError(
                f"field sample_id: {counted(len(shared), 'sample is', 'samples are')} in {train.path} too, such as "
                f"{sample_id!r} in its row {trained[sample_id]}",
                where=f"{other.path} row {row}",
                remedy="split again: fxray data split; where ids only happen to be equal, make them unique",
            )


def refuse_missing_images(dataset: "Dataset", rows: Sequence[int], on_event: OnEvent = ignore) -> None:
    """Sees to it that the image files of rows are there: a dataset's file that was moved has left them behind.

    Args:
        dataset: Whose.
        rows: Which.
        on_event: Told of the progress where it takes long, as on a network's disk.

    Raises:
        DataError: One is not; the message says how many.
    """
    gone, told_s = list[int](), time.monotonic()
    for done, row in enumerate(rows, start=1):
        file = dataset.image_file(row)
        if file is not None and not os.path.exists(file):  # noqa: PTH110 - paths of rows may be none
            gone.append(row)
        if done % _LOOKED_AT == 0 and time.monotonic() - told_s > SILENT_S:
            on_event(Step(f"{PHASE} looks for images of {dataset.path.name}", done, len(rows)))
            told_s = time.monotonic()
    if gone:
        raise DataError(
            f"{dataset.image_file(gone[0])} is not there; {counted(len(gone), 'image is', 'images are')} missing of "
            f"{len(rows)}",
            where=f"{dataset.path} row {gone[0]} field image_path",
            remedy="paths of images count from the dataset's file: move it back, write it anew by fxray data take, or "
            "set data.on_corrupt_image=skip to leave such images out",
        )


def _refuse_incomplete(splits: Splits, on_event: OnEvent) -> None:
    """Looks for the images of all splits: a missing one of the test split would end a run after hours of training."""
    for dataset in map(splits.open, splits.paths):
        refuse_missing_images(dataset, range(len(dataset)), on_event)


def _notes_of_few(config: Config, splits: Splits) -> list[str]:
    from fxray.evaluate.fitting import note_of_few, verdict_counts
    from fxray.launch.evaluation import rows_to_answer

    samples, max_fpr = splits.open(splits.validation).samples, config.evaluate.max_fpr
    rows = rows_to_answer(len(samples), config.evaluate.num_samples)
    asked = verdict_counts(samples, rows)
    field = "data.synth.num_validation" if splits.is_synthetic else "data.validation"
    if len(rows) < len(samples):
        is_small = note_of_few(*verdict_counts(samples), "", max_fpr)
        field = f"{field} and evaluate.num_samples" if is_small else "evaluate.num_samples"
    elif not note_of_few(*asked, ""):
        field += " or evaluate.max_fpr"
    note = note_of_few(*asked, f"a larger {field} would do", max_fpr)
    return [note] if note else []


def _name_in(root: Path, path: Path) -> str:
    """A file's path; one in the run directory goes by its place there, for the directory may be moved."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def named_splits(config: Config) -> Splits | None:
    """The files that a configuration names; none where its data is synthetic."""
    data = config.data
    if data.train and data.validation and data.test:
        return Splits(data.train, data.validation, data.test, is_synthetic=False)
    return None


def _synthetic_splits(run: RunDirectory) -> Splits:
    train, validation, test = (run.data_file(split) for split in SPLITS)
    return Splits(train, validation, test, is_synthetic=True)
