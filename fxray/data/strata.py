"""Draws a part of a dataset in which every stratum has its share."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from fxray.data.order import derived_seed

Stratum = TypeVar("Stratum", bound=Hashable)


def draw_rows(strata: Mapping[Stratum, Sequence[tuple[int, str]]], *, fraction: float, seed: int) -> list[int]:
    """Draws a fraction of the rows, each stratum by its size (largest remainders).

    A row's luck depends on the seed and its id alone, so neither the order of a file nor rows of other strata change
    which of a stratum's rows come first.

    Args:
        strata: Rows and their sample ids.
        fraction: Of all rows together, rounded up.
        seed: Of the draw.

    Returns:
        Rows in ascending order.
    """
    num_drawn = math.ceil(round(fraction * sum(map(len, strata.values())), 9))
    quotas = {key: fraction * len(members) for key, members in strata.items()}
    counts = {key: math.floor(quota) for key, quota in quotas.items()}
    by_remainder = sorted(strata, key=lambda key: (counts[key] - quotas[key], derived_seed(seed, "stratum", key)))
    for key in by_remainder[: num_drawn - sum(counts.values())]:
        counts[key] += 1
    drawn = []
    for key, members in strata.items():
        drawn += [row for row, _ in by_luck(members, seed)[: counts[key]]]
    return sorted(drawn)


def by_luck(members: Sequence[tuple[int, str]], seed: int) -> list[tuple[int, str]]:
    """Rows and ids in the order in which they are drawn."""
    return sorted(members, key=lambda member: (derived_seed(seed, "draw", member[1]), member[1]))
