"""Random checkpoints of real shapes: speed and memory at 3B to 32B need the shapes of the weights, not their values.

The folder is a valid Hugging Face model with the tiny model's tokenizer; what it answers is noise. It is written one
piece of a tensor after the other, so it needs little memory whatever its size.
"""

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast

from fxray.errors import ConfigError, ResourceError
from fxray.files import atomic_dir
from fxray.model.family import DRIVERS
from fxray.model.folder import refuse_unless_model, resolve_model_path
from fxray.model.prompts import load_tokenizer
from fxray.model.tiny.architecture import save_processor

SHAPES = (
    "qwen2.5-vl-3b",
    "qwen2.5-vl-7b",
    "qwen2.5-vl-32b",
    "qwen3-vl-2b",
    "qwen3-vl-4b",
    "qwen3-vl-8b",
    "qwen3-vl-32b",
)
STANDARD_DEVIATION = 0.02
BYTES_PER_NUMBER = 2
"""Weights are bfloat16."""
SHARD_BYTES = 4 * 2**30
_PIECE_NUMBERS = 2**22
_HUB_NAMES = {
    "qwen2_5_vl": (("model.language_model.", "model."), ("model.visual.", "visual.")),
    "qwen3_vl": (),
}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

Progress = Callable[[int, int], None]
"""Called with the bytes written and the bytes in all."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A weight that is yet to be drawn, under the name that it has in a checkpoint on the hub."""

    name: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * BYTES_PER_NUMBER


def shape_config(like: str, *, num_layers: int | None = None) -> PreTrainedConfig:
    """The configuration of a published model, with the tiny tokenizer's special tokens.

    Args:
        like: One of `SHAPES`.
        num_layers: Layers of the language model and of the vision tower, at most; all of them by default.

    Raises:
        ConfigError: There is no such shape.
    """
    if like not in SHAPES:
        raise ConfigError(f"there is no shape {like!r}", where="--like", remedy=f"choose one of {', '.join(SHAPES)}")
    content = json.loads(resources.files("fxray").joinpath(f"assets/shapes/{like}.json").read_text())
    text, vision = content["text_config"], content["vision_config"]
    if num_layers is not None:
        text["num_hidden_layers"] = min(num_layers, text["num_hidden_layers"])
        vision["depth"] = min(num_layers, vision["depth"])
        special = "fullatt_block_indexes" if "fullatt_block_indexes" in vision else "deepstack_visual_indexes"
        vision[special] = [index for index in vision[special] if index < vision["depth"]] or [vision["depth"] - 1]
    return with_token_ids(content.pop("model_type"), content, load_tokenizer(resolve_model_path("tiny")))


def with_token_ids(
    model_type: str, content: dict[str, Any], tokenizer: PreTrainedTokenizerFast, *, dtype: str = "bfloat16"
) -> PreTrainedConfig:
    """A configuration whose special tokens are those of a tokenizer.

    Args:
        model_type: Family of the model.
        content: `text_config`, `vision_config` and whatever else the family's configuration takes.
        tokenizer: Of the model.
        dtype: In which the weights are stored.
    """
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in tokenizer.all_special_tokens}
    ends = {"bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    content = content | {"text_config": content["text_config"] | ends}
    return AutoConfig.for_model(
        model_type,
        **content,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        dtype=dtype,
        architectures=[DRIVERS[model_type].model_class.__name__],
    )


def weights(config: PreTrainedConfig) -> list[Tensor]:
    """Every weight of a checkpoint of this configuration; nothing is allocated."""
    with torch.device("meta"):
        model = DRIVERS[config.model_type].model_class(config)
    tied = set(model.all_tied_weights_keys) if config.tie_word_embeddings else set()
    return [
        Tensor(_hub_name(name, config.model_type), tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
        if name not in tied
    ]


def write_random_model(
    out_dir: Path, like: str, *, num_layers: int | None, seed: int, progress: Progress
) -> PreTrainedConfig:
    """Writes a model of random bfloat16 weights, loadable by transformers and vLLM.

    Args:
        out_dir: Appears as a whole at the end, in place of a model that is there.
        like: One of `SHAPES`.
        num_layers: As in `shape_config`.
        seed: Of the weights.
        progress: Told before the first tensor and after each: bytes that are written, and of all.

    Returns:
        Its configuration.

    Raises:
        ConfigError: There is no such shape, or something that is no model lies at `out_dir`.
        ResourceError: The disk has too little room.
    """
    refuse_unless_model(out_dir)
    config = shape_config(like, num_layers=num_layers)
    tensors = weights(config)
    total = sum(tensor.num_bytes for tensor in tensors)
    _check_room(out_dir, total)
    shards = list(_shards(tensors))
    generator = torch.Generator().manual_seed(seed)
    written, weight_map = 0, dict[str, str]()
    with atomic_dir(out_dir) as folder:
        progress(0, total)
        for index, shard in enumerate(shards, 1):
            name = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
            for tensor in _write_shard(folder / name, shard, generator):
                weight_map[tensor.name] = name
                written += tensor.num_bytes
                progress(written, total)
        index_file = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index_file, indent=2) + "\n")
        config.save_pretrained(folder)
        tiny = resolve_model_path("tiny")
        for file in (*_TOKENIZER_FILES, "generation_config.json"):
            shutil.copyfile(tiny / file, folder / file)
        save_processor(folder, load_tokenizer(tiny), config.model_type, patch_px=config.vision_config.patch_size)
    return config


def _check_room(out_dir: Path, num_bytes: int) -> None:
    existing = next(folder for folder in (out_dir.absolute(), *out_dir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise ResourceError(
            f"{num_bytes / 1e9:.1f} GB of weights do not fit into {free / 1e9:.1f} GB of free disk",
            where=str(out_dir),
            remedy="choose another disk, or write fewer layers with --layers",
        )


def _shards(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    shard, size = list[Tensor](), 0
    for tensor in tensors:
        if shard and size + tensor.num_bytes > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.num_bytes
    yield shard


def _write_shard(path: Path, tensors: list[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
    """Writes one file in the safetensors format; yields each tensor when it is written.

    The library's own writer wants every tensor of a file in memory, and copies it.
    """
    header: dict[str, Mapping[str, object]] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.num_bytes
        header[tensor.name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in tensors:
            for piece in _values(tensor, generator):
                file.write(piece.to(torch.bfloat16).view(torch.int16).numpy().data)
            yield tensor


def _values(tensor: Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Ones for a norm, zeros for a bias, normal numbers for a matrix, in pieces."""
    remaining = math.prod(tensor.shape)
    while remaining:
        count = min(remaining, _PIECE_NUMBERS)
        if tensor.name.endswith(".bias"):
            yield torch.zeros(count)
        elif len(tensor.shape) == 1:
            yield torch.ones(count)
        else:
            yield torch.empty(count).normal_(0, STANDARD_DEVIATION, generator=generator)
        remaining -= count


def _hub_name(name: str, model_type: str) -> str:
    for ours, hubs in _HUB_NAMES[model_type]:
        if name.startswith(ours):
            return hubs + name.removeprefix(ours)
    return name
