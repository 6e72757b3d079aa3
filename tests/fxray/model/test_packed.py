import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fxray.errors import ModelError
from fxray.grammar.prompts import TEMPLATES
from fxray.model import attention
from fxray.model import head as heads
from fxray.model.adapter import POLICY, adapter_parameters, attach_adapter
from fxray.model.batch import PackedRow, pack
from fxray.model.head import AnswerHead, chosen_logprobs
from fxray.model.images import count_image_tokens, load_image_processor, preprocess
from fxray.model.load import load_model
from fxray.model.packed import PackedPolicy
from fxray.model.prompts import encode_prompt, load_tokenizer, render_prompt

BENCHMARK = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "packed_step.py"))
SIZES_PX = [(112, 112), (84, 140), (196, 56)]
ANSWER_LENGTHS = [(7, 1, 12), (4,), (3, 9)]


@pytest.fixture(scope="module")
def policy(random_model_dir):
    torch.set_num_threads(1)
    policy = PackedPolicy(
        attach_adapter(load_model(random_model_dir, dtype="float32"), rank=8, alpha=32, dropout=0, seed=0)
    )
    BENCHMARK["stir"](policy.model)
    return policy


@pytest.fixture(scope="module")
def rows(random_model_dir):
    """Prompts of three lengths, images of three shapes, and different numbers of answers, as masking leaves them."""
    rng = np.random.default_rng(0)
    tokenizer = load_tokenizer(random_model_dir)
    processor = load_image_processor(random_model_dir, min_pixels=56 * 56, max_pixels=112 * 140)
    made = []
    for index, (size, lengths) in enumerate(zip(SIZES_PX, ANSWER_LENGTHS, strict=True)):
        image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        pixel_values, grid_thw = preprocess(processor, [image])
        prompt = render_prompt(tokenizer, TEMPLATES[index])
        ids = np.array(encode_prompt(tokenizer, prompt, count_image_tokens(grid_thw, 2)[0]), np.int32)
        answers = tuple(rng.integers(20, 250, length).astype(np.int32) for length in lengths)
        made.append(PackedRow(f"sample-{index}", ids, answers, pixel_values, grid_thw[0]))
    assert len({len(row.prompt_token_ids) for row in made}) == 3
    return made


def base(policy):
    return policy.model.get_base_model()


def gradient_of(policy, logprobs):
    """Loss and gradient of a weighted sum that tells every token apart."""
    policy.zero_grad()
    loss = (logprobs * torch.linspace(-1, 1, len(logprobs))).sum()
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in adapter_parameters(policy.model, POLICY).values()])


def test_packed_groups_are_the_plain_form(policy, rows):
    with torch.no_grad():
        plain, got = BENCHMARK["plain_logprobs"](policy.model, rows), policy(pack(base(policy), rows), 1.0)
    torch.testing.assert_close(got, plain, rtol=0, atol=1e-5)
    assert plain.std() > 0.01


def test_gradients_are_those_of_the_plain_form(policy, rows):
    plain_loss, plain = gradient_of(policy, BENCHMARK["plain_logprobs"](policy.model, rows))
    loss, got = gradient_of(policy, policy(pack(base(policy), rows), 1.0))
    assert loss == pytest.approx(plain_loss, rel=1e-4)
    assert (got - plain).norm() / plain.norm() < 1e-4
    assert plain.norm() > 0


def test_passes_add_up_to_one_pass(policy, rows):
    weights = torch.linspace(-1, 1, sum(map(sum, ANSWER_LENGTHS)))
    parts = weights.split([sum(lengths) for lengths in ANSWER_LENGTHS])
    _, whole = gradient_of(policy, policy(pack(base(policy), rows), 1.0))
    policy.zero_grad()
    for row, part in zip(rows, parts, strict=True):
        (policy(pack(base(policy), [row]), 1.0) * part).sum().backward()
    added = torch.cat([p.grad.flatten() for p in adapter_parameters(policy.model, POLICY).values()])
    assert (added - whole).norm() / whole.norm() < 1e-5


def test_an_answer_does_not_see_its_neighbours(policy, rows):
    other = replace(rows[0], answers=(rows[0].answers[0], rows[0].answers[1] + 1, rows[0].answers[2] + 1))
    with torch.no_grad():
        first = policy(pack(base(policy), [rows[0]]), 1.0)[:7]
        second = policy(pack(base(policy), [other]), 1.0)[:7]
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def sequence_by_sequence(query, key, value, query_ends, key_ends, max_q, max_k, *, scale, window_size):
    """What Flash Attention does with sequences whose queries are the last of their keys, or with windows."""
    is_causal = window_size == (-1, 0)
    assert is_causal or min(window_size) > max_k
    assert (max_q, max_k) == (query_ends.diff().max(), key_ends.diff().max())
    parts = []
    for sequence in range(len(query_ends) - 1):
        q = query[query_ends[sequence] : query_ends[sequence + 1]].transpose(0, 1)
        span = slice(key_ends[sequence], key_ends[sequence + 1])
        repeats = len(q) // key.shape[1]
        k, v = (tensor[span].transpose(0, 1).repeat_interleave(repeats, 0) for tensor in (key, value))
        logits = q @ k.transpose(1, 2) * scale
        may_see = torch.ones(logits.shape[1:], dtype=torch.bool)
        if is_causal:
            may_see = may_see.tril(logits.shape[2] - logits.shape[1])
        parts.append((logits.masked_fill(~may_see, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(parts)


def test_the_sequences_of_a_gpu_say_the_same(policy, rows, monkeypatch):
    dense = pack(base(policy), rows)
    with torch.no_grad():
        expected = policy(dense, 1.0)
        monkeypatch.setattr(attention, "attention_kind", lambda *_: "varlen")
        monkeypatch.setattr(attention, "flash_attention", sequence_by_sequence)
        varlen = pack(base(policy), rows)
        assert isinstance(varlen.layout, attention.VarlenLayout)
        torch.testing.assert_close(policy(varlen, 1.0), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_logprobs_in_chunks_are_those_of_whole_logits(monkeypatch, is_frozen):
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 11, bias=False).requires_grad_(not is_frozen)
    hidden, target, excluded = torch.randn(10, 6), torch.randint(2, 11, (10,)), torch.arange(11) < 2
    whole = hidden.clone().requires_grad_()
    logits = whole @ head.weight.T / 0.7
    logits[:, :2] = -torch.inf
    expected = logits.log_softmax(-1).gather(1, target[:, None])[:, 0]
    expected.square().sum().backward()
    expected_of_head, head.weight.grad = head.weight.grad, None
    for budget in (3 * 11, 2**27, 1):
        monkeypatch.setattr(heads, "LOGITS_BUDGET", budget)
        leaf = hidden.clone().requires_grad_()
        got = chosen_logprobs(head.weight, leaf, target, 0.7, excluded)
        got.square().sum().backward()
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(leaf.grad, whole.grad)
        if not is_frozen:
            torch.testing.assert_close(head.weight.grad, expected_of_head)
        head.weight.grad = None


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_frozen", [False, True])
def test_compiled_logprobs_are_those_of_whole_logits(monkeypatch, is_frozen):
    monkeypatch.setattr(heads, "run_compiled", lambda function, *args: torch.compile(function)(*args))
    test_logprobs_in_chunks_are_those_of_whole_logits(monkeypatch, is_frozen)


def test_excluded_tokens_share_their_probability_among_the_rest(policy, rows):
    excluding = PackedPolicy(policy.model, excluded_ids=range(20))
    with torch.no_grad():
        batch = pack(base(policy), rows)
        assert (excluding(batch, 1.0) > policy(batch, 1.0)).all()


def test_the_head_says_where_its_weight_lies_what_is_excluded():
    """DeepSpeed moves no buffer beside weights that ZeRO-3 spreads: on the CPU it would meet a GPU's logits there."""
    head = AnswerHead(torch.nn.Linear(4, 8, bias=False, device="meta"), [2])
    assert {buffer.device.type for buffer in head.buffers()} == {"meta"}


def test_an_image_that_does_not_fill_its_placeholders_is_refused(policy, rows):
    odd = replace(rows[0], pixel_values=rows[1].pixel_values, grid_thw=rows[1].grid_thw)
    with pytest.raises(
        ModelError, match=r"sample-0: the prompt has 16 image placeholders, but the image makes 15 tokens"
    ):
        pack(base(policy), [odd])


def test_a_sampled_vision_token_is_refused(policy, rows):
    answer = rows[0].answers[0].copy()
    answer[3] = base(policy).config.image_token_id
    with pytest.raises(ModelError, match=r"sample-0: answer 1 contains a vision token"):
        pack(base(policy), [replace(rows[0], answers=(rows[0].answers[0], answer))])
    with pytest.raises(ModelError, match=r"answer 0 contains a vision token"):
        pack(base(policy), [rows[0]], forbidden_ids=[int(rows[0].answers[0][2])])


def test_a_model_whose_layers_do_not_all_see_everything_is_refused(random_model_dir):
    model = load_model(random_model_dir, dtype="float32")
    model.config.text_config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ModelError, match=r"\['sliding_attention'\], expected only full attention"):
        PackedPolicy(model)
