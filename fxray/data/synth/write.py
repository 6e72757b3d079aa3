"""Writes the three synthetic datasets."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from fxray.data.dataset import Row, write_dataset
from fxray.data.synth.families import FAMILIES
from fxray.data.synth.photographs import Split
from fxray.data.synth.samples import draw_row
from fxray.errors import ResourceError
from fxray.processors import num_processors
from fxray.schema import Verdict

Progress = Callable[[str, int, int], None]
"""Called with the split, rows done and rows in all."""

ROWS_WORTH_A_PROCESS = 500
"""Fewer take less time than a process to start."""
_ROWS_AT_ONCE = 100
_BATCHES_AHEAD = 2
"""So many are drawn while one is written."""
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
        ResourceError: The disk is full, or a process that draws was ended.
    """
    for split, num_rows in zip(_SPLITS, (num_train, num_validation, num_test), strict=True):
        write_dataset(out_dir / f"{split}.parquet", draw_split(split, num_rows, size_px, seed, progress))


def draw_split(split: Split, num_rows: int, size_px: int, seed: int, progress: Progress) -> Iterator[Row]:
    """The rows of a split; row `i` depends only on split, seed and `i`, whichever process draws it."""
    draw = partial(_draw, split, size_px, seed)
    batches = [range(start, min(start + _ROWS_AT_ONCE, num_rows)) for start in range(0, num_rows, _ROWS_AT_ONCE)]
    with _drawing(min(num_processors(), num_rows // ROWS_WORTH_A_PROCESS)) as draw_all:
        drawn = [draw_all(draw, batch) for batch in batches[:_BATCHES_AHEAD]]
        for number, batch in enumerate(batches):
            if number + _BATCHES_AHEAD < len(batches):
                drawn.append(draw_all(draw, batches[number + _BATCHES_AHEAD]))
            yield from drawn.pop(0)
            progress(split, batch.stop, num_rows)


def _draw(split: Split, size_px: int, seed: int, index: int) -> Row:
    rng = np.random.default_rng((seed, _SPLITS.index(split), index))
    verdict = Verdict.GENERATED if index % 2 else Verdict.REAL
    family = FAMILIES[index // 2 % len(FAMILIES)]
    return draw_row(rng, f"{split}-{index:06d}", split, family, verdict, size_px)


@contextmanager
def _drawing(num_processes: int) -> Iterator[Callable[[Callable[[int], Row], Sequence[int]], Iterator[Row]]]:
    """How rows are drawn in order: by processes of their own, or with fewer than two here.

    Raises:
        ResourceError: A process was ended, as by a kernel without memory.
    """
    if num_processes < 2:
        yield map
        return
    context = multiprocessing.get_context("spawn")  # a copy of this process would copy locks that its threads hold
    try:
        with ProcessPoolExecutor(num_processes, context, initializer=_end_with_parent) as pool:
            draw_all = partial(pool.map, chunksize=_ROWS_AT_ONCE // (4 * num_processes) or 1)
            try:
                yield partial(_without_signals, draw_all)
            except BaseException:  # whoever leaves waits for no row that nobody wants
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise ResourceError(
            "a process that drew images was ended",
            where="fxray data synth",
            remedy="free memory and try again; a script of your own needs `if __name__ == '__main__':` around the call",
        ) from error


def _without_signals(
    draw_all: Callable[[Callable[[int], Row], Sequence[int]], Iterator[Row]],
    draw: Callable[[int], Row],
    batch: Sequence[int],
) -> Iterator[Row]:
    """Leaves signals to a whole group of processes, as of a terminal or a job, to this one; others inherit the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        return draw_all(draw, batch)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Ends with the process that asked, however that ends."""
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
