"""Engine and learner where users run them. Numbers that a record wants are printed: run with `-s`."""

import hashlib
import time
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fxray.engine.engine import Question
from fxray.errors import ResourceError
from fxray.grammar.prompts import TEMPLATES
from fxray.grpo.types import AdapterBlob, SamplingSettings

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(420)]
FOUR = SamplingSettings(group_size=4, temperature=1.0, max_new_tokens=48)
GREEDY = SamplingSettings(group_size=1, temperature=0.0, max_new_tokens=32)


class Policy:
    """The learner's model on the GPU, packed and plain."""

    def __init__(
        self, place: Any, *, dtype: str | None = None, is_checkpointed: bool = False, dropout: float = 0.0
    ) -> None:
        from fxray.model.adapter import POLICY, adapter_parameters, attach_adapter
        from fxray.model.images import load_image_processor
        from fxray.model.load import load_model
        from fxray.model.packed import PackedPolicy
        from fxray.model.prompts import forbidden_ids, load_tokenizer

        self.place, self.tokenizer = place, load_tokenizer(place.model)
        self.processor = load_image_processor(place.model, min_pixels=3136, max_pixels=place.side_px**2)
        self.base = load_model(place.model, dtype=dtype or place.dtype).to(place.device)
        self.embedding = self.base.model.visual.patch_embed.proj
        if is_checkpointed:
            self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model = attach_adapter(self.base, rank=8, alpha=32, dropout=dropout, seed=0).to(place.device).train()
        self.parameters = adapter_parameters(self.model, POLICY)
        self.packed = PackedPolicy(self.model, forbidden_ids(self.tokenizer)).to(place.device)

    def questions(self, *seeds: int) -> list[Question]:
        from fxray.model.prompts import render_prompt

        rng, side = np.random.default_rng(0), self.place.side_px
        images = [Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in seeds]
        return [
            Question(render_prompt(self.tokenizer, TEMPLATES[i % 9]), image, seed, f"sample-{i}")
            for i, (seed, image) in enumerate(zip(seeds, images, strict=True))
        ]

    def rows(self, questions: list[Question], answers: list[list[np.ndarray]]) -> list[Any]:
        from fxray.model.batch import PackedRow
        from fxray.model.images import count_image_tokens, preprocess
        from fxray.model.prompts import encode_prompt

        rows = []
        for question, of_question in zip(questions, answers, strict=True):
            pixels, grid = preprocess(self.processor, [question.image])
            ids = np.array(encode_prompt(self.tokenizer, question.prompt, count_image_tokens(grid, 2)[0]), np.int32)
            rows.append(PackedRow(question.where, ids, tuple(of_question), pixels, grid[0]))
        return rows

    def logprobs(self, rows: list[Any], temperature: float = 1.0) -> torch.Tensor:
        from fxray.model.batch import pack

        return self.packed(pack(self.base, rows).to(self.base.device), temperature)

    def randomise(self, seed: int, scale: float = 0.02) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)

    def blob(self, version: int) -> AdapterBlob:
        from fxray.model.adapter import POLICY, adapter_bytes

        content, config = adapter_bytes(self.model, POLICY)
        return AdapterBlob(version, content, config, hashlib.sha256(content).hexdigest(), len(self.parameters) // 2)

    def gap(self, questions: list[Question], drawn: list[Any], *, with_adapter: bool = True) -> torch.Tensor:
        """Learner minus sampler, per token."""
        import contextlib

        rows = self.rows(questions, [[rollout.token_ids for rollout in answers.rollouts] for answers in drawn])
        with torch.no_grad(), contextlib.nullcontext() if with_adapter else self.model.disable_adapter():
            learner = self.logprobs(rows).cpu()
        sampler = np.concatenate([rollout.logprobs for answers in drawn for rollout in answers.rollouts])
        return learner - torch.from_numpy(sampler)


@pytest.fixture(scope="module")
def policy(place: Any) -> Policy:
    return Policy(place)


@pytest.mark.parametrize("runner", ["0", "1"])
def test_sampler_and_learner_agree_for_base_adapter_and_every_sync(
    place: Any, policy: Policy, start_engine: Any, runner: str
) -> None:
    if runner == "1" and not place.is_gpu:
        pytest.skip("the second model runner needs a GPU")
    engine = start_engine({"VLLM_USE_V2_MODEL_RUNNER": runner})
    questions = policy.questions(1, 2, 3)
    gap = policy.gap(questions, engine("generate", questions, FOUR), with_adapter=False)
    assert gap.abs().max() < place.tolerance_nats
    for version in (1, 2):
        policy.randomise(version)
        assert engine("load_policy", policy.blob(version)).num_bound_modules == len(policy.parameters) // 2
        drawn = engine("generate", questions, FOUR)
        gap = policy.gap(questions, drawn)
        importance = gap.exp().clamp(max=2.0)
        print(
            f"runner V{int(runner) + 1}, sync {version}: |difference| mean {gap.abs().mean():.2e}, max "
            f"{gap.abs().max():.2e} nats; importance weight mean {importance.mean():.4f}, std {importance.std():.4f}"
        )
        assert gap.abs().max() < place.tolerance_nats
        assert policy.gap(questions, drawn, with_adapter=False).abs().max() > 2 * place.tolerance_nats


def test_a_sleeping_engine_gives_its_memory_away_and_wakes_with_its_adapter(
    place: Any, policy: Policy, start_engine: Any
) -> None:
    if not place.is_gpu:
        pytest.skip("vLLM sleeps on GPUs only")
    overrides = ["rollout.sleep=true", "rollout.gpus_per_worker=0.6", "learner.gpus_per_rank=0.4"]
    engine = start_engine({}, *overrides)
    questions = policy.questions(1, 2)
    policy.randomise(3)
    engine("load_policy", policy.blob(1))
    before = [answers.rollouts[0].token_ids.tolist() for answers in engine("generate", questions, GREEDY)]
    free_awake, total = torch.cuda.mem_get_info()
    start_s = time.monotonic()
    engine("sleep")
    slept_s = time.monotonic() - start_s
    free_asleep, _ = torch.cuda.mem_get_info()
    assert free_asleep - free_awake > 0.3 * total
    start_s = time.monotonic()
    drawn = engine("generate", questions, FOUR)
    print(f"sleep {slept_s:.2f} s, wake and answer {time.monotonic() - start_s:.2f} s")
    assert policy.gap(questions, drawn).abs().max() < place.tolerance_nats
    assert [a.rollouts[0].token_ids.tolist() for a in engine("generate", questions, GREEDY)] == before


def test_packed_and_plain_have_the_same_loss_and_gradients(place: Any) -> None:
    policy = Policy(place, dtype="float32")
    policy.randomise(4)
    questions, rng = policy.questions(1, 2), np.random.default_rng(1)
    answers = [[rng.integers(20, 500, length).astype(np.int32) for length in (25, 31, 45)] for _ in questions]
    rows = policy.rows(questions, answers)
    alone = [
        type(row)(row.sample_id, row.prompt_token_ids, (a,), row.pixel_values, row.grid_thw)
        for row in rows
        for a in row.answers
    ]
    results = []
    for passes in ([rows], [[row] for row in alone]):
        policy.model.zero_grad()
        logprobs = torch.cat([policy.logprobs(each) for each in passes])
        loss = (logprobs * torch.linspace(-1, 1, logprobs.numel(), device=logprobs.device)).sum()
        loss.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in policy.parameters.values()])
        results.append((loss.item(), gradient))
    (packed, packed_gradient), (plain, plain_gradient) = results
    relative = float((packed_gradient - plain_gradient).norm() / plain_gradient.norm())
    print(f"packed against one answer a row: loss {abs(packed - plain) / abs(plain):.1e}, gradient {relative:.1e}")
    assert packed == pytest.approx(plain, rel=1e-4)
    assert relative < 1e-3


def test_fused_operations_are_as_near_to_float32_as_what_they_replace(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fxray.model.head.LOGITS_BUDGET", 2**22)  # log-probabilities come in chunks
    results = []
    for dtype, is_fused in ((place.dtype, True), (place.dtype, False), ("float32", False)):
        policy = Policy(place, dtype=dtype)
        policy.randomise(4)
        questions, rng = policy.questions(1, 2), np.random.default_rng(1)
        answers = [[rng.integers(20, 500, length).astype(np.int32) for length in (25, 31, 45)] for _ in questions]
        if not is_fused:
            for module in policy.model.modules():
                if isinstance(module.__dict__.get("forward"), partial) and module is not policy.embedding:
                    del module.forward
        logprobs = policy.logprobs(policy.rows(questions, answers))
        (logprobs * torch.linspace(-1, 1, logprobs.numel(), device=logprobs.device)).sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in policy.parameters.values()])
        results.append((logprobs.detach(), gradient))
    exact, exact_gradient = results[2]
    (fused, fused_gap), (replaced, gap) = [
        (float((logprobs - exact).abs().mean()), float((gradient - exact_gradient).norm() / exact_gradient.norm()))
        for logprobs, gradient in results[:2]
    ]
    print(f"against float32: values {fused:.1e} (replaced {replaced:.1e}), gradient {fused_gap:.1e} ({gap:.1e})")
    assert fused <= 1.25 * replaced + 1e-6
    assert fused_gap <= 1.25 * gap + 1e-6


@pytest.mark.null
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_pass_never_waits_for_the_gpu(place: Any, policy: Policy) -> None:
    if not place.is_gpu:
        pytest.skip("tests/fxray/model/test_families.py sees to it on a CPU")
    questions = policy.questions(1, 2)
    rows = policy.rows(questions, [[np.full(64, 40, np.int32)] * 4 for _ in questions])
    policy.logprobs(rows).sum().backward()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        policy.logprobs(rows).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(parameter.grad is not None for parameter in policy.parameters.values())


@pytest.mark.null
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_the_plans_activations_are_what_the_allocator_counts(place: Any, is_checkpointed: bool, dropout: float) -> None:
    from fxray.capacity.activations import Pass, count_activations
    from fxray.config.model_shape import read_shape
    from fxray.model.footprint import footprint
    from fxray.model.head import LOGITS_BUDGET

    policy = Policy(place, is_checkpointed=is_checkpointed, dropout=dropout)
    questions = policy.questions(1, 2)
    rows = policy.rows(questions, [[np.full(128, 40, np.int32)] * 8 for _ in questions])
    size = Pass(len(rows[0].prompt_token_ids), len(rows[0].pixel_values), 128, 8, 2)
    policy.logprobs(rows).sum().backward()  # compiles, and makes the gradients' own memory
    with footprint(torch.device(place.device)) as memory:
        policy.logprobs(rows).sum().backward()
    shape = read_shape(str(place.model))
    predicted = count_activations(
        shape,
        size,
        rank=8,
        bytes_per_number=policy.base.dtype.itemsize,
        is_checkpointed=is_checkpointed,
        is_on_gpu=place.is_gpu,
        max_logits=LOGITS_BUDGET,
        is_dropping=dropout > 0,
    )
    print(
        f"{size.tokens} tokens: counted {memory.peak_bytes / 2**30:.3f} GiB, the plan says {predicted.peak / 2**30:.3f}"
    )
    assert predicted.peak == pytest.approx(memory.peak_bytes, rel=0.15 if place.is_gpu else 0.2)


def test_running_out_of_memory_gives_the_plans_advice(place: Any) -> None:
    if not place.is_gpu:
        pytest.skip("a CPU has no such error")
    from fxray.config.load import load_config
    from fxray.launch.devices import check_gpus, look_at_gpu

    found = look_at_gpu()
    config = load_config("qwen2.5-vl-3b", ["model.path=Qwen/Qwen2.5-VL-32B-Instruct"])
    with pytest.raises(ResourceError, match="GiB of GPU memory by the plan") as caught:
        check_gpus(config, 1, look=lambda _: found)
    assert "fxray plan" in caught.value.remedy
