from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from fxray.model.adapter import attach_adapter
from fxray.model.attention import dense_layout
from fxray.model.layers import DECODER_LAYERS, GATED_VISION, TEXT, VISION, decoder_layer, projections, vision_block

FAMILIES = ["random_model_dir", "random_qwen3_dir", "random_internvl_dir"]


@pytest.fixture(scope="module")
def model(request):
    from fxray.model.load import load_model
    from fxray.model.packed import PackedPolicy

    folder = request.getfixturevalue(getattr(request, "param", FAMILIES[0]))
    adapted = attach_adapter(load_model(folder, dtype="float32"), rank=4, alpha=8, dropout=0.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    return PackedPolicy(adapted).model


def by_transformers(layer):
    """What the layer computes without the shorter way."""
    forward = layer.forward
    assert isinstance(forward, partial)
    return forward.args[-1]


def stir_norms(layer):
    """Norms that tell their factors and biases apart."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in layer.named_parameters():
        if "norm" in name:
            parameter.data.normal_(1.0 if name.endswith("weight") else 0.0, 0.3, generator=generator)


def outcome(function, leaf, layer):
    layer.zero_grad()
    leaf = leaf.clone().requires_grad_()
    out = function(leaf)
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    return out.detach(), leaf.grad, gradients


def assert_same(got, expected):
    torch.testing.assert_close(got[0], expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-3, atol=1e-3)
    assert len(got[2]) == len(expected[2]) > 0
    for name, gradient in expected[2].items():
        torch.testing.assert_close(got[2][name], gradient, rtol=1e-3, atol=1e-3)
        assert gradient.norm() > 0


def rotations(num_tokens, width):
    angles = torch.from_numpy(np.random.default_rng(1).uniform(0, 6, (num_tokens, width // 2))).float()
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


@pytest.mark.parametrize("model", FAMILIES, indirect=True)
def test_a_layer_of_the_language_model_is_what_transformers_computes(model):
    layer = model.get_base_model().model.language_model.layers[1]
    assert isinstance(layer, DECODER_LAYERS)
    stir_norms(layer)
    torch.manual_seed(0)
    layout = dense_layout([7, 4], [[3, 2], [5]])
    hidden = torch.randn(1, 21, layer.hidden_size)
    turns = tuple(each[None] for each in rotations(21, layer.self_attn.head_dim))
    ready = projections(layer, TEXT)
    assert all(each.a_RI is not None for each in ready)
    got = outcome(lambda x: decoder_layer(layer, ready, x, layout, turns), hidden, layer)
    expected = outcome(
        lambda x: by_transformers(layer)(x, attention_mask=layout, position_embeddings=turns), hidden, layer
    )
    assert_same(got, expected)


@pytest.mark.parametrize(("model", "names"), [(FAMILIES[0], GATED_VISION), (FAMILIES[1], VISION)], indirect=["model"])
def test_a_block_of_the_vision_tower_is_what_transformers_computes(model, names):
    block = model.get_base_model().model.visual.blocks[1]
    stir_norms(block)
    torch.manual_seed(0)
    ends = torch.tensor([0, 16, 24, 40], dtype=torch.int32)
    hidden = torch.randn(40, block.attn.dim)
    turns = rotations(40, block.attn.head_dim)
    ready = projections(block, names)
    got = outcome(lambda x: vision_block(block, ready, x, ends, 16, turns), hidden, block)
    expected = outcome(
        lambda x: by_transformers(block)(x, ends, max_seqlen=16, position_embeddings=turns), hidden, block
    )
    assert_same(got, expected)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", FAMILIES[:2], indirect=True)
def test_compiled_a_layer_and_a_block_give_what_they_give_as_written(model, monkeypatch):
    core = model.get_base_model().model
    layer, block = core.language_model.layers[1], core.visual.blocks[1]
    torch.manual_seed(0)
    layout, ends = dense_layout([7, 4], [[3, 2], [5]]), torch.tensor([0, 16, 24, 40], dtype=torch.int32)
    of_tokens, of_patches = rotations(21, layer.self_attn.head_dim), rotations(40, block.attn.head_dim)
    of_layer = projections(layer, TEXT)
    of_block = projections(block, GATED_VISION if hasattr(block.mlp, "gate_proj") else VISION)

    def run_both():
        turns = tuple(each[None] for each in of_tokens)
        hidden = torch.linspace(-1, 1, 21 * layer.hidden_size).view(1, 21, -1)
        patches = torch.linspace(-1, 1, 40 * block.attn.dim).view(40, -1)
        yield outcome(lambda x: decoder_layer(layer, of_layer, x, layout, turns), hidden, layer)
        yield outcome(lambda x: vision_block(block, of_block, x, ends, 16, of_patches), patches, block)

    expected = list(run_both())
    monkeypatch.setattr("fxray.model.layers.run_compiled", lambda function, *args: torch.compile(function)(*args))
    for got, as_written in zip(run_both(), expected, strict=True):
        assert_same(got, as_written)


def test_without_its_adapter_a_layer_is_the_base(model):
    layer = model.get_base_model().model.language_model.layers[0]
    with model.disable_adapter():
        assert all(each.a_RI is None for each in projections(layer, TEXT))
    assert projections(layer, TEXT)[0].a_RI is not None


def test_what_it_does_not_compute_is_left_to_transformers(model):
    layer = model.get_base_model().model.language_model.layers[0]
    weight = layer.mlp.up_proj.base_layer.weight
    weight.requires_grad_()
    assert projections(layer, TEXT) is None
    weight.requires_grad_(requires_grad=False)
    weight.ds_id = 1
    assert projections(layer, TEXT) is None
    del weight.ds_id
    dropout = layer.self_attn.q_proj.lora_dropout
    before = dropout["policy"]
    dropout["policy"] = torch.nn.Dropout(0.1)
    assert projections(layer.train(), TEXT) is None
    assert projections(layer.eval(), TEXT) is not None
    dropout["policy"] = before


def test_a_float32_reference_beside_a_bfloat16_policy_gives_flash_attention_what_it_takes(monkeypatch):
    from fxray.model import attention
    from fxray.model.folder import resolve_model_path
    from fxray.model.load import load_model
    from fxray.model.packed import PackedPolicy
    from fxray.model.policy import make_policy

    path, seen = resolve_model_path("tiny"), []
    policy = make_policy(
        lambda dtype: load_model(path, dtype=dtype), path,
        dtype="bfloat16", lora_rank=0, lora_alpha=0, lora_dropout=0, seed=0,
    )  # fmt: skip
    policy.add_reference()
    PackedPolicy(policy.model, dtype=torch.bfloat16)

    def flash(query, key, value, *args, **settings):
        seen.append({query.dtype, key.dtype, value.dtype})
        return torch.zeros_like(query)

    monkeypatch.setattr(attention, "flash_attention", flash)
    layout = attention.varlen_layout([7], [[3, 2]])
    for speaks in (nullcontext(), policy.as_reference()):
        with speaks, torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            core = policy.model.get_base_model()
            core.model.language_model(
                inputs_embeds=core.get_input_embeddings()(torch.arange(12))[None],
                position_ids=torch.arange(12).expand(3, 1, -1),
                attention_mask={"full_attention": layout},
                use_cache=False,
            )
    assert seen == [{torch.bfloat16}] * 2 * len(policy.base.model.language_model.layers)
