"""The plain values that an engine is made of."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Everything that an engine needs to know before it starts; the configuration fields say what each is for.

    Attributes:
        model_path: Folder of the base model.
        dtype: "float32" or "bfloat16".
        min_pixels: Smallest area of an image after resizing, in square pixels.
        max_pixels: Largest area of an image after resizing, in square pixels.
        lora_rank: Rank of the adapters that will be loaded; 0 where whole weights are.
        max_num_seqs: Answers decoded at once.
        max_model_len: Prompt, image and answer in tokens.
        block_size: Tokens of a KV-cache block.
        kv_cache_bytes: Memory for keys and values; on a GPU, `gpu_memory_utilization` counts instead.
        gpu_memory_utilization: Part of a GPU's memory that the engine may take.
        tensor_parallel_size: Ranks that share the model, each with a GPU of its own where there are any.
        can_sleep: It shall be able to give its GPU memory away for a while.
        enforce_eager: No CUDA graphs and no compilation.
        threads: Threads on a CPU; 0 takes all.
        sync: "bytes" binds adapters from memory, "file" through vLLM's stock loader.
        seed: Of the engine; each answer has a seed of its own.
        max_adapters: Adapters that are kept beside each other; only a `StreamingEngine` takes more than one.
    """

    model_path: Path
    dtype: str
    min_pixels: int
    max_pixels: int
    lora_rank: int
    max_num_seqs: int
    max_model_len: int
    block_size: int
    kv_cache_bytes: int
    gpu_memory_utilization: float
    tensor_parallel_size: int
    can_sleep: bool
    enforce_eager: bool
    threads: int
    sync: str
    seed: int
    max_adapters: int = 1
