from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from fxray.model import attention
from fxray.model.attention import (
    DenseLayout,
    VarlenLayout,
    dense_layout,
    make_layout,
    packed_attention,
    varlen_layout,
    window_attention,
)

CPU = torch.device("cpu")
PROMPTS, ANSWERS = [7, 4], [[30, 2, 3, 12], [5, 29, 1]]
NUM_TOKENS = sum(PROMPTS) + sum(map(sum, ANSWERS))


def random_heads(num_tokens, num_heads=2, width=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, num_heads, num_tokens, width, generator=generator) for _ in range(3)]


def test_each_answer_is_in_one_block_and_at_most_a_third_of_a_longer_one_is_padding():
    layout = dense_layout(PROMPTS, ANSWERS)
    assert sum(len(block.answer_AR) for block in layout.blocks) == 7
    assert [block.answer_AR.shape[1] for block in layout.blocks] == [30, 12, 5]
    for block in layout.blocks[:-1]:
        real = block.answer_AR.count_nonzero(1)
        assert bool((3 * real > 2 * block.answer_AR.shape[1] - 3).all())
    assert sorted(layout.back_T.tolist()) == sorted(set(layout.back_T.tolist()))
    assert len(layout.back_T) == NUM_TOKENS


def test_an_answer_of_two_thirds_of_the_longest_has_a_block_of_its_own():
    layout = dense_layout([7], [[30, 20, 21]])
    assert [tuple(block.answer_AR.shape) for block in layout.blocks] == [(2, 30), (1, 20)]


def test_only_products_in_bfloat16_on_a_gpu_are_laid_out_for_flash_attention():
    kinds = {
        (device, dtype): type(make_layout(PROMPTS, ANSWERS, torch.device(device), dtype))
        for device in ("cpu", "cuda")
        for dtype in (torch.bfloat16, torch.float32)
    }
    assert {key for key, kind in kinds.items() if kind is VarlenLayout} == {("cuda", torch.bfloat16)}
    assert set(kinds.values()) == {VarlenLayout, DenseLayout}


@pytest.mark.parametrize("scaling", [None, 0.3])
def test_answers_of_many_lengths_see_their_prompt_and_themselves(scaling):
    query, key, value = random_heads(NUM_TOKENS)
    got, _ = packed_attention(torch.nn.Module(), query, key, value, dense_layout(PROMPTS, ANSWERS), scaling)
    start = 0
    for prompt, answers in zip(PROMPTS, ANSWERS, strict=True):
        of_prompt = list(range(start, start + prompt))
        start += prompt
        for length in answers:
            tokens = [*of_prompt, *range(start, start + length)]
            alone = scaled_dot_product_attention(
                query[:, :, tokens], key[:, :, tokens], value[:, :, tokens], is_causal=True, scale=scaling
            )
            torch.testing.assert_close(got[:, tokens], alone.transpose(1, 2), rtol=1e-5, atol=1e-6)
            start += length


def test_prompts_without_answers_are_attended_to():
    query, key, value = random_heads(sum(PROMPTS))
    layout = dense_layout(PROMPTS, [[], []])
    got, _ = packed_attention(torch.nn.Module(), query, key, value, layout)
    assert layout.blocks == ()
    assert got.shape == (1, 11, 2, 4)


@pytest.mark.parametrize("scaling", [None, 0.3])
def test_windows_of_one_size_and_of_several_are_attended_to_apart(scaling):
    query, key, value = random_heads(24)
    for ends in ([0, 8, 16, 24], [0, 4, 16, 24]):
        got, _ = window_attention(
            torch.nn.Module(), query, key, value, None, scaling, cu_seq_lens_q=torch.tensor(ends, dtype=torch.int32)
        )
        assert got.shape == (1, 24, 2, 4)
        for start, end in pairwise(ends):
            part = slice(start, end)
            alone = scaled_dot_product_attention(query[:, :, part], key[:, :, part], value[:, :, part], scale=scaling)
            torch.testing.assert_close(got[:, part], alone.transpose(1, 2), rtol=1e-5, atol=1e-6)


def flash(query, key, value, query_ends, key_ends, max_queries, max_keys, *, scale, window_size):
    """What Flash Attention does: each sequence by itself, all of one type; in a causal window queries are the last.

    Without a window torch 2.14 may take another backend, and another one backwards than forwards.
    """
    assert query.dtype == key.dtype == value.dtype
    assert query_ends.dtype == key_ends.dtype == torch.int32
    assert (max_queries, max_keys) == (query_ends.diff().max(), key_ends.diff().max())
    assert window_size == (-1, 0) or min(window_size) > max_keys
    attended = []
    for queries, keys in zip(pairwise(query_ends.tolist()), pairwise(key_ends.tolist()), strict=True):
        q, k, v = (each[slice(*span)].transpose(0, 1) for each, span in ((query, queries), (key, keys), (value, keys)))
        may_see = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)
        if window_size == (-1, 0):
            may_see = may_see.tril(k.shape[1] - q.shape[1])
        attended.append(scaled_dot_product_attention(q, k, v, attn_mask=may_see, scale=scale).transpose(0, 1))
    return torch.cat(attended)


@pytest.mark.parametrize("ends", [[0, 8, 16, 24], [0, 4, 16, 24]])
def test_windows_of_a_gpu_say_the_same(ends, monkeypatch):
    query, key, value = random_heads(24)
    cu_seq_lens, longest = torch.tensor(ends), max(end - start for start, end in pairwise(ends))

    def windows(query, key):
        kwargs = {"cu_seq_lens_q": cu_seq_lens, "max_length_q": longest}
        return window_attention(torch.nn.Module(), query, key, value, None, 0.3, **kwargs)[0]

    dense = windows(query, key)
    monkeypatch.setattr(attention, "attention_kind", lambda *_: "varlen")
    monkeypatch.setattr(attention, "flash_attention", flash)
    # Rotations may come in the type of the weights, values in that of the products.
    torch.testing.assert_close(windows(query.double(), key.double()), dense, rtol=1e-5, atol=1e-6)


def test_packed_groups_of_a_gpu_say_the_same_whatever_the_type_of_rotations(monkeypatch):
    query, key, value = random_heads(NUM_TOKENS)
    dense, _ = packed_attention(torch.nn.Module(), query, key, value, dense_layout(PROMPTS, ANSWERS), 0.3)
    monkeypatch.setattr(attention, "flash_attention", flash)
    layout = varlen_layout(PROMPTS, ANSWERS)
    got, _ = packed_attention(torch.nn.Module(), query.double(), key.double(), value, layout, 0.3)
    torch.testing.assert_close(got, dense, rtol=1e-5, atol=1e-6)
