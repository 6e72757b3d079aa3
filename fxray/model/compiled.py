"""Functions that a GPU runs compiled, in few kernels, and a CPU as they are written."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

MAX_FORMS = 64
"""Kinds of call that are compiled apart: with gradients and without, with an adapter and without, text and vision."""


def run_compiled(function: Callable[..., Any], x: torch.Tensor, *args: Any) -> Any:
    """Calls it, on a GPU its compiled form; types are its own affair.

    Args:
        function: Of tensors; numbers among its arguments are constants.
        x: Its first argument [T, ...]. It is compiled once for any T, of the other tensors of this length too.
        args: The others.
    """
    with torch.autocast(x.device.type, enabled=False):
        return call_compiled(function, x, *args) if x.is_cuda else function(x, *args)


def call_compiled(function: Callable[..., Any], x: torch.Tensor, *args: Any, backend: str = "inductor") -> Any:
    """Calls the compiled form, which is made at the first call of its kind.

    Args:
        function: As for `run_compiled`.
        x: The same.
        args: The same.
        backend: That of `torch.compile`.
    """
    for each in (x, *args):
        if isinstance(each, torch.Tensor) and len(each) == len(x):
            torch._dynamo.maybe_mark_dynamic(each, 0)
    return _compiled(function, backend)(x, *args)


@cache
def _compiled(function: Callable[..., Any], backend: str) -> Any:
    torch._dynamo.config.recompile_limit = MAX_FORMS
    torch._dynamo.config.specialize_float = True  # eps and scaling are constants
    return torch.compile(function, backend=backend)
