"""Attention of packed groups: every answer sees its prompt and itself, and no other answer.

All prompts and answers of a pass lie in one flat sequence, so nothing outside the attention is ever padded. Inside it
each answer gets the keys of its prompt before its own, and there are two ways, decided by device and type alone:

- "varlen": one call of Flash Attention over all prompts and answers as sequences of their own; CUDA in bfloat16.
- "dense": ordinary attention over prompts and over answers of about one length, padded to the longest; anywhere.

The vision tower's windows go the same two ways. No mask over the whole sequence is ever made.

Legend: T tokens of the flat sequence, N prompts, P longest prompt, A answers, R longest answer, S prompts and answers,
L their keys together, H heads, K key heads, D width of a head.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "fxray_packed"
"""Under this name transformers finds `packed_attention`; other inputs than a layout fall back to its "sdpa"."""
WINDOWS_NAME = "fxray_flash_windows"
"""The same for `window_attention`; for names with "flash" in them the vision tower tells where windows begin."""

SHORT_ANSWER = 8
"""Shorter answers than this share a block, for a call costs more than their padding."""
CAUSAL = (-1, 0)
EVERYTHING = (2**30, 2**30)
"""A window wider than any keys, which Flash Attention takes for none. Without one torch 2.14 may ask cuDNN: in the
vision tower for the gradients alone, of an output that Flash Attention gave, and with a plan for each new length."""
_IS_TOLD = "enable_gqa" in inspect.signature(varlen_attn).parameters
flash_attention: Any = partial(varlen_attn, enable_gqa=True) if _IS_TOLD else varlen_attn
"""Heads share key heads; torch 2.11 lets them without being told."""


@dataclass(frozen=True, slots=True)
class AnswerBlock:
    """Answers that are attended to at once.

    Attributes:
        answer_AR: Flat position of each answer token; padding repeats position 0.
        prompt_of_A: Row of each answer's prompt in `DenseLayout.prompt_NP`.
        may_see_AS: bool [A, 1, R, P + R], True where an answer token attends to a prompt or answer token.
    """

    answer_AR: torch.Tensor
    prompt_of_A: torch.Tensor
    may_see_AS: torch.Tensor


@dataclass(frozen=True, slots=True)
class DenseLayout:
    """Where to gather queries and keys, and where the results belong.

    Attributes:
        prompt_NP: Flat position of each prompt token; padding repeats position 0.
        blocks: The answers, in blocks of about one length.
        back_T: For each flat position its place in the results: of the prompts, then of one block after the other.
    """

    prompt_NP: torch.Tensor
    blocks: tuple[AnswerBlock, ...]
    back_T: torch.Tensor


@dataclass(frozen=True, slots=True)
class VarlenLayout:
    """Prompts and answers as sequences, in the order in which they lie.

    Attributes:
        query_ends: int32 [S + 1], where the queries of each begin in the flat sequence, and its length.
        key_ends: int32 [S + 1], the same among the gathered keys.
        key_L: Flat position of each key: a prompt's own, or its prompt's and then its own.
        max_queries: Tokens of the longest sequence.
        max_keys: Keys of the one that has most.
    """

    query_ends: torch.Tensor
    key_ends: torch.Tensor
    key_L: torch.Tensor
    max_queries: int
    max_keys: int


Layout = DenseLayout | VarlenLayout


def attention_kind(device: torch.device, dtype: torch.dtype) -> Literal["dense", "varlen"]:
    """The way that suits a device and the type of the products."""
    return "varlen" if device.type == "cuda" and dtype == torch.bfloat16 else "dense"


def make_layout(
    prompt_lengths: Sequence[int], answer_lengths: Sequence[Sequence[int]], device: torch.device, dtype: torch.dtype
) -> Layout:
    """Where each prompt and answer of a flat sequence lies, as the attention wants to know it; made on the CPU.

    Args:
        prompt_lengths: Tokens of each prompt, at least one.
        answer_lengths: Per prompt the tokens of its answers; they follow their prompt in the sequence.
        device: Where the pass runs.
        dtype: In which it multiplies.
    """
    make = varlen_layout if attention_kind(device, dtype) == "varlen" else dense_layout
    return make(prompt_lengths, answer_lengths)


def dense_layout(prompt_lengths: Sequence[int], answer_lengths: Sequence[Sequence[int]]) -> DenseLayout:
    """The layout of the "dense" way; see `make_layout`."""
    segments = [length for row in zip(prompt_lengths, answer_lengths, strict=True) for length in (row[0], *row[1])]
    is_prompt = torch.tensor([i == 0 for row in answer_lengths for i in range(1 + len(row))])
    length_S = torch.tensor(segments)
    start_S = length_S.cumsum(0) - length_S
    prompt_of_S = is_prompt.cumsum(0) - 1

    prompt_NP, is_prompt_NP = _spans(start_S[is_prompt], length_S[is_prompt])
    back_T = torch.empty(sum(segments), dtype=torch.long)
    back_T[prompt_NP[is_prompt_NP]] = is_prompt_NP.flatten().nonzero()[:, 0]
    num_results, blocks = prompt_NP.numel(), []
    for lengths in _about_one_length(length_S[~is_prompt]):
        chosen_S = ~is_prompt & (length_S > lengths.start) & (length_S <= lengths.stop)
        answer_AR, is_answer_AR = _spans(start_S[chosen_S], length_S[chosen_S])
        prompt_of_A = prompt_of_S[chosen_S]
        longest = answer_AR.shape[1]
        before = torch.ones(longest, longest, dtype=torch.bool).tril()
        sees_prompt = is_prompt_NP[prompt_of_A, None, None].expand(-1, 1, longest, -1)
        may_see = torch.cat([sees_prompt, before.expand(len(answer_AR), 1, -1, -1)], -1)
        back_T[answer_AR[is_answer_AR]] = is_answer_AR.flatten().nonzero()[:, 0] + num_results
        num_results += answer_AR.numel()
        blocks.append(AnswerBlock(answer_AR, prompt_of_A, may_see))
    return DenseLayout(prompt_NP, tuple(blocks), back_T)


def _about_one_length(length_A: torch.Tensor) -> list[range]:
    """Which lengths share a block, each range without its start: at most a third of a longer one is padding."""
    ranges, left = [], length_A
    while len(left):
        longest = int(left.max())
        shortest = longest * 2 // 3 if longest > SHORT_ANSWER else 0
        ranges.append(range(shortest, longest))
        left = left[left <= shortest]
    return ranges


def _spans(start_S: torch.Tensor, length_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of spans, at least one, as padded rows, and where they are real."""
    offset = torch.arange(int(length_S.max()))
    is_real = offset < length_S[:, None]
    return torch.where(is_real, start_S[:, None] + offset, 0), is_real


def varlen_layout(prompt_lengths: Sequence[int], answer_lengths: Sequence[Sequence[int]]) -> VarlenLayout:
    """The layout of the "varlen" way; see `make_layout`."""
    query_lengths, keys, start = [], [], 0
    for prompt_length, lengths in zip(prompt_lengths, answer_lengths, strict=True):
        prompt = torch.arange(start, start + prompt_length)
        query_lengths.append(prompt_length)
        keys.append(prompt)
        start += prompt_length
        for length in lengths:
            query_lengths.append(length)
            keys.append(torch.cat([prompt, torch.arange(start, start + length)]))
            start += length
    key_lengths = [len(each) for each in keys]
    query_ends, key_ends = (
        torch.tensor([0, *lengths]).cumsum(0).to(torch.int32) for lengths in (query_lengths, key_lengths)
    )
    return VarlenLayout(query_ends, key_ends, torch.cat(keys), max(query_lengths), max(key_lengths))


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
    layout = attention_mask
    if not isinstance(layout, DenseLayout | VarlenLayout):
        return sdpa_attention_forward(module, query, key, value, layout, scaling=scaling, **kwargs)
    query_THD, key_TKD, value_TKD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if isinstance(layout, VarlenLayout):
        # Queries are the last of their keys: a causal call lets an answer see its prompt and what came before in it.
        # Rotations may come in the type of the weights; values have the type of the products.
        attended_THD = flash_attention(
            query_THD.to(value.dtype),
            key_TKD.to(value.dtype).index_select(0, layout.key_L),
            value_TKD.index_select(0, layout.key_L),
            layout.query_ends,
            layout.key_ends,
            layout.max_queries,
            layout.max_keys,
            scale=scaling,
            window_size=CAUSAL,
        )
        return attended_THD[None], None

    def take(tensor_TXD: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return tensor_TXD.index_select(0, index.flatten()).view(*index.shape, *tensor_TXD.shape[1:])

    prompt_key, prompt_value = take(key_TKD, layout.prompt_NP), take(value_TKD, layout.prompt_NP)
    prompts = _attend(take(query_THD, layout.prompt_NP), prompt_key, prompt_value, None, scaling)
    results = [prompts.flatten(0, 1)]
    for block in layout.blocks:
        answers = _attend(
            take(query_THD, block.answer_AR),
            torch.cat([prompt_key.index_select(0, block.prompt_of_A), take(key_TKD, block.answer_AR)], 1),
            torch.cat([prompt_value.index_select(0, block.prompt_of_A), take(value_TKD, block.answer_AR)], 1),
            block.may_see_AS,
            scaling,
        )
        results.append(answers.flatten(0, 1))
    return torch.cat(results).index_select(0, layout.back_T)[None], None


def window_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention within windows or images, as the vision tower calls it: query, key and value [1, H, patches, D].

    Args:
        module: The layer that asks.
        query: Of all windows, one after the other.
        key: The same.
        value: The same.
        attention_mask: None.
        scaling: Factor of the products.
        cu_seq_lens_q: Where each window begins, and the number of patches.
        max_length_q: Patches of the largest window.
        kwargs: Further arguments that transformers passes.

    Returns:
        [1, patches, H, D], and None.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if attention_kind(query.device, value.dtype) == "varlen":
        query_THD, key_THD, value_THD = (tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value))
        ends = cu_seq_lens_q.to(torch.int32)
        attended_THD = flash_attention(
            query_THD,
            key_THD,
            value_THD,
            ends,
            ends,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=EVERYTHING,
        )
        return attended_THD[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    if lengths[1:] == lengths[:-1]:
        q, k, v = (tensor.unflatten(2, (len(lengths), -1))[0].transpose(0, 1) for tensor in (query, key, value))
        return scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1)[None], None
    windows = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    attended = [scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2) for q, k, v in windows]
    return torch.cat(attended, 1), None


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
AttentionInterface.register(WINDOWS_NAME, window_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
