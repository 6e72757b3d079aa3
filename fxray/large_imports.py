"""Large imports, and other work that makes objects by the million, in less time."""

import gc
import sys
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


@contextmanager
def without_packages(*names: str) -> Iterator[None]:
    """Packages that are not imported yet pass for not installed for as long as the block takes.

    For what a library imports wherever it finds it, and uses for nothing that is done here. To put None into
    `sys.modules` is Python's own way to say so. A library that asks once may remember the answer.

    Args:
        names: As they are imported.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is what the language asks for
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)


@contextmanager
def large_imports() -> Iterator[None]:
    """Imports of transformers in a process that only learns, or only answers, in less time.

    transformers imports scikit-learn for assisted decoding and SciPy for object detection, and accelerate boto3 for
    SageMaker.
    """
    with without_collection(), without_packages("sklearn", "scipy", "boto3"):
        yield
