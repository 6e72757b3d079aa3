"""How a process keeps its GPU's memory, and what it says when there is no room for what it is to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fxray.errors import ResourceError

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def let_segments_grow() -> None:
    """PyTorch asks the GPU for memory that it can extend in place, unless the environment says otherwise.

    It keeps pieces of fixed size else, and passes of many lengths leave gaps in them that no other pass fits into:
    11 GiB beside the 47 that a learner of 3B uses. No engine on the same GPU could have them.
    """
    if torch.cuda.is_available() and not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")


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
