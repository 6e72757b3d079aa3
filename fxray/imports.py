"""Large imports in less time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Python's garbage collection rests for as long as the block takes; nothing is lost to it for good.

    Imports of torch, transformers and vLLM make a million objects that stay. To look through them over and over takes a
    sixth of the time of these imports. Who calls `gc.freeze` in the block spares the collections that a library asks
    for itself the same; the end of the block takes it back.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
