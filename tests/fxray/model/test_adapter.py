import json

import pytest
import torch
from peft import PeftModel

from fxray.checkpoints import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from fxray.errors import CheckpointError
from fxray.files import read_folder
from fxray.model.adapter import (
    POLICY,
    REFERENCE,
    active_adapter,
    adapter_bytes,
    adapter_parameters,
    adapter_tensors,
    add_adapter,
    attach_adapter,
    load_tensors,
    lora_layers,
    parse_adapter,
    save_adapter,
)
from fxray.model.load import load_model


@pytest.fixture
def model(random_model_dir):
    model = attach_adapter(load_model(random_model_dir, dtype="float32"), rank=8, alpha=32, dropout=0.0, seed=3)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(model, POLICY).values():
            parameter.normal_(std=0.05)
    add_adapter(model, REFERENCE)
    return model


def load_adapter(model, folder, name):
    load_tensors(model, parse_adapter(model, read_folder(folder), where=str(folder)), name, where=str(folder))


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[30, 40, 50, 60]])).logits


def test_the_adapter_sits_on_tower_projector_and_language_model(model):
    names = {name.removesuffix(".lora_A.weight") for name in adapter_parameters(model, POLICY) if "lora_A" in name}
    inside = {name.removeprefix("base_model.model.") for name in names}
    linear = {name for name, module in linear_layers(model) if not name.startswith("lm_head")}
    assert inside == linear
    assert any(name.startswith("model.visual.blocks") for name in inside)
    assert "model.visual.merger.mlp.0" in inside


def linear_layers(model):
    core = model.get_base_model()
    return [
        (name.removesuffix(".base_layer"), module)
        for name, module in core.named_modules()
        if type(module) is torch.nn.Linear and "lora_" not in name
    ]


def test_only_the_policy_is_trained_and_in_float32(random_model_dir):
    model = attach_adapter(load_model(random_model_dir, dtype="bfloat16"), rank=8, alpha=32, dropout=0.0, seed=0)
    add_adapter(model, REFERENCE)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if f".{POLICY}." in name}
    assert {p.dtype for p in adapter_parameters(model, POLICY).values()} == {torch.float32}
    assert {p.dtype for p in adapter_parameters(model, REFERENCE).values()} == {torch.float32}


def test_a_fresh_adapter_changes_nothing_and_follows_its_seed(random_model_dir):
    first, second, other = (
        attach_adapter(load_model(random_model_dir, dtype="float32"), rank=8, alpha=32, dropout=0.0, seed=seed)
        for seed in (1, 1, 2)
    )
    plain = load_model(random_model_dir, dtype="float32")
    torch.testing.assert_close(logits(first), logits(plain), rtol=0, atol=0)
    weights = [torch.cat([t.flatten() for t in adapter_tensors(m, POLICY).values()]) for m in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_switching_adapters_leaves_requires_grad_alone(model):
    with torch.no_grad():
        for parameter in adapter_parameters(model, REFERENCE).values():
            parameter.zero_()
    as_policy = logits(model)
    with active_adapter(lora_layers(model), REFERENCE):
        as_reference = logits(model)
        assert all(p.requires_grad for p in adapter_parameters(model, POLICY).values())
    with model.disable_adapter():
        torch.testing.assert_close(as_reference, logits(model))
    assert (as_policy - as_reference).abs().max() > 1e-3
    torch.testing.assert_close(logits(model), as_policy, rtol=0, atol=0)


def test_peft_loads_what_is_saved(model, random_model_dir, tmp_path):
    save_adapter(model, tmp_path)
    loaded = PeftModel.from_pretrained(load_model(random_model_dir, dtype="float32"), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)
    assert json.loads((tmp_path / ADAPTER_CONFIG_FILE).read_text())["peft_type"] == "LORA"


def test_bytes_and_folders_round_trip(model, tmp_path):
    before = adapter_tensors(model, POLICY)
    blob, config = adapter_bytes(model, POLICY)
    assert json.loads(json.dumps(config)) == config
    save_adapter(model, tmp_path)
    assert (tmp_path / ADAPTER_WEIGHTS_FILE).read_bytes() == blob
    with torch.no_grad():
        for parameter in adapter_parameters(model, REFERENCE).values():
            parameter.fill_(7)
    load_adapter(model, tmp_path, REFERENCE)
    after = adapter_tensors(model, REFERENCE)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_adapter_of_another_rank_or_scale_is_refused(model, random_model_dir, tmp_path):
    other = attach_adapter(load_model(random_model_dir, dtype="float32"), rank=16, alpha=32, dropout=0.0, seed=0)
    save_adapter(other, tmp_path)
    with pytest.raises(CheckpointError, match=r"rank and alpha are \(16, 32\), expected \(8, 32\)"):
        load_adapter(model, tmp_path, POLICY)
    with pytest.raises(CheckpointError, match=r"has shape \(16, 128\), expected \(8, 128\)"):
        load_tensors(model, adapter_tensors(other, POLICY), POLICY, where="memory")


def test_damage_is_named(model, tmp_path):
    with pytest.raises(CheckpointError, match=ADAPTER_CONFIG_FILE):
        load_adapter(model, tmp_path, POLICY)
    save_adapter(model, tmp_path)
    blob = (tmp_path / ADAPTER_WEIGHTS_FILE).read_bytes()
    (tmp_path / ADAPTER_WEIGHTS_FILE).write_bytes(blob[: len(blob) // 2])
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load_adapter(model, tmp_path, POLICY)
    (tmp_path / ADAPTER_CONFIG_FILE).write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_adapter(model, tmp_path, POLICY)
