"""Writes the three synthetic datasets."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fxray.data.dataset import Row, write_dataset
from fxray.data.synth.families import FAMILIES
from fxray.data.synth.photographs import Split
from fxray.data.synth.samples import draw_row
from fxray.processors import num_processors
from fxray.schema import Verdict

Progress = Callable[[str, int, int], None]
"""Called with the split, rows done and rows in all."""

_ROWS_AT_ONCE = 100
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def synthesise(
    out_dir: Path,
    *,
    num_train: int,
    num_validation: int,
    num_test: int,
    size_px: int,
    seed: int,
    progress: Progress,
) -> None:
    """Writes `train.parquet`, `validation.parquet` and `test.parquet` into `out_dir`, byte for byte by `seed`.

    The splits share no photograph. Each is half real, half generated, with the families in equal parts.

    Args:
        out_dir: Made if it is not there.
        num_train: Rows of the train split.
        num_validation: Rows of the validation split.
        num_test: Rows of the test split.
        size_px: Side of the square images.
        seed: Seed of all draws.
        progress: Told about each hundred rows.

    Raises:
        DataError: A photograph's package is not installed.
        ResourceError: The disk is full.
    """
    for split, num_rows in zip(_SPLITS, (num_train, num_validation, num_test), strict=True):
        write_dataset(out_dir / f"{split}.parquet", draw_split(split, num_rows, size_px, seed, progress))


def draw_split(split: Split, num_rows: int, size_px: int, seed: int, progress: Progress) -> Iterator[Row]:
    """The rows of a split; row `i` depends only on split, seed and `i`, whichever thread draws it."""

    def draw(index: int) -> Row:
        rng = np.random.default_rng((seed, _SPLITS.index(split), index))
        verdict = Verdict.GENERATED if index % 2 else Verdict.REAL
        family = FAMILIES[index // 2 % len(FAMILIES)]
        return draw_row(rng, f"{split}-{index:06d}", split, family, verdict, size_px)

    with ThreadPoolExecutor(num_processors()) as pool:  # Pillow and numpy let other threads run
        for start in range(0, num_rows, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, num_rows)
            yield from pool.map(draw, range(start, stop))
            progress(split, stop, num_rows)
