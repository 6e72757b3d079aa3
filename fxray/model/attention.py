"""Attention of packed groups: every answer sees its prompt and itself, and no other answer.

All prompts and answers of a pass lie in one flat sequence, so nothing outside the attention is ever padded. Inside it
there are two ways, decided by device alone:

- "gathered": prompts attend to themselves causally; each answer attends to the keys of its prompt and its own. Both are
  ordinary dense attention over short sequences, so no mask over the whole sequence is ever made.
- "flex": PyTorch's flex attention over the flat sequence, with a block mask, for CUDA.

Legend: T tokens of the flat sequence, N prompts, P longest prompt, A answers, R longest answer, H heads, K key heads,
D width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "fxray_packed"
"""Under this name transformers finds `packed_attention`; other inputs than a layout fall back to its "sdpa"."""


@dataclass(frozen=True, slots=True)
class GatheredLayout:
    """Where to gather queries and keys, and where the results belong.

    Attributes:
        prompt_NP: Flat position of each prompt token; padding repeats position 0.
        answer_AR: Flat position of each answer token; padding repeats position 0.
        prompt_of_A: Row of each answer's prompt in `prompt_NP`.
        may_see_AS: bool [A, 1, R, P + R], True where an answer token attends to a prompt or answer token.
        back_T: For each flat position its place in the results, prompts first, then answers.
    """

    prompt_NP: torch.Tensor
    answer_AR: torch.Tensor
    prompt_of_A: torch.Tensor
    may_see_AS: torch.Tensor
    back_T: torch.Tensor


Layout = GatheredLayout | BlockMask


def attention_kind(device: torch.device) -> Literal["gathered", "flex"]:
    """The way that suits a device."""
    return "flex" if device.type == "cuda" else "gathered"


def make_layout(prompt_lengths: Sequence[int], answer_lengths: Sequence[Sequence[int]], device: torch.device) -> Layout:
    """Where each prompt and answer of a flat sequence lies, as the attention of `device` wants to know it.

    Args:
        prompt_lengths: Tokens of each prompt, at least one.
        answer_lengths: Per prompt the tokens of its answers; they follow their prompt in the sequence.
        device: Where the pass runs.
    """
    if attention_kind(device) == "flex":
        return _block_mask(prompt_lengths, answer_lengths, device)
    return gathered_layout(prompt_lengths, answer_lengths)


def gathered_layout(prompt_lengths: Sequence[int], answer_lengths: Sequence[Sequence[int]]) -> GatheredLayout:
    """The layout of the "gathered" way; see `make_layout`."""
    segments = [length for row in zip(prompt_lengths, answer_lengths, strict=True) for length in (row[0], *row[1])]
    is_prompt = torch.tensor([i == 0 for row in answer_lengths for i in range(1 + len(row))])
    length_S = torch.tensor(segments)
    start_S = length_S.cumsum(0) - length_S
    prompt_of_S = is_prompt.cumsum(0) - 1

    prompt_NP, is_prompt_NP = _spans(start_S[is_prompt], length_S[is_prompt])
    answer_AR, is_answer_AR = _spans(start_S[~is_prompt], length_S[~is_prompt])
    prompt_of_A = prompt_of_S[~is_prompt]
    longest = answer_AR.shape[1]
    before = torch.ones(longest, longest, dtype=torch.bool).tril()
    sees_prompt = is_prompt_NP[prompt_of_A, None, None].expand(-1, 1, longest, -1)
    may_see = torch.cat([sees_prompt, before.expand(len(answer_AR), 1, -1, -1)], -1)

    back_T = torch.empty(sum(segments), dtype=torch.long)
    back_T[prompt_NP[is_prompt_NP]] = is_prompt_NP.flatten().nonzero()[:, 0]
    back_T[answer_AR[is_answer_AR]] = is_answer_AR.flatten().nonzero()[:, 0] + prompt_NP.numel()
    return GatheredLayout(prompt_NP, answer_AR, prompt_of_A, may_see, back_T)


def _spans(start_S: torch.Tensor, length_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of spans as padded rows, and where they are real."""
    offset = torch.arange(int(length_S.max()) if len(length_S) else 0)
    is_real = offset < length_S[:, None]
    return torch.where(is_real, start_S[:, None] + offset, 0), is_real


def _block_mask(
    prompt_lengths: Sequence[int], answer_lengths: Sequence[Sequence[int]], device: torch.device
) -> BlockMask:
    row_of, answer_of = [], []
    for row, (prompt, answers) in enumerate(zip(prompt_lengths, answer_lengths, strict=True)):
        for index, length in enumerate((prompt, *answers)):
            row_of += [row] * length
            answer_of += [index] * length
    row_T, answer_T = torch.tensor(row_of, device=device), torch.tensor(answer_of, device=device)

    def may_see(_batch: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        is_visible = (answer_T[key] == 0) | (answer_T[key] == answer_T[query])
        return (row_T[query] == row_T[key]) & is_visible & (query >= key)

    return create_block_mask(may_see, None, None, len(row_of), len(row_of), device=device)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Layout | torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention as transformers calls it: query [1, H, T, D], key and value [1, K, T, D], result [1, T, H, D]."""
    if isinstance(attention_mask, BlockMask):
        return flex_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if not isinstance(attention_mask, GatheredLayout):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    layout = attention_mask
    query_THD, key_TKD, value_TKD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))

    def take(tensor_TXD: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return tensor_TXD.index_select(0, index.flatten()).view(*index.shape, *tensor_TXD.shape[1:])

    prompt_key, prompt_value = take(key_TKD, layout.prompt_NP), take(value_TKD, layout.prompt_NP)
    prompts = _attend(take(query_THD, layout.prompt_NP), prompt_key, prompt_value, None, scaling)
    if not layout.answer_AR.numel():
        return prompts.flatten(0, 1).index_select(0, layout.back_T)[None], None
    answers = _attend(
        take(query_THD, layout.answer_AR),
        torch.cat([prompt_key.index_select(0, layout.prompt_of_A), take(key_TKD, layout.answer_AR)], 1),
        torch.cat([prompt_value.index_select(0, layout.prompt_of_A), take(value_TKD, layout.answer_AR)], 1),
        layout.may_see_AS,
        scaling,
    )
    flat = torch.cat([prompts.flatten(0, 1), answers.flatten(0, 1)])
    return flat.index_select(0, layout.back_T)[None], None


def _attend(
    query_BQHD: torch.Tensor,
    key_BSKD: torch.Tensor,
    value_BSKD: torch.Tensor,
    may_see: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """Dense attention; causal without a mask. Takes and gives tokens before heads."""
    out_BHQD = scaled_dot_product_attention(
        query_BQHD.transpose(1, 2),
        key_BSKD.transpose(1, 2),
        value_BSKD.transpose(1, 2),
        attn_mask=may_see,
        is_causal=may_see is None,
        scale=scaling,
        enable_gqa=True,
    )
    return out_BHQD.transpose(1, 2)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
