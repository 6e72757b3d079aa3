"""The order in which training rows are visited: a function of seed, name and position, so a cursor is one number."""

import hashlib

import numpy as np


def rows_of_step(seed: int, name: str, *, num_rows: int, batch_size: int, step: int) -> list[tuple[int, int]]:
    """Rows of one batch. Epochs are permutations laid end to end; a batch may straddle two.

    Args:
        seed: Seed of the run.
        name: What is being trained ("sft", "alpha", ...); each has its own order.
        num_rows: Rows of the dataset.
        batch_size: Rows per step.
        step: Counted from 0.

    Returns:
        `batch_size` pairs (epoch, row).
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders = {epoch: permutation(seed, name, num_rows, epoch) for epoch in {p // num_rows for p in positions}}
    return [(p // num_rows, int(orders[p // num_rows][p % num_rows])) for p in positions]


def permutation(seed: int, name: str, num_rows: int, epoch: int) -> np.ndarray:
    """Order of the rows in one epoch: int64 [num_rows]."""
    return np.random.default_rng(derived_seed(seed, name, epoch)).permutation(num_rows)


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from the text of its parts; the same on every machine and Python."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
