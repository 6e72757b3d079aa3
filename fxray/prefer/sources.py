"""Whose annotations a study compares: predictions files, whoever wrote them, and the dataset's own truth."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fxray.counts import counted
from fxray.errors import DataError
from fxray.evaluate.foreign import read_any
from fxray.schema import Region, Sample, Verdict

TRUTH = "truth"
"""In place of a predictions file: the dataset's own annotations, the humans of the paper's Figure 2."""
_MAX_LISTED = 5

Said = tuple[Verdict | None, tuple[Region, ...]]
"""Verdict and regions, in pixels of the original."""


@dataclass(frozen=True, slots=True)
class Source:
    """A name for the results, and a predictions file, or None for the dataset's own annotations."""

    name: str
    file: Path | None


def check_names(sources: Sequence[Source]) -> None:
    """Sees to it that there are two sources or more, of different names.

    Raises:
        DataError: There are not.
    """
    names = [source.name for source in sources]
    for name in names:
        if not re.fullmatch(r"\w[\w .+-]{0,63}", name):
            raise DataError(
                f"source {name!r}, expected 1 to 64 letters, digits, spaces, `.`, `_`, `+` or `-`",
                where="--source",
                remedy="choose another name",
            )
        if names.count(name) > 1:
            raise DataError(f"two sources are called {name!r}", where="--source", remedy="give each a name of its own")
    if len(sources) < 2:
        raise DataError(
            f"{len(sources)} source, expected two or more", where="--source", remedy="give another --source"
        )


def read_source(source: Source, samples: Sequence[Sample], threshold: float) -> dict[str, Said]:
    """What a source says, by sample id.

    Args:
        source: Whose.
        samples: All of the dataset.
        threshold: Score from which an image counts as generated, where a file has no verdicts.

    Raises:
        DataError: Its file cannot be read, holds no boxes, or speaks of other images.
    """
    if source.file is None:
        return {s.sample_id: (s.annotation.verdict, s.annotation.regions) for s in samples}
    read = read_any(source.file, samples, threshold=threshold)
    if not read.has_boxes:
        raise DataError(
            "holds no boxes, so there is nothing to compare",
            where=str(source.file),
            remedy="give predictions with boxes",
        )
    said = {prediction.sample_id: (prediction.verdict, prediction.regions) for prediction in read.predictions}
    if unknown := sorted(said.keys() - {sample.sample_id for sample in samples}):
        raise DataError(
            f"{counted(len(unknown), 'sample is', 'samples are')} not in the dataset: {_listed(unknown)}",
            where=str(source.file),
            remedy="give the dataset that the predictions are of",
        )
    return said


def refuse_missing(sources: Sequence[Source], said: Sequence[Mapping[str, Said]], sample_ids: Sequence[str]) -> None:
    """Sees to it that every source speaks of every image of the study.

    Raises:
        DataError: One does not.
    """
    for source, by_id in zip(sources, said, strict=True):
        if missing := [sample_id for sample_id in sample_ids if sample_id not in by_id]:
            raise DataError(
                f"lacks {len(missing)} of the study's {counted(len(sample_ids), 'image')}: {_listed(missing)}",
                where=f"{source.file}, source {source.name}",
                remedy="give predictions of every image, or a dataset of those that are predicted",
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_LISTED]) + (", ..." if len(names) > _MAX_LISTED else "")
