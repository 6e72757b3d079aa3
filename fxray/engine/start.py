"""How vLLM is started: its arguments, what it must know before, and how a start that fails reads."""

import atexit
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

from fxray.data.frame import processor_settings, shape_of, sight_of
from fxray.engine.environment import is_cpu_build
from fxray.engine.root_cause import SharedOutput
from fxray.engine.settings import EngineSettings
from fxray.errors import ModelError
from fxray.grpo.types import FORBIDDEN_TOKENS

_ENGINES: WeakSet[object] = WeakSet()
"""The engines of this process."""


@contextmanager
def start_of_vllm(model_path: Path) -> Iterator[None]:
    """Tells of a start that fails in words.

    Args:
        model_path: Named in the error.

    Raises:
        ModelError: Whatever vLLM raised; a release that does not know a model may fail anywhere.
    """
    output = SharedOutput.from_now()
    try:
        yield
    except (ValueError, RuntimeError, OSError, ImportError, AssertionError, LookupError) as error:
        raise ModelError(
            f"vLLM cannot start: {output.root_cause() or error}",
            where=str(model_path),
            remedy="check the `rollout` section of the configuration against this machine's memory, and docs/models.md",
        ) from error


def register_class(model_path: Path) -> None:
    """Lets vLLM look at the model's class in this process.

    Where its cache does not know the class, as the first time on a machine and each time in a fresh container, vLLM
    starts another process to look, which takes as long as the engine itself. It does so to leave CUDA untouched here,
    as the classes of fxray's families do anyway.

    Args:
        model_path: The base model; what vLLM does not know of it stays its own affair.
    """
    from vllm import ModelRegistry

    for name in json.loads((model_path / "config.json").read_bytes()).get("architectures") or ():
        if known := ModelRegistry.models.get(name):
            ModelRegistry.register_model(name, known.load_model_cls())


def keep_groups(engine: object) -> None:
    """Lets an engine of several in one process go without the others.

    vLLM takes its process groups down with any engine that goes, and they are the groups of all.

    Args:
        engine: One that has come up.
    """
    _take_groups_down_last()
    _ENGINES.add(engine)


@cache
def _take_groups_down_last() -> None:
    import torch
    from vllm.v1.engine import core

    take_down = getattr(core, "cleanup_dist_env_and_memory", None)
    if take_down is None:  # a release that leaves them
        return

    def free() -> None:
        if not list(_ENGINES):
            take_down()
            return
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()

    core.cleanup_dist_env_and_memory = free
    atexit.register(_ENGINES.clear)


def forbidden_bias(tokenizer: Any) -> dict[int, float]:
    """What is added to logits, by token: minus infinity for each of `FORBIDDEN_TOKENS` that the vocabulary has."""
    vocabulary = tokenizer.get_vocab()
    return {vocabulary[token]: float("-inf") for token in FORBIDDEN_TOKENS if token in vocabulary}


def llm_arguments(settings: EngineSettings) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM` and of vLLM's asynchronous engine."""
    sight, family = sight_of(settings.model_path), shape_of(settings.model_path).family
    arguments: dict[str, Any] = {
        "model": str(settings.model_path),
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "block_size": settings.block_size,
        "enforce_eager": settings.enforce_eager or is_cpu_build(),
        "seed": settings.seed,
        "worker_extension_cls": "fxray.engine.whole.WorkerExtension",
        "logprobs_mode": "processed_logprobs",
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "mm_processor_kwargs": processor_settings(
            sight, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels
        ),
        # Each image is asked about once per policy.
        "mm_processor_cache_gb": 0,
        "skip_mm_profiling": is_cpu_build(),
        "disable_log_stats": True,
        "tensor_parallel_size": settings.tensor_parallel_size,
    }
    if settings.lora_rank:
        arguments |= {
            "enable_lora": True,
            "max_lora_rank": settings.lora_rank,
            "max_loras": settings.max_adapters,
            "max_cpu_loras": settings.max_adapters + 1,  # a new one is proved beside the one that it replaces
            "enable_tower_connector_lora": family.adapts_vision,
        }
    if is_cpu_build():
        return arguments | {"kv_cache_memory_bytes": settings.kv_cache_bytes}
    return arguments | {
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enable_sleep_mode": settings.can_sleep,
    }
