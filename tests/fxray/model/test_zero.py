"""ZeRO-3 over two ranks whose passes have other numbers of tokens: every rank takes part in the same exchanges."""

import multiprocessing
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from fxray.grammar.prompts import TEMPLATES
from fxray.model import head
from fxray.model.batch import PackedRow, pack
from fxray.model.family import DRIVERS
from fxray.model.images import count_image_tokens, load_image_processor, preprocess
from fxray.model.load import load_model
from fxray.model.packed import PackedPolicy
from fxray.model.policy import Policy, make_policy
from fxray.model.prompts import encode_prompt, load_tokenizer, render_prompt

DEADLINE_S = 60
ANSWER_LENGTHS = ((30, 60, 12), (60, 5, 40))
"""Of each rank, pass by pass."""


def row_of(model_dir: Path, num_tokens: int) -> PackedRow:
    rng = np.random.default_rng(num_tokens)
    tokenizer, processor = load_tokenizer(model_dir), load_image_processor(model_dir, min_pixels=3136, max_pixels=3136)
    image = Image.fromarray(rng.integers(0, 255, (56, 56, 3), dtype=np.uint8))
    pixel_values, grid_thw = preprocess(processor, [image])
    config = AutoConfig.from_pretrained(model_dir)
    (num_seen,) = count_image_tokens(grid_thw, DRIVERS[config.model_type].merge_size(config))
    ids = np.array(encode_prompt(tokenizer, render_prompt(tokenizer, TEMPLATES[0]), num_seen), np.int32)
    answer = rng.integers(20, 250, num_tokens).astype(np.int32)
    return PackedRow(f"sample-{num_tokens}", ids, (answer,), pixel_values, grid_thw[0])


def policy_of(model_dir: Path, lora_rank: int, stage: int) -> Policy:
    from fxray.model.zero import sharded_loading

    def load(dtype: str) -> Any:
        with sharded_loading(stage):
            return load_model(model_dir, dtype=dtype)

    torch.set_num_threads(1)
    return make_policy(load, model_dir, dtype="float32", lora_rank=lora_rank, lora_alpha=32, lora_dropout=0, seed=0)


def learn(
    model_dir: Path, lora_rank: int, lengths: list[int], *, is_recomputing: bool
) -> tuple[list[float], float, int, float]:
    """Sums of log-probabilities pass by pass, the norm of the gradient, and the number of tensors of the optimizer.

    Before each pass the reference answers, as in an update. Also by how much the policy is off that was moved a quarter
    of its way to the reference; 0 on all ranks but one.
    """
    from fxray.model.zero import ZeroEngine

    policy = policy_of(model_dir, lora_rank, 3)
    policy.add_reference()
    if is_recomputing:
        policy.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert head.LOGITS_BUDGET // policy.base.config.text_config.vocab_size < 12  # some chunks in every pass
    module = PackedPolicy(policy.model)
    engine = ZeroEngine(module, policy.parameters, stage=3, weight_decay=0, max_grad_norm=1e9)
    said = []
    for number, num_tokens in enumerate(lengths):
        batch = pack(policy.base, [row_of(model_dir, num_tokens)])
        with torch.no_grad(), policy.as_reference():
            engine(batch, 1.0)
        logprobs = engine(batch, 1.0)
        engine.backward(logprobs.sum(), is_last=number == len(lengths) - 1)
        said.append(logprobs.sum().item())
    norm = engine.step(0.01)
    policy_before, reference = engine.read(policy.parameters), engine.read(policy.reference)
    engine.lerp(policy.parameters, policy.reference, 0.25)
    moved = engine.read(policy.parameters)
    off = [(moved[name] - 0.75 * tensor - 0.25 * reference[name]).abs().max() for name, tensor in policy_before.items()]
    assert not policy_before or any(not torch.equal(moved[name], tensor) for name, tensor in policy_before.items())
    return said, norm, len(engine.optimizer_state()), max(map(float, off), default=0.0)


def work(rank: int, num_ranks: int, meeting: str, told: Any, is_recomputing: Any, *args: Any) -> None:
    head.LOGITS_BUDGET = 4000
    os.environ["LOCAL_RANK"] = "0"
    try:
        deadline = timedelta(seconds=DEADLINE_S)
        torch.distributed.init_process_group("gloo", f"file://{meeting}", deadline, num_ranks, rank)
        told.put((rank, learn(*args, is_recomputing=is_recomputing)))
    except Exception as error:
        told.put((rank, error))
        raise


def run_ranks(
    folder: Path, model_dir: Path, lora_rank: int, lengths: list[list[int]], *, is_recomputing: bool
) -> list[tuple]:
    context = multiprocessing.get_context("spawn")
    told, meeting = context.Queue(), str(folder / f"meeting-{len(lengths)}")
    ranks = [
        context.Process(
            target=work, args=(rank, len(lengths), meeting, told, is_recomputing, model_dir, lora_rank, own)
        )
        for rank, own in enumerate(lengths)
    ]
    for rank in ranks:
        rank.start()
    try:
        found = dict(told.get(timeout=3 * DEADLINE_S) for _ in ranks)
    finally:
        for rank in ranks:
            rank.join(5)
            rank.kill()
    return [found[rank] for rank in range(len(ranks))]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("model", "lora_rank", "is_recomputing"),
    [
        ("random_model_dir", 8, False),
        pytest.param("random_model_dir", 8, True, marks=pytest.mark.long),
        pytest.param("random_model_dir", 0, False, marks=pytest.mark.long),
        pytest.param("random_qwen3_dir", 8, True, marks=pytest.mark.long),
        pytest.param("random_internvl_dir", 8, False, marks=pytest.mark.long),
    ],
    ids=["adapter", "adapter, recomputing", "whole", "Qwen3-VL", "InternVL"],
)
def test_ranks_with_other_numbers_of_tokens_do_not_wait_for_each_other(
    tmp_path, request, model, lora_rank, is_recomputing
):
    model_dir = request.getfixturevalue(model)
    lengths = [list(own) for own in ANSWER_LENGTHS]
    first, second = run_ranks(tmp_path, model_dir, lora_rank, lengths, is_recomputing=is_recomputing)
    policy = policy_of(model_dir, lora_rank, 0)
    alone = PackedPolicy(policy.model)
    said = [alone(pack(policy.base, [row_of(model_dir, n)]), 1.0).sum() for own in ANSWER_LENGTHS for n in own]
    sum(said).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in policy.parameters.values() if p.grad is not None]).item()
    assert [*first[0], *second[0]] == pytest.approx([each.item() for each in said], rel=1e-5)
    assert (first[1], second[1]) == pytest.approx((norm, norm), rel=1e-4)
    assert (first[2], second[2]) == (1 + 2 * len(policy.parameters), 0)  # only one keeps the moments
    assert (first[3], second[3]) == (pytest.approx(0, abs=1e-6), 0)
