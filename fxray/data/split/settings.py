"""What a split is made by."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Scheme(StrEnum):
    """How to split."""

    K_FOLD = "k-fold"
    FIXED = "fixed"
    GENERATOR = "leave-one-generator-out"
    GROUP = "leave-one-group-out"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a split is made by.

    Attributes:
        scheme: How.
        num_folds: Of `k-fold`.
        fractions: Train, validation and test of `fixed`.
        test_frac: Share of the clusters with several generators that a held-out one's test gets.
        validation_frac: Share of the training clusters set aside, in all schemes but `fixed`.
        groups: Group by generator, for `leave-one-group-out`.
        keeps_all: Leave no surplus of one class out.
        ignores_source: Cluster by look alone.
        seed: Of all draws.
    """

    scheme: Scheme
    num_folds: int
    fractions: tuple[float, float, float]
    test_frac: float
    validation_frac: float
    groups: Mapping[str, str]
    keeps_all: bool
    ignores_source: bool
    seed: int
