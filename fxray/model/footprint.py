"""How many bytes of tensors live at the peak of a block of code, on any device.

On a GPU its allocator counts. A CPU has no such allocator, so there every operation is watched and the storages that it
makes are counted for as long as they live; what an operation needs only inside itself is not seen.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(slots=True)
class Footprint:
    """Bytes beyond what lived before the block.

    Attributes:
        peak_bytes: At the peak.
        left_bytes: At the end.
    """

    peak_bytes: int = 0
    left_bytes: int = 0


@contextmanager
def footprint(device: torch.device) -> Iterator[Footprint]:
    """Counts the bytes of the tensors that the block makes; the result is filled in when it ends."""
    result = Footprint()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield result
        torch.cuda.synchronize(device)
        result.peak_bytes = torch.cuda.max_memory_allocated(device) - before
        result.left_bytes = torch.cuda.memory_allocated(device) - before
        return
    with _Watch() as watch:
        yield result
    result.peak_bytes, result.left_bytes = watch.peak_bytes, watch.live_bytes


class _Watch(TorchDispatchMode):
    """Knows each storage that an operation has made, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor, is_new=False)
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor, is_new=True)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return result

    def _meet(self, tensor: torch.Tensor, *, is_new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        num_bytes = storage.nbytes() if is_new else 0
        self.live_bytes += num_bytes
        weakref.finalize(storage, self._forget, key, num_bytes).atexit = False

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.live_bytes -= num_bytes
