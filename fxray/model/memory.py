"""What a process says when its GPU has no room for what it is to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fxray.errors import ResourceError


@contextmanager
def memory_told(what: str, *, where: str, remedy: str) -> Iterator[None]:
    """Tells in the block's place who ran out of GPU memory doing what.

    Args:
        what: Is done in the block.
        where: Who does it.
        remedy: What helps.

    Raises:
        ResourceError: The GPU's memory did not suffice. No restart heals that.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"out of GPU memory in {what}: {str(error).splitlines()[0]}", where=where, remedy=remedy
        ) from error
