"""Where the vLLM releases that fxray accepts differ. No other file knows of a release.

| since | what changed |
|---|---|
| 0.29 | a model's name mapper also stacks and deletes weights; LoRA names want its renaming alone |
"""

from typing import Any

ACCEPTED = ((0, 26), (0, 33))
"""First and last release, both included."""


def name_mapper(model: Any) -> Any:
    """What turns the names of checkpoints into those of the engine's modules, or None.

    Args:
        model: The engine's model.
    """
    mapper: Any = getattr(model, "hf_to_vllm_mapper", None)
    return mapper.get_rename_mapper() if hasattr(mapper, "get_rename_mapper") else mapper
