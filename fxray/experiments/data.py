"""The data that the trainings of an experiment share: splits made once, and folds."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fxray.config.tree import Config
from fxray.data.dataset import Dataset
from fxray.data.generators import one_spelling
from fxray.data.split.plan import read_plan, write_plan
from fxray.data.split.schemes import TEST
from fxray.data.split.settings import Scheme, Settings
from fxray.data.split.split import scan_whole, split
from fxray.data.split.take import take
from fxray.data.synth.families import FAMILIES
from fxray.errors import ConfigError, DataError
from fxray.evaluate.groups import group_of, has_planted_defects
from fxray.events import OnEvent
from fxray.experiments.experiment import SplitSettings
from fxray.files import distinct_slug
from fxray.launch.data import Splits, prepare_data
from fxray.launch.parts import on_all_cores
from fxray.launch.run import RunDirectory
from fxray.report.paper_table import note_of_sources
from fxray.schema import Verdict

PLAN = "split.json"
NAMES = ("train", "validation", "test")


def prepare_splits(config: Config, out: Path, on_event: OnEvent) -> Splits:
    """The splits of the configuration; synthetic ones are made once, in data/.

    Raises:
        DataError: A file is missing or malformed.
    """
    return prepare_data(config, RunDirectory(out), on_event)


def split_overrides(config: Config, out: Path) -> list[str]:
    """What lets a training read the splits that all share."""
    if config.data.synth is None:
        return []
    return _overrides([RunDirectory(out).data_file(name) for name in NAMES])


def fold_overrides(out: Path, settings: SplitSettings, fold: str) -> list[str]:
    """What lets a training read the splits of a fold."""
    return _overrides([fold_file(out, settings, fold, name) for name in NAMES])


def fold_file(out: Path, settings: SplitSettings, fold: str, name: str) -> Path:
    """Parquet file of a split of a fold."""
    return _fold_dir(out, settings, fold) / f"{name}.parquet"


def fold_names(settings: SplitSettings, config: Config) -> list[str]:
    """The folds, from the data where they are there already, else from what will be made.

    Raises:
        ConfigError: The generated images are all of one generator or group, so none can be held out.
        DataError: A file is missing or malformed.
    """
    if settings.scheme == "k-fold":
        return [str(fold) for fold in range(settings.num_folds)]
    generators = _generators(config)
    is_by_group = settings.scheme == "leave-one-group-out"
    names = sorted(set((_groups(generators) if is_by_group else one_spelling(generators)).values()))
    if len(names) < 2:
        what = "group" if is_by_group else "generator"
        raise ConfigError(
            f"the generated images are all of one {what}, {', '.join(names) or 'none'}, so none can be held out",
            where=settings.scheme,
            remedy="leave the experiment out, or add images of another",
        )
    return names


def refuse_unreadable(settings: Iterable[SplitSettings], splits: Splits, out: Path, on_event: OnEvent) -> None:
    """Sees to it that what is still to be split can be, before anything is trained.

    Raises:
        DataError: An image cannot be read, or an id stands twice.
    """
    if all(_plan_file(out, each).is_file() for each in settings):
        return
    needs_all = "folds need every image, whatever data.on_corrupt_image says; fxray data check lists every fault"
    try:
        scan_whole([splits.train, splits.validation, splits.test], on_event, all_cores=on_all_cores)
    except DataError as error:
        raise DataError(error.message, where=error.where, remedy=f"{error.remedy}; {needs_all}") from error


def prepare_fold(settings: SplitSettings, fold: str, splits: Splits, out: Path, seed: int, on_event: OnEvent) -> None:
    """Splits the three files anew, once for all folds, and writes the parts of one.

    Raises:
        DataError: A part would lack a class, or a generator has no group, or the data changed since the split.
    """
    folder, plan = _fold_dir(out, settings, fold), _plan_file(out, settings)
    if not plan.is_file():
        files = [splits.train, splits.validation, splits.test]
        samples = [sample for file in files for sample in Dataset.open(file).samples]
        generators = {s.generator for s in samples if s.annotation.verdict is Verdict.GENERATED}
        wanted = Settings(
            Scheme(settings.scheme),
            settings.num_folds,
            (0.8, 0.1, 0.1),
            settings.test_frac,
            settings.validation_frac,
            _groups(generators) if settings.scheme == "leave-one-group-out" else {},
            settings.keep_all,
            settings.ignore_source,
            seed,
        )
        write_plan(plan, split(files, wanted, on_event, all_cores=on_all_cores).plan)
    if not all((folder / f"{name}.parquet").is_file() for name in NAMES):
        take(plan, folder, fold, on_event)


def plan_checksum(out: Path, settings: SplitSettings) -> str:
    """Checksum of the data that the folds were made of; empty before."""
    path = _plan_file(out, settings)
    return str(json.loads(path.read_text("utf-8"))["checksum"]) if path.is_file() else ""


def notes_of_parts(out: Path, settings: SplitSettings) -> list[str]:
    """What a table says of the test parts: that they lack images, or that images share sources.

    Raises:
        DataError: The plan is damaged, or its data cannot be read.
    """
    path = out / "folds" / settings.name / PLAN
    if not path.is_file():
        return []
    plan, notes = read_plan(path), list[str]()
    is_asked_N = np.any([fold.parts_N == TEST for fold in plan.folds], axis=0)
    asked = {sample_id for sample_id, is_asked in zip(plan.sample_ids, is_asked_N, strict=True) if is_asked}
    if len(asked) < len(is_asked_N):
        surplus = "" if settings.keep_all else "; the larger class of each part is cut to the size of the smaller"
        notes.append(f"{len(asked)} of {len(is_asked_N)} images are in a test part{surplus}.")
    samples = [sample for file in plan.files for sample in Dataset.open(file).samples]
    return notes + note_of_sources("Test parts", [s.source for s in samples if s.sample_id in asked])


def _generators(config: Config) -> set[str]:
    if config.data.synth is not None:
        return {family.name for family in FAMILIES}
    files = [file for file in (config.data.train, config.data.validation, config.data.test) if file is not None]
    samples = [sample for file in files for sample in Dataset.open(file).samples]
    return {sample.generator for sample in samples if sample.annotation.verdict is Verdict.GENERATED}


def _groups(generators: Iterable[str]) -> dict[str, str]:
    names = sorted(generators)
    is_synthetic = has_planted_defects(names)
    return {name: group_of(name, is_generated=True, is_synthetic=is_synthetic) for name in names}


def _plan_file(out: Path, settings: SplitSettings) -> Path:
    return out / "folds" / settings.name / PLAN


def _fold_dir(out: Path, settings: SplitSettings, fold: str) -> Path:
    return out / "folds" / settings.name / distinct_slug(fold)


def _overrides(files: Sequence[Path]) -> list[str]:
    paths = [f"data.{name}={json.dumps(str(file.resolve()))}" for name, file in zip(NAMES, files, strict=True)]
    return ["data.synth=null", *paths]
