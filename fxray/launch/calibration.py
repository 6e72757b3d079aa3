"""Calibrates the adapter that a phase of a run ended with, on the answers to the validation split."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fxray.config.tree import Config
from fxray.counts import counted
from fxray.data.dataset import Dataset
from fxray.errors import CheckpointError, DataError, ModelError
from fxray.evaluate.calibration import Calibration, FittedFor, write_calibration
from fxray.evaluate.fitting import fit_calibration
from fxray.evaluate.groups import has_planted_defects
from fxray.evaluate.predictions import read_predictions
from fxray.files import file_sha256
from fxray.launch.contents import TELL_THE_RUN
from fxray.launch.data import Splits
from fxray.launch.fleet import read_policy
from fxray.launch.run import RunDirectory, Split, finished_phases
from fxray.model.folder import resolve_model_path, weights_fingerprint
from fxray.schema import Verdict


def calibrate_phase(
    config: Config, run: RunDirectory, name: str, splits: Splits, *, max_fpr: float, max_error: float
) -> Calibration:
    """Fits a calibration and puts it beside the adapter.

    Args:
        config: Of the run.
        run: Holds the phase's adapter and its answers to the validation split.
        name: "sft" or a stage.
        splits: Of the run.
        max_fpr: Largest share of real images that may count as generated.
        max_error: Largest share of wrong verdicts on either side of the unsure band.

    Raises:
        DataError: The validation split shares images with the test split, or has too few.
        CheckpointError: The adapter cannot be read.
    """
    dataset = refuse_test_images(splits.validation, splits.test)
    samples = {sample.sample_id: sample for sample in dataset.samples}
    file = run.predictions(name, "validation")
    answers = read_predictions(file)
    if strangers := [answer.sample_id for answer in answers if answer.sample_id not in samples]:
        raise DataError(
            f"{counted(len(strangers), 'sample is', 'samples are')} not in {splits.validation}, such as "
            f"{strangers[0]!r}",
            where=str(file),
            remedy="delete the file, so that the split is answered anew",
        )
    told = [(answer.probability, samples[answer.sample_id]) for answer in answers if answer.probability is not None]
    adapter = run.adapter(name)
    calibration = fit_calibration(
        np.array([probability for probability, _ in told], np.float64),
        np.array([sample.annotation.verdict is Verdict.GENERATED for _, sample in told], np.bool_),
        num_without=len(answers) - len(told),
        max_fpr=max_fpr,
        max_error=max_error,
        num_sources=len({sample.source for _, sample in told}),
        data=splits.validation.name,
        data_sha256=file_sha256(splits.validation),
        is_synthetic=splits.is_synthetic or has_planted_defects(sample.generator for sample in dataset.samples),
        fitted_for=fitted_for(config, read_policy(adapter, 0).sha256),
    )
    write_calibration(calibration, adapter)
    return calibration


def fitted_for(config: Config, adapter_sha256: str) -> FittedFor:
    """What a calibration holds for, with this configuration and adapter."""
    return FittedFor(
        adapter_sha256=adapter_sha256,
        base=base_name(config),
        base_fingerprint=_fingerprint_if_there(config.model.path),
        view=config.data.view,
        min_pixels=config.model.min_pixels,
        max_pixels=config.model.max_pixels,
    )


def _fingerprint_if_there(model_path: str) -> str:
    """Of the base model; empty where it is elsewhere: a phase that has its answers is calibrated without it."""
    try:
        return weights_fingerprint(resolve_model_path(model_path))
    except ModelError:
        return ""


def base_name(config: Config) -> str:
    """How answers and calibrations call the base model."""
    return Path(config.model.path).name


def refuse_test_images(validation: Path, test: Path) -> Dataset:
    """Opens the validation split and sees to it that none of its samples is held out for the test.

    Raises:
        DataError: They share a sample; what is calibrated on the test split cannot be tested on it.
    """
    dataset = Dataset.open(validation)
    held_out = {sample.sample_id for sample in Dataset.open(test).samples}
    shared = [sample.sample_id for sample in dataset.samples if sample.sample_id in held_out]
    if shared:
        raise DataError(
            f"{len(shared)} of {len(dataset)} samples are in the test split {test} too, such as {shared[0]!r}",
            where=str(validation),
            remedy="calibrate on images that are not held out: split again with `fxray data split`",
        )
    return dataset


def recorded_splits(root: Path) -> Splits:
    """Where the splits of a run lie, from its `data.json`.

    Raises:
        CheckpointError: The file is missing or says something else.
    """
    root = root.resolve()  # other processes read these paths, from folders of their own
    try:
        record = json.loads((root / "data.json").read_text("utf-8"))
        train, validation, test = (root / str(record[name]) for name in ("train", "validation", "test"))
    except FileNotFoundError as error:
        raise CheckpointError(
            "is missing, so the splits of this run are not known",
            where=str(root / "data.json"),
            remedy="give the folder that `fxray train` wrote; an adapter alone is enough for detect and serve only",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"says nothing of the run's splits: {error}",
            where=str(root / "data.json"),
            remedy="let `fxray train` go on",
        ) from error
    return Splits(train, validation, test, is_synthetic=bool(record.get("is_synthetic")))


def splits_of_finished(root: Path, *needed: Split) -> Splits:
    """The splits of a run that has finished a phase, before its lock is taken: what is no run keeps no lock file.

    Args:
        root: The run directory.
        needed: Splits that are to be there.

    Raises:
        CheckpointError: It is no run directory, or nothing is finished in it, or its splits are not known.
        DataError: One that is needed is not there.
    """
    finished_phases(root)
    splits = recorded_splits(root)
    for name in needed:
        file: Path = getattr(splits, name)
        if not file.exists():
            raise DataError(f"data.{name} of this run is not there", where=str(file), remedy=TELL_THE_RUN)
    return splits


def chosen_phase(finished: Sequence[str], stage: str | None, root: Path) -> str:
    """The phase that was asked for, or the last that is finished.

    Raises:
        CheckpointError: It is not finished.
    """
    if stage is not None and stage not in finished:
        raise CheckpointError(
            f"{stage} is not finished", where=str(root), remedy=f"choose one of {', '.join(finished)}"
        )
    return stage or finished[-1]
