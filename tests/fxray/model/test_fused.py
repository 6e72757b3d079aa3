from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model

from fxray.model.fused import LoraLinear, gated_mlp, is_plain, use_fused
from fxray.model.load import load_model


class Net(torch.nn.Module):
    def __init__(self, has_bias: bool) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 10, bias=has_bias)

    def forward(self, x):
        return self.linear(x)


def adapted(*, has_bias=True, dropout=0.0):
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=12, lora_dropout=dropout, target_modules=["linear"])
    model = get_peft_model(Net(has_bias), config, adapter_name="policy")
    layer = model.get_base_model().linear
    torch.nn.init.normal_(layer.lora_B["policy"].weight)
    return layer


def fused(layer, x):
    base = layer.base_layer
    a, b = layer.lora_A["policy"].weight, layer.lora_B["policy"].weight
    return LoraLinear.apply(x, base.weight, base.bias, a, b, layer.scaling["policy"])


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_leaf", [True, False])
def test_it_computes_what_peft_computes(has_bias, is_leaf):
    layer = adapted(has_bias=has_bias)
    assert is_plain(layer)
    weights = torch.randn(2, 5, 10)
    results = []
    for function in (layer, lambda x: fused(layer, x)):
        x = torch.linspace(-1, 1, 60).view(2, 5, 6).requires_grad_(is_leaf)
        layer.zero_grad()
        out = function(x)
        (out * weights).sum().backward()
        results.append((out.detach(), x.grad, layer.lora_A["policy"].weight.grad, layer.lora_B["policy"].weight.grad))
    for expected, got in zip(*results, strict=True):
        assert (expected is None) == (got is None)
        if got is not None:
            torch.testing.assert_close(got, expected)
    assert results[0][2].norm() > 0


def test_gradients_are_those_of_differences():
    torch.manual_seed(0)
    sizes = ((4, 6), (10, 6), (10,), (3, 6), (10, 3))
    x, weight, bias, a, b = (torch.randn(*size, dtype=torch.float64) for size in sizes)
    leaves = [each.requires_grad_() for each in (x, a, b)]
    assert torch.autograd.gradcheck(lambda x, a, b: LoraLinear.apply(x, weight, bias, a, b, 0.7), leaves)


def test_a_plain_layer_takes_the_short_way_on_a_cpu_too(monkeypatch):
    layer = adapted()
    expected = layer(torch.ones(2, 6))
    monkeypatch.setattr(layer, "forward", lambda x: pytest.fail("PEFT computed it"))
    use_fused(layer)
    torch.testing.assert_close(layer(torch.ones(2, 6)), expected)


@pytest.mark.parametrize("folder", ["random_model_dir", "random_qwen3_dir", "random_internvl_dir"])
def test_every_gated_product_of_every_family_is_found(folder, request):
    model = load_model(request.getfixturevalue(folder), dtype="float32")
    use_fused(model)
    gated = [module for module in model.modules() if hasattr(module, "gate_proj")]
    assert gated
    assert all(isinstance(module.forward, partial) for module in gated)


def test_a_gated_product_is_that_of_transformers(random_model_dir):
    mlp = load_model(random_model_dir, dtype="float32").model.language_model.layers[0].mlp
    x = torch.randn(1, 5, mlp.gate_proj.in_features)
    torch.testing.assert_close(gated_mlp(mlp, x), mlp(x))


def test_what_it_does_not_compute_is_left_to_peft():
    dropping, spread, off = adapted(dropout=0.1), adapted(), adapted()
    assert not is_plain(dropping.train())
    assert is_plain(dropping.eval())
    spread.base_layer.weight.ds_id = 1
    assert not is_plain(spread)
    off.enable_adapters(False)
    assert not is_plain(off)
    trained = adapted()
    trained.base_layer.weight.requires_grad_()
    assert not is_plain(trained)
