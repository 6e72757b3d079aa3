"""Predicted bytes against counted ones, on models of real architecture and small shape."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig

from fxray.capacity.activations import Activations, Pass, count_activations
from fxray.capacity.memory import plan_memory
from fxray.capacity.plan import known_shape
from fxray.capacity.weights import count_weights
from fxray.config.load import load_config
from fxray.config.model_shape import ModelShape, read_shape
from fxray.model import head as heads
from fxray.model.adapter import attach_adapter
from fxray.model.batch import PackedRow, pack
from fxray.model.family import DRIVERS
from fxray.model.footprint import footprint
from fxray.model.head import LOGITS_BUDGET, chosen_logprobs
from fxray.model.load import load_model
from fxray.model.packed import PackedPolicy
from fxray.model.policy import TwoModels
from fxray.model.random import shape_config

CPU = torch.device("cpu")
RANK = 8
TEXT = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
VISION = ("depth", "hidden_size", "intermediate_size", "num_heads")
SIZES = {
    "long-image": ((256, 1024, 3, 8, 2), (3, 128, 384, 4), 1152, Pass(298, 1024, 32, 8, 1)),
    "wide": ((256, 1376, 3, 2, 1), (3, 320, 860, 4), 1152, Pass(106, 256, 24, 4, 1)),
    "deep": ((192, 512, 8, 6, 2), (2, 256, 700, 4), 1152, Pass(58, 64, 24, 8, 3)),
    "many-words": ((256, 1024, 2, 8, 2), (2, 128, 384, 4), 12000, Pass(298, 1024, 48, 2, 1)),
}
"""Language model, vision tower (numbers in the order of TEXT and VISION), vocabulary, and the size of a pass."""
OTHERS = ("qwen3-vl-2b", "internvl")
CASES = [*(("qwen2.5-vl-3b", name) for name in SIZES), *((like, name) for like in OTHERS for name in ("wide", "deep"))]


def build_of_tiles(
    folder: Path, text: tuple[int, ...], vision: tuple[int, ...], vocabulary: int, patches: int
) -> ModelShape:
    """Writes a random InternVL with tiles of so many patches."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    side_px = 14 * int(patches**0.5)
    config = AutoConfig.for_model(
        "internvl",
        text_config=dict(zip(TEXT, text, strict=True)) | {"vocab_size": vocabulary, "tie_word_embeddings": True},
        vision_config=dict(zip(names, vision, strict=True)) | {"image_size": side_px, "attention_bias": True},
        image_token_id=5,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    DRIVERS["internvl"].model_class(config).save_pretrained(folder)
    shape = read_shape(str(folder))
    assert isinstance(shape, ModelShape)
    return shape


def build(
    folder: Path, text: tuple[int, ...], vision: tuple[int, ...], vocabulary: int, like: str = "qwen2.5-vl-3b"
) -> ModelShape:
    """Writes a random model; returns its shape as a configuration check would read it."""
    parent = shape_config(like, num_layers=1)
    special = "deepstack_visual_indexes" if parent.model_type == "qwen3_vl" else "fullatt_block_indexes"
    half = text[0] // text[3] // 2
    rope = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [half - 2 * (half * 3 // 8), *[half * 3 // 8] * 2],
    }
    config = AutoConfig.for_model(
        parent.model_type,
        text_config=dict(zip(TEXT, text, strict=True))
        | {"vocab_size": vocabulary, "rope_parameters": rope, "head_dim": 2 * half},
        vision_config=dict(zip(VISION, vision, strict=True))
        | {"out_hidden_size": text[0], special: [vision[0] - 1], "num_position_embeddings": 256},
        tie_word_embeddings=True,
        **{name: getattr(parent, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id")},
    )
    torch.manual_seed(0)
    DRIVERS[parent.model_type].model_class(config).save_pretrained(folder)
    shape = read_shape(str(folder))
    assert isinstance(shape, ModelShape)
    return shape


def rows(model: Any, size: Pass) -> list[PackedRow]:
    side = int(size.patches**0.5)
    num_image = size.patches // 4
    words = size.prompt_tokens - num_image
    ids = [*[model.config.image_token_id] * num_image, *[7] * words]
    return [
        PackedRow(
            f"sample-{index}",
            np.array(ids, np.int32),
            tuple(np.full(size.answer_tokens, 9, np.int32) for _ in range(size.num_answers)),
            pixels(model, size),
            torch.tensor([1, side, side]),
        )
        for index in range(size.num_groups)
    ]


def pixels(model: Any, size: Pass) -> torch.Tensor:
    if model.config.model_type == "internvl":
        return torch.randn(1, 3, *model.config.vision_config.image_size)
    return torch.randn(size.patches, 3 * 2 * model.config.vision_config.patch_size**2)


class LeftOutProducts(TorchDispatchMode):
    """Products have bytes, but no values: a CPU without bfloat16 takes four fifths of a pass for them."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.mm.default:
            return args[0].new_zeros(len(args[0]), args[1].shape[1])
        return args[0] if function is torch.ops.aten.addmm_.default else function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("dtype", "is_checkpointed", "dropout"),
    [
        ("float32", False, 0.0),
        ("bfloat16", False, 0.0),
        ("bfloat16", True, 0.0),
        ("bfloat16", False, 0.1),
    ],
)
@pytest.mark.parametrize(("like", "name"), CASES)
def test_predicted_and_counted_bytes_of_a_pass_differ_by_less_than_15_percent(
    tmp_path: Path, like: str, name: str, dtype: str, is_checkpointed: bool, dropout: float
) -> None:
    text, vision, vocabulary, size = SIZES[name]
    if like == "internvl":
        shape = build_of_tiles(tmp_path, text, vision, vocabulary, size.patches)
    else:
        shape = build(tmp_path, text, vision, vocabulary, like)
    model = load_model(tmp_path, dtype=dtype)
    if is_checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    peft_model = attach_adapter(model, rank=RANK, alpha=32, dropout=dropout, seed=0).train()
    policy, batch = PackedPolicy(peft_model), pack(model, rows(model, size))
    assert len(batch.input_ids_T) == size.tokens
    with LeftOutProducts(), footprint(CPU) as whole:
        with footprint(CPU) as forward:
            logprobs = policy(batch, 1.0)
        logprobs.sum().backward()
    predicted = count_activations(
        shape,
        size,
        rank=RANK,
        bytes_per_number=model.dtype.itemsize,
        is_checkpointed=is_checkpointed,
        is_on_gpu=False,
        max_logits=LOGITS_BUDGET,
        is_dropping=dropout > 0,
    )
    ratio, case = predicted.peak / whole.peak_bytes, f"{like}, {name}, {dtype}, recomputed {is_checkpointed}"
    print(f"{case}, dropout {dropout}: {ratio:.3f} of {whole.peak_bytes / 1e6:.1f} MB")
    assert predicted.kept == pytest.approx(forward.left_bytes, rel=0.15)
    assert predicted.peak == pytest.approx(whole.peak_bytes, rel=0.15)


@pytest.mark.parametrize("name", ["wide", "deep"])
def test_layers_that_are_made_again_have_no_narrow_copy_of_all_weights_beside_them(tmp_path: Path, name: str) -> None:
    text, vision, vocabulary, size = SIZES[name]
    weights = count_weights(build(tmp_path, text, vision, vocabulary)).total
    model = load_model(tmp_path, dtype="float32").requires_grad_(requires_grad=True).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = PackedPolicy(TwoModels(model), dtype=torch.bfloat16)
    batch = pack(model, rows(model, size), dtype=torch.bfloat16)
    with footprint(CPU) as forward:
        logprobs = policy(batch, 1.0)
    assert logprobs.requires_grad
    assert forward.peak_bytes - forward.left_bytes < weights  # a narrow copy takes two bytes a weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_in_chunks_are_the_plain_ones_in_a_fraction_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(32, 8000, bias=False).to(dtype).requires_grad_(requires_grad=False)
    hidden = torch.randn(512, 32, generator=generator).to(dtype)
    target = torch.randint(5, 8000, (512,), generator=generator)
    results = []
    for budget in (2**30, 64 * 8000):
        monkeypatch.setattr(heads, "LOGITS_BUDGET", budget)
        leaf = hidden.clone().requires_grad_()
        with footprint(CPU) as memory:
            logprobs = chosen_logprobs(head.weight, leaf, target, 0.8, torch.arange(8000) == 3)
            logprobs.sum().backward()
        results.append((logprobs.detach(), leaf.grad, memory.peak_bytes))
    (plain, plain_gradient, plain_bytes), (chunked, chunked_gradient, chunked_bytes) = results
    torch.testing.assert_close(chunked, plain, rtol=0, atol=2e-6 if dtype == torch.float32 else 0)
    torch.testing.assert_close(chunked_gradient, plain_gradient, rtol=1e-5, atol=1e-6)
    assert plain_bytes == pytest.approx(3 * 512 * 8000 * 4, rel=0.03)
    assert chunked_bytes == pytest.approx(2 * 64 * 8000 * 4, rel=0.1)


def test_a_hand_counted_pass() -> None:
    """One layer of width 2, inner width 3, one head and key head of size 2; one block of width 4, inner width 5."""
    shape = ModelShape.model_validate(
        {
            "max_position_embeddings": 99,
            "hidden_size": 2,
            "intermediate_size": 3,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "vocab_size": 7,
            "vision": {"depth": 1, "hidden_size": 4, "intermediate_size": 5, "num_heads": 1, "out_hidden_size": 2},
        }
    )
    size = Pass(prompt_tokens=6, patches=16, answer_tokens=3, num_answers=2, num_groups=1)
    assert (size.tokens, size.learnt_tokens, size.gathered_keys) == (12, 6, 24)
    layer = 4 * (12 * (7 * 2 + 4 * 3 + 7 * 1 + 2 * 2) + 2 * 24 * 2)
    block = 4 * 16 * (11 * 4 + 4 * 5 + 5 * 1)
    ends = 4 * (16 * 4 * 4 + 2 * (12 * 2 + 6) + 6 * 12 * 2)
    logits = 4 * 6 * 7
    assert count_activations(
        shape,
        size,
        rank=1,
        bytes_per_number=4,
        is_checkpointed=False,
        is_on_gpu=False,
        max_logits=10**9,
    ) == Activations(kept=layer + block + ends + logits, recomputed=0, logits=2 * logits)


def test_whole_weights_whose_layers_are_made_again_have_a_narrow_copy_of_one_layer() -> None:
    """Of 3B with 12 layers the allocator of a GPU whose kernels do nothing counted 31.95 GiB, the plan says 32.52."""
    tree = load_config("qwen2.5-vl-3b", ["model.lora=null", "model.gradient_checkpointing=true"])
    shape = known_shape(tree)
    learner = plan_memory(tree, shape, 0).roles[1]
    of_layer = 2 * 2048 * 2048 + 2048 + 2 * (2048 * 256 + 256) + 3 * 2048 * 11008
    assert [each.num_bytes for each in learner.parts if each.name == "weights cast for a pass"] == [2 * of_layer]

    size = Pass(prompt_tokens=6, patches=0, answer_tokens=3, num_answers=2, num_groups=1)
    adapter, whole = (
        count_activations(
            shape, size, rank=rank, bytes_per_number=2, is_checkpointed=True, is_on_gpu=True, max_logits=10**9
        )
        for rank in (8, 0)
    )
    handed_on = 36 * 12 * 2048 * 2  # in float32, as their embeddings are
    of_last_norm = 12 * 2048 * 2
    assert whole.kept - adapter.kept == handed_on + of_last_norm
