"""Base models of other families than the tiny one's, through the same code: random weights of each."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fxray.data.frame import sight_of, smart_frame
from fxray.grammar.prompts import TEMPLATES
from fxray.model.adapter import POLICY, adapter_parameters, attach_adapter
from fxray.model.batch import PackedRow, pack
from fxray.model.family import DRIVERS
from fxray.model.images import count_image_tokens, load_image_processor, preprocess
from fxray.model.load import load_model
from fxray.model.packed import PackedPolicy
from fxray.model.policy import WholePolicy
from fxray.model.prompts import encode_prompt, load_tokenizer, render_prompt

BENCHMARK = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "packed_step.py"))
SIZES_PX = [(112, 112), (84, 140), (196, 56)]
ANSWER_LENGTHS = [(7, 1, 12), (4,), (3, 9)]
MIN_PIXELS, MAX_PIXELS = 64 * 64, 128 * 160


FAMILIES = ["random_qwen3_dir", "random_internvl_dir"]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def policy(folder):
    torch.set_num_threads(1)
    model = load_model(folder, dtype="float32")
    policy = PackedPolicy(attach_adapter(model, rank=8, alpha=32, dropout=0, seed=0))
    BENCHMARK["stir"](policy.model)
    return policy


@pytest.fixture(scope="module")
def rows(folder):
    return make_rows(folder)


def make_rows(folder):
    rng = np.random.default_rng(0)
    tokenizer, sight = load_tokenizer(folder), sight_of(folder)
    processor = load_image_processor(folder, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
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


@pytest.mark.parametrize("folder", [*FAMILIES, "random_model_dir"], indirect=True)
def test_a_pass_asks_a_gpu_for_no_number(folder, asking_nothing):
    torch.set_num_threads(1)
    model = load_model(folder, dtype="float32")
    policy = PackedPolicy(attach_adapter(model, rank=8, alpha=32, dropout=0, seed=0), excluded_ids=[1, 2])
    batch = pack(model, make_rows(folder))
    with asking_nothing:
        logprobs = policy(batch, 0.7)
        logprobs.sum().backward()
    assert len(logprobs) == sum(map(sum, ANSWER_LENGTHS))
    assert all(each.grad is not None for each in adapter_parameters(policy.model, POLICY).values())


def adapted(folder):
    model = attach_adapter(load_model(folder, dtype="float32"), rank=8, alpha=32, dropout=0, seed=0)
    return {
        name.rpartition(".lora_")[0].removeprefix("base_model.model.") for name in adapter_parameters(model, POLICY)
    }


def test_an_adapter_of_a_qwen3_vl_sits_on_the_projectors_of_deeper_features_too(random_qwen3_dir):
    names = adapted(random_qwen3_dir)
    assert len(names) == 3 * 7 + 3 * 4 + 3 * 2
    assert {name for name in names if "deepstack_merger_list.1" in name}


def test_an_adapter_of_an_internvl_sits_on_the_language_model_alone(random_internvl_dir):
    names = adapted(random_internvl_dir)
    assert len(names) == 3 * 7
    assert {name.split(".")[1] for name in names} == {"language_model"}


def test_tiles_are_seen_with_gradients_only_where_what_sees_them_learns(random_internvl_dir):
    model = load_model(random_internvl_dir, dtype="float32").requires_grad_(requires_grad=False)
    model.enable_input_require_grads()  # as recomputed activations need it
    pixel_values = make_rows(random_internvl_dir)[0].pixel_values

    def has_gradients():
        return DRIVERS["internvl"].see(model, pixel_values, {}).features_ID.requires_grad

    assert not has_gradients()
    model.model.multi_modal_projector.requires_grad_(requires_grad=True)
    assert has_gradients()
    with torch.no_grad():
        assert not has_gradients()


def test_all_weights_of_an_internvl_have_the_gradients_of_the_plain_form(random_internvl_dir):
    rows = make_rows(random_internvl_dir)
    torch.set_num_threads(1)
    policy = WholePolicy(lambda dtype: load_model(random_internvl_dir, dtype=dtype), random_internvl_dir, "float32")
    plain = BENCHMARK["plain_logprobs"](policy.model, rows)
    packed = PackedPolicy(policy.model)(pack(policy.base, rows), 1.0)
    torch.testing.assert_close(packed, plain, rtol=0, atol=1e-5)
    weights = torch.linspace(-1, 1, len(plain))
    expected = torch.autograd.grad((plain * weights).sum(), list(policy.parameters.values()))
    got = torch.autograd.grad((packed * weights).sum(), list(policy.parameters.values()))
    for name, gradient, other in zip(policy.parameters, expected, got, strict=True):
        if "vision_tower" in name and name.endswith("k_proj.bias"):  # adds the same to all scores of a query
            assert gradient.norm() < 1e-8
            assert other.norm() < 1e-8
        else:
            assert (other - gradient).norm() < 1e-4 * gradient.norm(), name
            assert gradient.norm() > 0, name
