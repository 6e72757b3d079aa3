"""Operations of the model in fewer kernels: what transformers and PEFT compute, with fewer trips to memory.

- An adapter's layer: PEFT reads and writes the layer's wide output three times more, for the adapter's product, its
  scaling and the sum, and as often in the backward pass. Here the narrow product is added in place.
- A norm, on GPUs: six kernels, half of them on float32 copies, against PyTorch's one.
- The gated product, on GPUs: compiled, one kernel each way.

Each falls back to what it replaces where it would compute something else.

Legend: T tokens, I inputs, O outputs, R rank.
"""

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch.nn.functional import linear, rms_norm, silu
from transformers.activations import SiLUActivation
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP as Qwen2TextMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLMLP, Qwen2_5_VLRMSNorm, Qwen2MLP
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextMLP, Qwen3VLTextRMSNorm

from fxray.model.compiled import run_compiled

NORMS = Qwen2RMSNorm | Qwen2_5_VLRMSNorm | Qwen3VLTextRMSNorm
GATED = Qwen2TextMLP | Qwen2MLP | Qwen2_5_VLMLP | Qwen3VLTextMLP


def use_fused(model: torch.nn.Module) -> None:
    """Lets the model's layers take the shorter way wherever they can; what they compute stays."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.forward = partial(_adapted, module, module.forward)
        elif isinstance(module, NORMS):
            module.forward = partial(_norm, module, module.forward)
        elif isinstance(module, GATED) and isinstance(module.act_fn, SiLUActivation):
            module.forward = partial(_gated, module, module.forward)


def two_products(
    x_TI: torch.Tensor,
    weight_OI: torch.Tensor,
    bias_O: torch.Tensor | None,
    narrow_TR: torch.Tensor,
    b_OR: torch.Tensor,
) -> torch.Tensor:
    """A frozen layer's product and an adapter's, x W^T + bias + narrow B^T, [T, O], the second added in place."""
    return linear(x_TI, weight_OI, bias_O).addmm_(narrow_TR, b_OR.T)


_library = torch.library.Library("fxray", "DEF")
_library.define("two_products(Tensor x, Tensor weight, Tensor? bias, Tensor narrow, Tensor b) -> Tensor")
_library.impl("two_products", two_products, "CompositeExplicitAutograd")
torch.library.register_fake(
    "fxray::two_products", lambda x, weight, *_: x.new_empty(x.shape[0], weight.shape[0]), lib=_library
)  # `len` would be a number here, and each number of tokens would be compiled anew


def _two_products(*args: Any) -> torch.Tensor:
    """The same; compiled code keeps it as it is, and would else copy the first product before it adds the second."""
    function = torch.ops.fxray.two_products if torch.compiler.is_compiling() else two_products
    result: torch.Tensor = function(*args)
    return result


class LoraLinear(torch.autograd.Function):
    """x W^T + bias + scaling x A^T B^T, with gradients for x, A and B; W and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Takes x [..., I] in the type of `weight_OI`; A and B in float32, multiplied in that type."""
        x_TI = x.reshape(-1, x.shape[-1])
        narrow_TR = linear(x_TI, (a_RI * scaling).to(x.dtype))
        out_TO = _two_products(x_TI, weight_OI, bias_O, narrow_TR, b_OR.to(x.dtype))
        ctx.save_for_backward(x_TI, narrow_TR, weight_OI, a_RI, b_OR)
        ctx.scaling, ctx.shape = scaling, x.shape
        return out_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of the output [..., O] back to x, A and B."""
        x_TI, narrow_TR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        gradient_TO = gradients[0].reshape(-1, gradients[0].shape[-1])
        of_narrow_TR = gradient_TO @ b_OR.to(gradient_TO.dtype)
        of_a_RI = (of_narrow_TR.T @ x_TI).to(a_RI.dtype) * ctx.scaling
        of_b_OR = (gradient_TO.T @ narrow_TR).to(b_OR.dtype)
        of_x = None
        if ctx.needs_input_grad[0]:
            a_IR = (a_RI * ctx.scaling).to(gradient_TO.dtype).T
            of_x = _two_products(gradient_TO, weight_OI.T, None, of_narrow_TR, a_IR).view(ctx.shape)
        return of_x, None, None, of_a_RI, of_b_OR, None


def is_plain(layer: Any) -> bool:
    """Whether a layer is what `LoraLinear` computes: nothing dropped, merged, or spread over ranks by ZeRO-3."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    dropout = layer.lora_dropout[layer.active_adapters[0]]
    is_dropping = layer.training and not isinstance(dropout, torch.nn.Identity)
    weight = layer.base_layer.weight
    return not (is_dropping or weight.requires_grad or hasattr(weight, "ds_id"))


def _adapted(layer: Any, by_peft: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if not is_plain(layer):
        result: torch.Tensor = by_peft(x, *args, **kwargs)
        return result
    (name,) = layer.active_adapters
    base = layer.base_layer
    a_RI, b_OR = layer.lora_A[name].weight, layer.lora_B[name].weight
    fused: torch.Tensor = LoraLinear.apply(
        x.to(base.weight.dtype), base.weight, base.bias, a_RI, b_OR, layer.scaling[name]
    )
    return fused


def _norm(norm: Any, by_transformers: Any, x: torch.Tensor) -> torch.Tensor:
    if not x.is_cuda or x.dtype != norm.weight.dtype:
        result: torch.Tensor = by_transformers(x)
        return result
    with torch.autocast("cuda", enabled=False):  # it computes in float32 inside, and would be given float32 copies
        return rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _gated(mlp: Any, by_transformers: Any, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = gated_mlp(mlp, x) if x.is_cuda else by_transformers(x)
    return result


def gated_mlp(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    """The gated product of x [..., I], and what takes it back to the width."""
    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    product = run_compiled(gated_product, gate.flatten(0, -2), up.flatten(0, -2)).view_as(gate)
    down: torch.Tensor = mlp.down_proj(product)
    return down


def gated_product(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """SiLU of one factor times the other."""
    return silu(gate) * up
