"""Predictions belong to a dataset where they are of its samples, all of them and no others."""

from collections.abc import Set as AbstractSet

from fxray.counts import counted
from fxray.errors import DataError

_MAX_NAMED = 5


def check_same_samples(predicted: AbstractSet[str], samples: AbstractSet[str], *, where: str = "") -> None:
    """Compares ids.

    Args:
        predicted: Sample ids that there are predictions of.
        samples: Those of the dataset.
        where: The place to name in the error.

    Raises:
        DataError: They differ; counts, and names the first of each kind.
    """
    problems = {
        ("sample has no prediction", "samples have no prediction"): samples - predicted,
        ("sample is not in the dataset", "samples are not in the dataset"): predicted - samples,
    }
    told = [f"{counted(len(ids), *problem)}, such as {_some(ids)}" for problem, ids in problems.items() if ids]
    if told:
        raise DataError(
            "; ".join(told),
            where=where,
            remedy="give predictions and the dataset, with just the rows of it, that they were made for",
        )


def _some(ids: AbstractSet[str]) -> str:
    return ", ".join(repr(sample_id) for sample_id in sorted(ids)[:_MAX_NAMED])
