"""Writes the parts of a split as datasets, once it is sure that the data are still those that were split."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fxray.counts import counted
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.data.split.plan import SPLIT_AGAIN, Plan, content_checksum, read_plan
from fxray.data.split.schemes import PART_NAMES, TEST, TRAIN, VALIDATION, Fold
from fxray.data.split.streaming import stream_rows
from fxray.errors import DataError
from fxray.events import OnEvent, Step, ignore
from fxray.files import atomic_path, relative_path


def verify(plan: Plan, datasets: Sequence[Dataset], where: str, on_event: OnEvent = ignore) -> None:
    """Compares a split with the data that it was made of; reads every image.

    Raises:
        DataError: Rows came, went or changed, or an image cannot be read.
    """
    samples = [sample for dataset in datasets for sample in dataset.samples]
    if tuple(sample.sample_id for sample in samples) != plan.sample_ids:
        known = set(plan.sample_ids)
        foreign = [sample.sample_id for sample in samples if sample.sample_id not in known]
        example = f"{foreign[0]!r} is new" if foreign else "rows are missing or in another order"
        raise DataError(
            f"the dataset has {counted(len(samples), 'row')}, the split {len(plan.sample_ids)}; {example}",
            where=where,
            remedy=SPLIT_AGAIN,
        )
    digests = []
    for row in (row for dataset in datasets for row in stream_rows(dataset, np.ones(len(dataset), bool))):
        digests.append(hashlib.sha256(row.content).digest())
        on_event(Step("verify", len(digests), len(samples)))
    if (found := content_checksum(samples, digests)) != plan.checksum:
        raise DataError(
            f"the data changed since the split was made: checksum {found[:12]}…, expected {plan.checksum[:12]}…",
            where=where,
            remedy=SPLIT_AGAIN,
        )


def take(path: Path, out_dir: Path, fold_name: str | None, on_event: OnEvent = ignore) -> list[Path]:
    """Writes the parts of one fold as dataset files, after the split is verified: all of them or none.

    Args:
        path: The split file.
        out_dir: Folder for `train.parquet`, `validation.parquet` (where it has rows) and `test.parquet`; those of
            an earlier split go.
        fold_name: Which fold; may be None where there is only one.
        on_event: Is told of rows done.

    Returns:
        The files.

    Raises:
        DataError: No such fold, the data changed, or a row is malformed.
        ResourceError: The disk is full or not writable.
    """
    plan = read_plan(path)
    fold = _fold(plan, fold_name, str(path))
    datasets = [Dataset.open(file) for file in plan.files]
    targets = {part: out_dir / f"{PART_NAMES[part]}.parquet" for part in (TRAIN, VALIDATION, TEST)}
    if clash := {target.resolve() for target in targets.values()} & {file.resolve() for file in plan.files}:
        raise DataError(f"{clash.pop()} is a dataset of the split", where=str(out_dir), remedy="name another folder")
    verify(plan, datasets, str(path), on_event)
    filled = {part: target for part, target in targets.items() if (fold.parts_N == part).any()}
    with ExitStack() as whole:  # all parts take their places once all are written
        asides = {part: whole.enter_context(atomic_path(target)) for part, target in filled.items()}
        for part, aside in asides.items():
            write_dataset(aside, _rows_of_part(datasets, fold, part, out_dir, on_event))
        for part in targets.keys() - filled.keys():
            targets[part].unlink(missing_ok=True)  # of an earlier split: its rows may be on other sides now
    return list(filled.values())


def _fold(plan: Plan, name: str | None, where: str) -> Fold:
    folds = {fold.name: fold for fold in plan.folds}
    if name is None and len(folds) == 1:
        return plan.folds[0]
    if name is None or name not in folds:
        raise DataError(
            f"fold {name!r}, expected one of {', '.join(folds)}" if name else "which fold is not said",
            where=where,
            remedy=f"give --fold, one of: {', '.join(folds)}",
        )
    return folds[name]


def _rows_of_part(
    datasets: Sequence[Dataset], fold: Fold, part: int, out_dir: Path, on_event: OnEvent
) -> Iterator[Row]:
    """The rows of a part; images beside a dataset stay there and are named from the new folder."""
    number, total = 0, len(fold.parts_N)
    for dataset in datasets:
        is_in_N = fold.parts_N[number : number + len(dataset)] == part
        for row in stream_rows(dataset, is_in_N):
            if row.file is None:
                yield Row(row.sample, image=row.content)
            else:
                yield Row(row.sample, image_path=relative_path(row.file, out_dir))
        number += len(dataset)
        on_event(Step(f"write {PART_NAMES[part]}", number, total))
