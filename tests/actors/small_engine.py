"""Settings of an engine that two processors and little memory suffice for."""

from pathlib import Path
from typing import Any

from fxray.engine.settings import EngineSettings


def small_engine(model: Path, **changes: Any) -> EngineSettings:
    """For images of 112 px a side and adapters of rank 8, without compilation, on one thread."""
    settings: dict[str, Any] = {
        "model_path": model,
        "dtype": "float32",
        "min_pixels": 56 * 56,
        "max_pixels": 112 * 112,
        "lora_rank": 8,
        "max_num_seqs": 16,
        "max_model_len": 256,
        "block_size": 32,
        "kv_cache_bytes": 32 * 2**20,
        "gpu_memory_utilization": 0.5,
        "tensor_parallel_size": 1,
        "can_sleep": False,
        "enforce_eager": True,
        "threads": 1,
        "sync": "bytes",
        "seed": 0,
    }
    return EngineSettings(**settings | changes)
