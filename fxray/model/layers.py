"""Whole layers of the model as two compiled functions each, for GPUs: what comes before attention, and what after.

A layer of transformers with PEFT's adapters launches some hundred kernels, and the host needs longer to launch them
than the GPU to run them. Compiled, norms, casts, rotations, sums and the gate become a few kernels between the
products, and every layer of a tower runs the same code: it is compiled once for any number of tokens, in about half a
minute, and kept on disk by PyTorch. Attention lies between the two, as `fxray.model.attention` computes it.

A layer takes the longer way on a CPU, where weights are trained or spread over ranks, and where inputs of an adapter
are dropped; so does the vision tower of an InternVL, whose blocks are others.

Legend: T tokens, D width, I inputs, O outputs, R rank, H heads, E width of a head.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch.nn.functional import gelu, layer_norm, linear, rms_norm, silu
from transformers.activations import GELUTanh, SiLUActivation
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLVisionBlock
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer, Qwen3VLVisionBlock

from fxray.model.attention import VarlenLayout, packed_attention, window_attention
from fxray.model.compiled import run_compiled
from fxray.model.fused import LoraLinear


class Projection(NamedTuple):
    """A linear layer and its adapter: x W^T + bias + scaling x A^T B^T.

    Attributes:
        weight_OI: Frozen.
        bias_O: Frozen, or None.
        a_RI: In float32, or None without an adapter.
        b_OR: The same.
        scaling: Of the adapter.
    """

    weight_OI: torch.Tensor
    bias_O: torch.Tensor | None
    a_RI: torch.Tensor | None
    b_OR: torch.Tensor | None
    scaling: float


class Norm(NamedTuple):
    """A norm over the width or over each head's: by the root of the mean square, or with a bias PyTorch's layer norm.

    Attributes:
        weight_D: Its factors.
        bias_D: Added in the end, or None.
        eps: Keeps it from dividing by zero.
    """

    weight_D: torch.Tensor
    bias_D: torch.Tensor | None
    eps: float


DECODER_LAYERS = Qwen2_5_VLDecoderLayer | Qwen3VLTextDecoderLayer | Qwen2DecoderLayer


def use_layers(model: torch.nn.Module) -> None:
    """Lets the model's layers take the shorter way wherever they can; what they compute stays."""
    for module in model.modules():
        if isinstance(module, DECODER_LAYERS) and isinstance(module.mlp.act_fn, SiLUActivation):
            module.forward = partial(_decoder_layer, module, module.forward)
        elif isinstance(module, Qwen2_5_VLVisionBlock) and isinstance(module.mlp.act_fn, SiLUActivation):
            module.forward = partial(_vision_block, module, GATED_VISION, module.forward)
        elif isinstance(module, Qwen3VLVisionBlock) and isinstance(module.mlp.act_fn, GELUTanh):
            module.forward = partial(_vision_block, module, VISION, module.forward)


def _decoder_layer(
    layer: Any, by_transformers: Any, hidden_states: torch.Tensor, attention_mask: Any = None, **kwargs: Any
) -> torch.Tensor:
    ready = projections(layer, TEXT) if isinstance(attention_mask, VarlenLayout) else None
    if ready is None or not hidden_states.dtype == ready[0].weight_OI.dtype == _multiplied_in(hidden_states):
        result: torch.Tensor = by_transformers(hidden_states, attention_mask=attention_mask, **kwargs)
        return result
    return decoder_layer(layer, ready, hidden_states, attention_mask, kwargs["position_embeddings"])


def _vision_block(
    block: Any,
    names: Sequence[str],
    by_transformers: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    **kwargs: Any,
) -> torch.Tensor:
    ready = projections(block, names) if hidden_states.is_cuda else None
    if ready is None or hidden_states.dtype != ready[0].weight_OI.dtype or kwargs.get("max_seqlen") is None:
        result: torch.Tensor = by_transformers(hidden_states, cu_seqlens, **kwargs)
        return result
    return vision_block(block, ready, hidden_states, cu_seqlens, kwargs["max_seqlen"], kwargs["position_embeddings"])


TEXT = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
GATED_VISION = ("attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
VISION = ("attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2")


def projections(layer: torch.nn.Module, names: Sequence[str]) -> list[Projection] | None:
    """The linear layers of a layer by name, or None where one is not what `project` computes."""
    found = []
    for name in names:
        owner, _, own = name.partition(".")
        if (projection := _projection(getattr(getattr(layer, owner), own))) is None:
            return None
        found.append(projection)
    return found


def _projection(layer: Any) -> Projection | None:
    is_adapted = isinstance(layer, LoraLayer)
    base = layer.base_layer if is_adapted else layer
    if base.weight.requires_grad or hasattr(base.weight, "ds_id"):
        return None
    if not is_adapted or layer.disable_adapters:
        return Projection(base.weight, base.bias, None, None, 1.0)
    if layer.merged or len(layer.active_adapters) != 1:
        return None
    (name,) = layer.active_adapters
    if layer.training and not isinstance(layer.lora_dropout[name], torch.nn.Identity):
        return None
    a_RI, b_OR = layer.lora_A[name].weight, layer.lora_B[name].weight
    return Projection(base.weight, base.bias, a_RI, b_OR, layer.scaling[name])


def decoder_layer(
    layer: Any,
    ready: Sequence[Projection],
    hidden_1TD: torch.Tensor,
    layout: Any,
    rotations: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """A layer of the language model over a flat sequence [1, T, D]; `rotations` are cosine and sine [1, T, E]."""
    query, key, value, out, *mlp = ready
    x_TD, (cos_TE, sin_TE) = hidden_1TD[0], (each[0] for each in rotations)
    norm, attention = layer.input_layernorm, layer.self_attn
    of_heads = (_norm(attention.q_norm), _norm(attention.k_norm)) if hasattr(attention, "q_norm") else ()
    q, k, v = run_compiled(before_attention, x_TD, _norm(norm), (query, key, value), of_heads, cos_TE, sin_TE)
    q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
    attended_1THE, _ = packed_attention(attention, q, k, v, layout, attention.scaling)
    return run_compiled(after_attention, x_TD, attended_1THE[0], out, _norm(layer.post_attention_layernorm), mlp)[None]


def vision_block(
    block: Any,
    ready: Sequence[Projection],
    hidden_TD: torch.Tensor,
    window_ends: torch.Tensor,
    longest: int,
    rotations: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """A block of the vision tower over patches [T, D]; `rotations` are cosine and sine [T, E]."""
    qkv, out, *mlp = ready
    cos_TE, sin_TE = rotations
    q, k, v = run_compiled(before_attention, hidden_TD, _norm(block.norm1), (qkv,), (), cos_TE, sin_TE)
    q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
    attended_1THE, _ = window_attention(block.attn, q, k, v, None, block.attn.scaling, window_ends, longest)
    return run_compiled(after_attention, hidden_TD, attended_1THE[0], out, _norm(block.norm2), mlp)


def before_attention(
    x_TD: torch.Tensor,
    norm: Norm,
    ins: Sequence[Projection],
    of_heads: Sequence[Norm],
    cos_TE: torch.Tensor,
    sin_TE: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values [T, heads, E] of one projection for all or of three, the first two normed and rotated.

    Args:
        x_TD: What the layer is given.
        norm: Its first.
        ins: The projections.
        of_heads: Norms of queries and of keys over each head, or none.
        cos_TE: Of each token's rotation.
        sin_TE: The same.
    """
    normed_TD = normed(x_TD, norm)
    outs = [project(normed_TD, each) for each in ins]
    if len(outs) == 1:
        outs = list(outs[0].chunk(3, -1))
    q, k, v = (each.unflatten(-1, (-1, cos_TE.shape[-1])) for each in outs)
    if of_heads:
        q, k = (normed(each, of_head) for each, of_head in zip((q, k), of_heads, strict=True))
    return rotate(q, cos_TE, sin_TE), rotate(k, cos_TE, sin_TE), v


def after_attention(
    x_TD: torch.Tensor, attended_THE: torch.Tensor, out: Projection, norm: Norm, mlp: Sequence[Projection]
) -> torch.Tensor:
    """The rest of a layer: the projection of what attention found, then what follows it, each added to `x_TD`.

    What follows are two factors and what takes their product, or two layers with an activation between them.
    """
    *inner, last = mlp
    x_TD = x_TD + project(attended_THE.flatten(1), out)
    first, *gated = (project(normed(x_TD, norm), each) for each in inner)
    return x_TD + project(silu(first) * gated[0] if gated else gelu(first, approximate="tanh"), last)


def normed(x: torch.Tensor, by: Norm) -> torch.Tensor:
    """A norm over the last dimension, computed in float32."""
    if by.bias_D is None:
        return rms_norm(x, by.weight_D.shape, by.weight_D, by.eps)
    return layer_norm(x, by.weight_D.shape, by.weight_D, by.bias_D, by.eps)


def project(x_TI: torch.Tensor, by: Projection) -> torch.Tensor:
    """A linear layer and its adapter, [T, O]; the adapter is multiplied in the type of the layer."""
    if by.a_RI is None or by.b_OR is None:
        return linear(x_TI, by.weight_OI, by.bias_O)
    out_TO: torch.Tensor = LoraLinear.apply(x_TI, *by)
    return out_TO


def rotate(x_THE: torch.Tensor, cos_TE: torch.Tensor, sin_TE: torch.Tensor) -> torch.Tensor:
    """Heads turned by their positions, computed in float32.

    The halves change places by a roll, which compiled is a way to read; two parts joined would be written three times.
    """
    half = x_THE.shape[-1] // 2
    sign_E = torch.where(torch.arange(2 * half, device=x_THE.device) < half, -1.0, 1.0)
    x, cos, sin = x_THE.float(), cos_TE[:, None].float(), (sin_TE.float() * sign_E)[:, None]
    return (x * cos + x.roll(half, -1) * sin).to(x_THE.dtype)


def _multiplied_in(x: torch.Tensor) -> torch.dtype:
    """The type of products here: a frozen reference in float32 is multiplied in bfloat16 where its policy is."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _norm(norm: Any) -> Norm:
    if isinstance(norm, torch.nn.LayerNorm):
        return Norm(norm.weight, norm.bias, norm.eps)
    return Norm(norm.weight, None, norm.variance_epsilon)
