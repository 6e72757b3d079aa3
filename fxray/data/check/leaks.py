"""Do the files give the label away? A classifier that sees no pixel tries to tell real from generated.

It is given the file format, size in bytes, width, height, aspect ratio and JPEG quantisation of each image, and is
scored on rows that it was not trained on: rows of one source or of one look-alike group are never on both sides. On a
set whose two classes went the same way its AUROC is 0.5 up to chance.

Legend: N images, F features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fxray.data.check.images import FileFacts
from fxray.data.images import FORMATS

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

NUM_FOLDS = 5
MIN_IMAGES = 40
"""Of each class; with fewer nothing can be said."""
MAX_IMAGES = 20_000
"""Of both classes; of larger sets so many are drawn."""
LEAK_AUROC, HINT_AUROC = 0.8, 0.6
"""The lower end of the interval above which the files give the label away, and above which they hint at it."""
NUM_RESAMPLES = 400

_COLUMNS = {
    "format": (0,),
    "bytes": (1, 2),
    "width": (3,),
    "height": (4,),
    "aspect": (5,),
    "JPEG quantisation": (6, 7, 8),
}
"""Columns of the features by the name of the signal."""
_FORMATS = {name: number for number, name in enumerate(sorted((*FORMATS, "MPO")))}
"""What Pillow calls the formats that are read; it tells a JPEG of several pictures apart."""


@dataclass(frozen=True, slots=True)
class Signal:
    """How well one signal tells the classes apart: area under the ROC curve with a 95 % interval."""

    name: str
    auroc: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name} {self.auroc:.3f} ({self.low:.3f} to {self.high:.3f})"


def probe(
    files: Sequence[FileFacts], is_generated_N: NDArray[np.bool_], groups_N: NDArray[np.int64], *, seed: int = 0
) -> list[Signal] | None:
    """Tries to tell the classes apart by all signals together and, where that goes, by each one alone.

    Args:
        files: Facts of N files.
        is_generated_N: The truth.
        groups_N: Rows of one group are never both trained on and scored, and are resampled together.
        seed: Of the draw, the folds and the resamples.

    Returns:
        All signals together; where they hint at the label, then each alone, strongest first. None where there are too
        few images or groups.
    """
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.permutation(len(files))[:MAX_IMAGES])
    truth_N, groups_N = is_generated_N[drawn], groups_N[drawn]
    if min(truth_N.sum(), (~truth_N).sum()) < MIN_IMAGES:
        return None
    features_NF = file_features([files[i] for i in drawn])
    folds = list(_folds(truth_N, groups_N, seed))
    if not folds:
        return None
    with threadpool_limits(1):  # more threads than free cores make such small fits tens of times slower
        together = _signal("all together", features_NF, truth_N, groups_N, folds, seed)
        if together.low <= HINT_AUROC:
            return [together]
        alone = [
            _signal(name, features_NF[:, columns], truth_N, groups_N, folds, seed)
            for name, columns in _COLUMNS.items()
            if len(np.unique(features_NF[:, columns], axis=0)) > 1
        ]
    return [together, *sorted(alone, key=lambda signal: -signal.auroc)]


def file_features(files: Sequence[FileFacts]) -> NDArray[np.float64]:
    """float64 [N, F], columns as in `_COLUMNS`; names of formats become numbers, which trees take as they are."""
    return np.array(
        [
            (
                _FORMATS.get(file.format, -1),
                np.log2(file.num_bytes),
                8 * file.num_bytes / (file.width_px * file.height_px),
                file.width_px,
                file.height_px,
                file.width_px / file.height_px,
                *file.quantisation,
                file.subsampling,
            )
            for file in files
        ],
        np.float64,
    )


def new_classifier(seed: int) -> "HistGradientBoostingClassifier":
    """What learns to tell the classes apart by such features."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    # Small trees and a floor on the leaf keep chance from looking like a signal on a few hundred rows.
    return HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, min_samples_leaf=10, early_stopping=False, random_state=seed
    )


def _folds(
    truth_N: NDArray[np.bool_], groups_N: NDArray[np.int64], seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to train on and rows to score; none where a fold would lack a class."""
    from sklearn.model_selection import StratifiedGroupKFold

    if min(len(np.unique(groups_N[truth_N])), len(np.unique(groups_N[~truth_N]))) < NUM_FOLDS:
        return
    splitter = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    folds = list(splitter.split(truth_N, truth_N, groups_N))
    if all(len(np.unique(truth_N[train])) == 2 for train, _ in folds):
        yield from folds


def _signal(
    name: str,
    features_NF: NDArray[np.float64],
    truth_N: NDArray[np.bool_],
    groups_N: NDArray[np.int64],
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    seed: int,
) -> Signal:
    """How well some features tell the classes apart; whole groups are drawn anew, as their rows are alike."""
    scores_N = np.full(len(truth_N), np.nan)
    for train, held_out in folds:
        model = new_classifier(seed)
        model.fit(features_NF[train], truth_N[train])
        # Ranks within a fold: models of different folds have different scales.
        scores_N[held_out] = _ranks(model.predict_proba(features_NF[held_out])[:, 1])
    names, group_N = np.unique(groups_N, return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = [
        auroc(scores_N, truth_N, np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[group_N])
        for _ in range(NUM_RESAMPLES)
    ]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Signal(name, auroc(scores_N, truth_N, np.ones(len(truth_N))), float(low), float(high))


def auroc(scores_N: NDArray[np.float64], truth_N: NDArray[np.bool_], counts_N: NDArray[Any]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half.

    Args:
        scores_N: One score per row.
        truth_N: True where the row is positive.
        counts_N: How often each row counts, as in a resample.

    Returns:
        A number in [0, 1]; NaN where one class counts nothing.
    """
    _, places_N = np.unique(scores_N, return_inverse=True)
    positives, negatives = (np.bincount(places_N, weights=counts_N * is_in) for is_in in (truth_N, ~truth_N))
    pairs = positives.sum() * negatives.sum()
    return float(positives @ (np.cumsum(negatives) - negatives / 2) / pairs) if pairs else float("nan")


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    return np.asarray(rankdata(scores)) / len(scores)
