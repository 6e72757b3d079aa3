"""What an engine is made of, by the family of its base model, and how its start reads; vLLM is not needed to know."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_engine import small_engine

from fxray.engine.start import forbidden_bias, llm_arguments, register_class, start_of_vllm
from fxray.errors import ModelError
from fxray.model.folder import resolve_model_path


def test_images_are_bounded_and_adapters_bound_as_the_family_allows(random_internvl_dir: Path) -> None:
    qwens = llm_arguments(small_engine(resolve_model_path("tiny")))
    assert qwens["mm_processor_kwargs"] == {"size": {"shortest_edge": 3136, "longest_edge": 12544}}
    assert qwens["enable_tower_connector_lora"] is True
    tiled = llm_arguments(small_engine(random_internvl_dir))
    assert tiled["mm_processor_kwargs"] == {"crop_to_patches": True, "min_patches": 1, "max_patches": 4}
    assert tiled["enable_tower_connector_lora"] is False
    assert "enable_lora" not in llm_arguments(replace(small_engine(random_internvl_dir), lora_rank=0))


def test_a_token_that_the_vocabulary_lacks_forbids_no_other() -> None:
    tokenizer = SimpleNamespace(
        get_vocab=lambda: {"<|endoftext|>": 0, "<img>": 1, "<|image_pad|>": 2},
        convert_tokens_to_ids=lambda tokens: [0 for _ in tokens],
    )
    assert forbidden_bias(tokenizer) == {1: float("-inf"), 2: float("-inf")}


@pytest.mark.parametrize("raised", [IndexError("out of range"), ImportError("out of range")])
def test_whatever_vllm_raises_at_its_start_is_told_with_the_model(raised: Exception) -> None:
    with pytest.raises(ModelError, match="vLLM cannot start: out of range") as caught, start_of_vllm(Path("m")):
        raise raised
    assert caught.value.where == "m"


def test_a_class_that_vllm_knows_is_looked_at_here(tmp_path, monkeypatch) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["Unknown", "Known"]}')
    found: dict[str, str] = {}
    models = {"Known": SimpleNamespace(load_model_cls=lambda: "a class"), "Other": None}
    registry = SimpleNamespace(models=models, register_model=found.__setitem__)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=registry))
    register_class(tmp_path)
    assert found == {"Known": "a class"}
    (tmp_path / "config.json").write_text('{"architectures": null}')
    register_class(tmp_path)
    assert found == {"Known": "a class"}
