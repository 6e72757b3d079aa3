"""The part of the training set that a baseline does not see, and on which its threshold is chosen.

Legend: N samples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fxray.counts import counted
from fxray.data.split.assignment import deal
from fxray.errors import DataError
from fxray.schema import Sample, Verdict

HELD_OUT_FRAC = 0.2


def is_generated(samples: Sequence[Sample]) -> NDArray[np.bool_]:
    """The labels, bool [N]."""
    return np.array([sample.annotation.verdict is Verdict.GENERATED for sample in samples], bool)


def hold_out(samples: Sequence[Sample], where: str, seed: int) -> NDArray[np.bool_]:
    """Chooses about a fifth of the samples, whole sources, generators in proportion.

    Args:
        samples: A training set.
        where: What to call it in an error.
        seed: Of the order in which sources of one size are dealt.

    Returns:
        True where a sample is held out, bool [N].

    Raises:
        DataError: A class is missing, or its images come from too few sources to be on both sides.
    """
    truth_N = is_generated(samples)
    for is_class_N, name in ((truth_N, "generated"), (~truth_N, "real")):
        if not is_class_N.any():
            raise DataError(
                f"none of {counted(len(samples), 'image')} is {name}", where=where, remedy=f"add {name} images"
            )
    _, sources_N = np.unique([sample.source for sample in samples], return_inverse=True)
    kinds = [f"{sample.annotation.verdict} {sample.generator}" for sample in samples]
    _, kinds_N = np.unique(kinds, return_inverse=True)
    strata_NK = np.column_stack([kinds_N, kinds_N.max() + 1 + truth_N])
    shares = [1 - HELD_OUT_FRAC, HELD_OUT_FRAC]
    is_held_N = deal(sources_N, strata_NK, shares, np.random.default_rng((seed, 0))) == 1
    for is_part_N, part in ((is_held_N, "held out"), (~is_held_N, "fitted on")):
        for is_class_N, name in ((truth_N, "generated"), (~truth_N, "real")):
            if not (is_part_N & is_class_N).any():
                num_sources = len(np.unique(sources_N[is_class_N]))
                raise DataError(
                    f"no {name} image is left to be {part}: all are of {counted(num_sources, 'source')}, and none is "
                    "cut",
                    where=f"{where}, field source",
                    remedy="give each photograph its own source, or add images of other sources",
                )
    return is_held_N
