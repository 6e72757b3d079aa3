"""Base models of another family than the tiny one's, through the same code: a Qwen3-VL with random weights."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fxray.data.frame import sight_of, smart_frame
from fxray.grammar.prompts import TEMPLATES
from fxray.model.adapter import POLICY, adapter_parameters, attach_adapter
from fxray.model.images import count_image_tokens, load_image_processor, preprocess
from fxray.model.load import load_model
from fxray.model.packed import PackedPolicy, PackedRow, pack
from fxray.model.prompts import encode_prompt, load_tokenizer, render_prompt

BENCHMARK = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "packed_step.py"))
SIZES_PX = [(112, 112), (84, 140), (196, 56)]
ANSWER_LENGTHS = [(7, 1, 12), (4,), (3, 9)]
MIN_PIXELS, MAX_PIXELS = 64 * 64, 128 * 160


@pytest.fixture(scope="module")
def policy(random_qwen3_dir):
    torch.set_num_threads(1)
    model = load_model(random_qwen3_dir, dtype="float32")
    policy = PackedPolicy(attach_adapter(model, rank=8, alpha=32, dropout=0, seed=0))
    BENCHMARK["stir"](policy.model)
    return policy


@pytest.fixture(scope="module")
def rows(random_qwen3_dir):
    rng = np.random.default_rng(0)
    tokenizer, sight = load_tokenizer(random_qwen3_dir), sight_of(random_qwen3_dir)
    processor = load_image_processor(random_qwen3_dir, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    made = []
    for index, (size, lengths) in enumerate(zip(SIZES_PX, ANSWER_LENGTHS, strict=True)):
        image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        pixel_values, grid_thw = preprocess(processor, [image])
        frame = smart_frame(*size, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS, sight=sight)
        assert [frame.num_tokens] == count_image_tokens(grid_thw, 2)
        ids = encode_prompt(tokenizer, render_prompt(tokenizer, TEMPLATES[index]), frame.num_tokens)
        answers = tuple(rng.integers(20, 250, length).astype(np.int32) for length in lengths)
        made.append(PackedRow(f"sample-{index}", np.array(ids, np.int32), answers, pixel_values, grid_thw[0]))
    return made


def gradients_of(policy, logprobs):
    policy.zero_grad()
    (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
    return {name: each.grad.clone() for name, each in adapter_parameters(policy.model, POLICY).items()}


def test_packed_groups_and_their_gradients_are_those_of_the_plain_form(policy, rows):
    plain = BENCHMARK["plain_logprobs"](policy.model, rows)
    expected = gradients_of(policy, plain)
    packed = policy(pack(policy.model.get_base_model(), rows), 1.0)
    got = gradients_of(policy, packed)
    torch.testing.assert_close(packed, plain, rtol=0, atol=1e-5)
    assert plain.std() > 0.1
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() < 1e-4 * gradient.norm(), name
        assert gradient.norm() > 0, name


def test_an_adapter_sits_on_the_projectors_of_deeper_features_too(policy):
    names = {name.rpartition(".lora_")[0] for name in adapter_parameters(policy.model, POLICY)}
    assert len(names) == 3 * 7 + 3 * 4 + 3 * 2
    assert {name for name in names if "deepstack_merger_list.1" in name}
