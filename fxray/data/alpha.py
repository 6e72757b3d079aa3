"""Krippendorff's alpha for nominal values."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence


def nominal_alpha(units: Iterable[Sequence[Hashable]]) -> float:
    """Agreement beyond chance: 1 where all agree, 0 where they agree as often as chance would have it.

    Args:
        units: The values that observers gave to each unit; a unit with fewer than two says nothing.

    Returns:
        1 - observed / expected disagreement; NaN where the values do not vary, or no unit has two.
    """
    totals: Counter[Hashable] = Counter()
    observed = 0.0
    for values in units:
        num_values = len(values)
        if num_values < 2:
            continue
        counts = Counter(values)
        totals.update(counts)
        observed += (num_values**2 - sum(count**2 for count in counts.values())) / (num_values - 1)
    num_values = totals.total()
    varied = num_values**2 - sum(count**2 for count in totals.values())
    return 1 - observed * (num_values - 1) / varied if varied else math.nan
