"""Seconds by phase, on a CPU and on a GPU, whose work goes on when the host has long handed it out."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PhaseClock:
    """Adds up the seconds of phases, each as often as it comes.

    Args:
        device: On a GPU a phase lasts until the GPU has done what was handed out in it.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_on_gpu = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """The block belongs to a phase."""
        if not self._is_on_gpu:
            start_s = time.perf_counter()
            yield
            self._seconds[phase] += time.perf_counter() - start_s
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        self._events.append((phase, start, end))

    def seconds(self) -> dict[str, float]:
        """Of every phase so far; waits until the GPU is done."""
        for phase, start, end in self._events:
            end.synchronize()
            self._seconds[phase] += start.elapsed_time(end) / 1000
        self._events.clear()
        return dict(self._seconds)
