"""From dataset files to a split: look at every image, cluster what belongs together, deal the clusters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fxray.data.check.scan import Scan, scan
from fxray.data.check.whole import clusters, related_images
from fxray.data.dataset import Dataset
from fxray.data.generators import one_spelling
from fxray.data.parts import AllCores
from fxray.data.split.plan import Plan, content_checksum
from fxray.data.split.schemes import Fold, Rows, balance, fixed, k_fold, leave_one_out, refuse_empty_parts
from fxray.data.split.settings import Scheme, Settings
from fxray.errors import DataError
from fxray.events import Note, OnEvent, PhaseStarted, ignore
from fxray.schema import Sample, Verdict

_REFUSED = ("file-unreadable", "repeated-id", "image-missing", "image-damaged")
"""Rules whose breach leaves a row without id or image; others are for the check to tell."""


@dataclass(frozen=True, slots=True)
class Split:
    """A plan, and what it was made of.

    Attributes:
        plan: To be written.
        rows: Labels, keys, clusters and strata.
    """

    plan: Plan
    rows: Rows


def split(
    paths: Sequence[Path], settings: Settings, on_event: OnEvent = ignore, *, all_cores: AllCores | None = None
) -> Split:
    """Splits dataset files.

    Args:
        paths: Parquet files that together are one set.
        settings: How.
        on_event: Is told of rows done.
        all_cores: What looks at the images where this process alone would be slow.

    Raises:
        DataError: A file is given twice, a row or image is faulty, a generator has no group, or a part would lack a
            class.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError("a file is given twice", where=", ".join(map(str, paths)), remedy="give each once")
    samples = [sample for path in paths for sample in _open(path).samples]
    seen = scan_whole(paths, on_event, all_cores=all_cores)
    on_event(PhaseStarted("look-alikes"))
    is_generated_N = np.array([sample.annotation.verdict is Verdict.GENERATED for sample in samples])
    rows = Rows(
        is_generated_N,
        _keys(samples, is_generated_N, settings, on_event),
        clusters(seen.rows, related_images(seen.rows), ignores_source=settings.ignores_source),
        np.unique([f"{s.annotation.verdict}/{s.generator}" for s in samples], return_inverse=True)[1],
    )
    folds = _folds(rows, settings)
    wanted = settings.fractions[1] if settings.scheme is Scheme.FIXED else settings.validation_frac
    refuse_empty_parts(rows, folds, needs_validation=wanted > 0, ignores_source=settings.ignores_source)
    if not settings.keeps_all:
        folds = [balance(rows, fold, settings.seed) for fold in folds]
    digests = [row.image.digest for row in seen.rows if row.image is not None]
    plan = Plan(
        settings.scheme.value,
        settings.seed,
        tuple(paths),
        content_checksum(samples, digests),
        tuple(folds),
        tuple(sample.sample_id for sample in samples),
    )
    return Split(plan, rows)


def scan_whole(paths: Sequence[Path], on_event: OnEvent = ignore, *, all_cores: AllCores | None = None) -> Scan:
    """Looks at every image of dataset files, of which a split leaves none out.

    Raises:
        DataError: A file or an image cannot be read, or an id stands twice.
    """
    seen = scan(paths, on_event, all_cores=all_cores)
    for finding in seen.findings:
        if finding.rule in _REFUSED:
            raise DataError(finding.message, where=str(finding.place), remedy=finding.kind.remedy)
    return seen


def _open(path: Path) -> Dataset:
    try:
        return Dataset.open(path)
    except DataError as error:
        remedy = f"{error.remedy}; fxray data check lists every fault"
        raise DataError(error.message, where=error.where, remedy=remedy) from error


def _keys(
    samples: Sequence[Sample], is_generated_N: NDArray[np.bool_], settings: Settings, on_event: OnEvent
) -> list[str]:
    """Who made each image: its group, or its generator in one spelling."""
    names = [sample.generator for sample in samples]
    if settings.scheme is Scheme.GROUP:
        _refuse_ungrouped(names, is_generated_N, settings.groups)
        return [settings.groups.get(name, "") for name in names]
    spelling = one_spelling(name for name, is_in in zip(names, is_generated_N, strict=True) if is_in)
    if settings.scheme is Scheme.GENERATOR:
        for name, first in spelling.items():
            if name != first:
                on_event(Note(f"{name!r} is held out with {first!r}: one generator, spelled in two ways"))
    return [spelling.get(name, name) for name in names]


def _folds(rows: Rows, settings: Settings) -> list[Fold]:
    match settings.scheme:
        case Scheme.K_FOLD:
            return k_fold(
                rows,
                num_folds=settings.num_folds,
                validation_frac=settings.validation_frac,
                seed=settings.seed,
            )
        case Scheme.FIXED:
            return fixed(rows, fractions=settings.fractions, seed=settings.seed)
        case _:
            return leave_one_out(
                rows, test_frac=settings.test_frac, validation_frac=settings.validation_frac, seed=settings.seed
            )


def _refuse_ungrouped(generators: Sequence[str], is_generated_N: NDArray[np.bool_], groups: Mapping[str, str]) -> None:
    lost = sorted({g for g, is_in in zip(generators, is_generated_N, strict=True) if is_in and g not in groups})
    if lost:
        raise DataError(
            f"no group for the generators {', '.join(map(repr, lost[:10]))}",
            remedy="name them in the file of --groups",
        )
