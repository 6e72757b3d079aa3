"""Counted numbers against real folders, to the byte."""

import json
import struct
from pathlib import Path

import pytest

from fxray.capacity.weights import count_adapter, count_modules, count_weights
from fxray.config.model_shape import ModelShape, read_shape
from fxray.model.folder import resolve_model_path


def shape_of(path: str) -> ModelShape:
    shape = read_shape(path)
    assert isinstance(shape, ModelShape)
    return shape


def bytes_of_tensors(folder: Path) -> int:
    """What the headers of the weight files say."""
    total = 0
    for file in folder.glob("*.safetensors"):
        content = file.read_bytes()[:2_000_000]
        header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
        header.pop("__metadata__", None)
        total += sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values())
    return total


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656),
        ("Qwen/Qwen2.5-VL-32B-Instruct", 33_452_718_336),
        ("Qwen/Qwen3-VL-2B-Instruct", 2_127_532_032),
        ("Qwen/Qwen3-VL-4B-Instruct", 4_437_815_808),
        ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696),
        ("Qwen/Qwen3-VL-32B-Instruct", 33_357_390_064),
    ],
)
def test_published_sizes_are_counted_without_their_folders(name: str, billions: int) -> None:
    """As the public repositories report them."""
    assert count_weights(shape_of(name)).total == billions


def test_an_internvl_of_real_size_and_its_adapter(tmp_path: Path) -> None:
    """The numbers of InternVL3-8B, two layers deep."""
    import torch
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    from fxray.model.adapter import POLICY, adapter_parameters, attach_adapter

    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 2, "num_attention_heads": 28}
    text |= {"num_key_value_heads": 4, "vocab_size": 151936, "tie_word_embeddings": False}
    vision = {"num_hidden_layers": 2, "attention_bias": True}
    config = InternVLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(config)
        shape = shape_of(str(tmp_path))
        counted = count_weights(shape)
        assert counted.total == sum(parameter.numel() for parameter in model.parameters())
        seeing = (model.model.vision_tower, model.model.multi_modal_projector)
        assert counted.vision == sum(parameter.numel() for part in seeing for parameter in part.parameters())
        adapter = adapter_parameters(attach_adapter(model, rank=8, alpha=32, dropout=0, seed=0), POLICY)
    assert count_adapter(shape, 8) == sum(parameter.numel() for parameter in adapter.values())
    assert count_modules(shape) == len(adapter) // 2 == 2 * 7


@pytest.mark.slow
@pytest.mark.parametrize(
    "like",
    ["qwen3-vl-2b", *(pytest.param(name, marks=pytest.mark.long) for name in ("qwen2.5-vl-3b", "qwen2.5-vl-7b"))],
)
def test_the_bytes_of_a_random_folder_are_those_of_the_count(tmp_path: Path, like: str) -> None:
    from fxray.model.random import write_random_model

    write_random_model(tmp_path / "model", like, num_layers=1, seed=0, progress=lambda *_: None)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    counted = 2 * count_weights(shape_of(str(tmp_path / "model"))).total
    assert counted == index["metadata"]["total_size"] == bytes_of_tensors(tmp_path / "model")


def test_the_tiny_model_and_its_adapter() -> None:
    from fxray.model.adapter import POLICY, adapter_parameters, attach_adapter
    from fxray.model.load import load_model

    folder, shape = resolve_model_path("tiny"), shape_of("tiny")
    model = load_model(folder, dtype="float32")
    assert count_weights(shape).total == sum(parameter.numel() for parameter in model.parameters())
    adapter = adapter_parameters(attach_adapter(model, rank=16, alpha=32, dropout=0, seed=0), POLICY)
    assert count_adapter(shape, 16) == sum(parameter.numel() for parameter in adapter.values())
    assert count_modules(shape) == len(adapter) // 2
