"""The weights of a base model, from its folder."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig
from transformers.utils.logging import disable_progress_bar

from fxray.counts import counted
from fxray.errors import ModelError
from fxray.model.family import DRIVERS, VisionLanguageModel

disable_progress_bar()

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(path: Path, *, dtype: str) -> VisionLanguageModel:
    """The base model, frozen and in evaluation mode, whatever type its weights are stored in.

    Args:
        path: Folder of the model, as `fxray.model.folder.resolve_model_path` gives it.
        dtype: "float32" or "bfloat16", the type of the weights in memory.

    Raises:
        ModelError: The weights do not fit the configuration or cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        model, report = DRIVERS[config.model_type].model_class.from_pretrained(
            path, config=config, dtype=DTYPES[dtype], local_files_only=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(f"cannot be loaded: {error}", where=str(path), remedy="fetch the model again") from error
    if wrong := sorted(report["missing_keys"]) or sorted(report["mismatched_keys"]):
        raise ModelError(
            f"{counted(len(wrong), 'weight is', 'weights are')} missing or misshapen, {wrong[0]} for one",
            where=str(path),
        )
    embeddings: list[Any] = [module for module in model.modules() if isinstance(module, torch.nn.Conv3d)]
    for embedding in embeddings:
        embedding.forward = partial(_embed_patches, embedding)
    return model.requires_grad_(requires_grad=False).eval()


def _embed_patches(embedding: torch.nn.Conv3d, patches: torch.Tensor) -> torch.Tensor:
    """The convolution of whole patches as the matrix product that it is: on a CPU five times as fast.

    Args:
        embedding: Its kernel is as large as a patch.
        patches: [N, channels, frames, height, width].

    Returns:
        One vector per patch, [N, width of the tower].
    """
    return torch.nn.functional.linear(patches.flatten(1), embedding.weight.flatten(1), embedding.bias)


def placeholder_ids(config: Any) -> frozenset[int]:
    """Tokens that stand for pixels. A policy must never sample one."""
    return frozenset((config.image_token_id, getattr(config, "video_token_id", config.image_token_id)))
