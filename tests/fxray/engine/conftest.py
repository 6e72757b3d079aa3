"""An engine in a process of its own, on a model that would love to sample what is forbidden, and its twin in PEFT."""

import gc
import hashlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "actors"))

from small_engine import small_engine

from fxray.engine.engine import Answers, Engine, Question
from fxray.engine.settings import EngineSettings
from fxray.grammar.probability import VerdictTokens
from fxray.grammar.prompts import TEMPLATES
from fxray.grpo.types import AdapterBlob, SamplingSettings, WeightsBlob

RANK = 8


class EngineUnderTest(Engine):
    def sync_by(self, how: str) -> None:
        self._settings = replace(self._settings, sync=how)

    def pass_over(self, method: str) -> None:
        """From now on a method of the workers is acknowledged and not called."""
        on_workers = self._on_workers
        self._on_workers = lambda name, *args: None if name == method else on_workers(name, *args)

    def take_as_verdicts(self, tokens: VerdictTokens) -> None:
        self._verdicts = tokens

    def stream_all(self, questions: list[Question], sampling: SamplingSettings) -> dict[str, Answers]:
        """Gives questions out one at a time, now and then none."""
        todo, is_ready = list(questions), iter([True, False] * len(questions))

        def take(*, wait: bool) -> Question | None:
            return todo.pop(0) if todo and (wait or next(is_ready)) else None

        return dict(self.stream(SimpleNamespace(take=take), sampling))

    def generate_in_threads(self, questions: list[Question], sampling: SamplingSettings) -> list[list[Answers]]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda _: self.generate(questions, sampling), range(4)))

    def see_another_off(self) -> None:
        """Another engine comes up in this process, and goes."""
        Engine(self._settings)
        gc.collect()

    def acknowledge_only(self, blob: AdapterBlob) -> Any:
        proof = self.load_policy(blob)
        self.use_base_model()
        return proof


@pytest.fixture(scope="module")
def settings(random_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineSettings:
    """Settings for a copy of the random model in which forbidden tokens have thirtyfold embeddings, hence logits."""
    from fxray.model.load import load_model
    from fxray.model.prompts import forbidden_ids, load_tokenizer

    folder = tmp_path_factory.mktemp("hostile")
    model = load_model(random_model_dir, dtype="float32")
    model.get_input_embeddings().weight.data[forbidden_ids(load_tokenizer(random_model_dir))] *= 30
    model.save_pretrained(folder)
    for file in random_model_dir.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    return small_engine(folder, lora_rank=RANK)


@contextmanager
def running(settings: EngineSettings, **environment: str) -> Iterator[Callable[..., Any]]:
    """Calls a method of an engine that lives in an actor: `engine("generate", questions, sampling)`."""
    options = {"num_cpus": 0, "runtime_env": {"env_vars": environment}}
    actor = ray.remote(EngineUnderTest).options(**options).remote(settings)
    try:
        yield lambda method, *args: ray.get(getattr(actor, method).remote(*args), timeout=280)
    finally:
        ray.kill(actor)


@pytest.fixture(scope="module")
def vllms_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def engine(cluster: None, settings: EngineSettings, vllms_cache: Path) -> Iterator[Callable[..., Any]]:
    """The engine that most tests share, which finds nothing in vLLM's cache."""
    with running(settings, VLLM_CACHE_ROOT=str(vllms_cache)) as call:
        yield call


@pytest.fixture
def parallel_engine(cluster: None, settings: EngineSettings) -> Iterator[Callable[..., Any]]:
    """An engine whose model lies on two ranks."""
    with running(replace(settings, tensor_parallel_size=2)) as call:
        yield call


@pytest.fixture(scope="module")
def twin(settings: EngineSettings) -> "Twin":
    return Twin(settings)


class Twin:
    """The same model in transformers and PEFT, one answer at a time."""

    def __init__(self, settings: EngineSettings) -> None:
        from fxray.model.adapter import POLICY, attach_adapter
        from fxray.model.images import load_image_processor
        from fxray.model.load import load_model
        from fxray.model.prompts import forbidden_ids, load_tokenizer

        self.name = POLICY
        self.tokenizer = load_tokenizer(settings.model_path)
        pixels = {"min_pixels": settings.min_pixels, "max_pixels": settings.max_pixels}
        self.image_processor = load_image_processor(settings.model_path, **pixels)
        model = load_model(settings.model_path, dtype="float32")
        self.image_token_id = model.config.image_token_id
        self.model = attach_adapter(model, rank=RANK, alpha=2 * RANK, dropout=0, seed=0).eval()
        self.forbidden = forbidden_ids(self.tokenizer)

    def questions(self, *seeds: int) -> list[Question]:
        from fxray.model.prompts import render_prompt

        rng = np.random.default_rng(0)
        sizes = [(112, 112), (168, 168), (300, 90)]
        images = [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
        return [
            Question(render_prompt(self.tokenizer, TEMPLATES[i % 9]), images[i % 3], seed, f"sample-{i}")
            for i, seed in enumerate(seeds)
        ]

    def randomise(self, seed: int) -> None:
        """Gives both halves of the adapter random weights, far from the base."""
        import torch

        from fxray.model.adapter import adapter_parameters

        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter_parameters(self.model, self.name).values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)

    def blob(self, version: int, **changes: Any) -> AdapterBlob:
        from fxray.model.adapter import adapter_bytes, adapter_parameters

        content, config = adapter_bytes(self.model, self.name)
        content = changes.get("content", content)
        num_modules = len(adapter_parameters(self.model, self.name)) // 2
        return AdapterBlob(version, content, config, hashlib.sha256(content).hexdigest(), num_modules)

    def logits(self, question: Question, answers: Answers, index: int, *, with_adapter: bool) -> Any:
        """Logits [R, V] before each token of an answer, forbidden ones included."""
        import contextlib

        import torch

        from fxray.model.images import count_image_tokens, preprocess
        from fxray.model.prompts import encode_prompt

        pixel_values, grid = preprocess(self.image_processor, [question.image])
        prompt = encode_prompt(self.tokenizer, question.prompt, count_image_tokens(grid, 2)[0])
        assert answers.prompt_token_ids.tolist() == prompt
        ids = torch.tensor([[*prompt, *answers.rollouts[index].token_ids.tolist()]])
        with torch.no_grad(), contextlib.nullcontext() if with_adapter else self.model.disable_adapter():
            logits = self.model(
                input_ids=ids,
                pixel_values=pixel_values,
                image_grid_thw=grid,
                mm_token_type_ids=(ids == self.image_token_id).int(),
            ).logits[0]
        return logits[len(prompt) - 1 : -1]

    def gap_nats(
        self, questions: list[Question], drawn: list[Answers], sampling: SamplingSettings, *, with_adapter: bool
    ) -> float:
        """Largest |difference| between the sampler's log-probabilities and the twin's."""
        import torch

        worst = 0.0
        for question, answers in zip(questions, drawn, strict=True):
            for index, rollout in enumerate(answers.rollouts):
                logits = self.logits(question, answers, index, with_adapter=with_adapter)
                logits[:, self.forbidden] = -torch.inf
                ids = torch.tensor(rollout.token_ids.tolist())[:, None]
                logprobs = (logits / sampling.temperature).log_softmax(-1).gather(1, ids)[:, 0]
                worst = max(worst, float((logprobs - torch.tensor(rollout.logprobs.tolist())).abs().max()))
        return worst


class WholeTwin(Twin):
    """The same model in transformers, with other weights in all its layers."""

    def __init__(self, settings: EngineSettings) -> None:
        from fxray.model.load import load_model
        from fxray.model.policy import WholePolicy

        super().__init__(settings)
        self.settings, folder = settings, settings.model_path
        self.policy = WholePolicy(lambda dtype: load_model(folder, dtype=dtype), folder, settings.dtype)
        self.model = self.policy.base.eval()

    def randomise(self, seed: int) -> None:
        """Moves every weight by about a tenth."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.policy.parameters.values():
                parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator)).add_(0.01)

    def weights(self, version: int, change: Callable[[dict[str, Any]], None] = lambda _: None) -> WeightsBlob:
        """The weights as they are published, after a change to the tensors by name."""
        tensors = {name: parameter.detach().clone() for name, parameter in self.policy.parameters.items()}
        change(tensors)
        blob, pieces = self.policy.publish(tensors, version)
        assert isinstance(blob, WeightsBlob)
        return replace(blob, pieces=pieces)


@pytest.fixture(scope="module")
def whole_settings(settings: EngineSettings) -> EngineSettings:
    return replace(settings, lora_rank=0)


@pytest.fixture(scope="module")
def whole_engine(cluster: None, whole_settings: EngineSettings) -> Iterator[Callable[..., Any]]:
    """An engine that takes whole weights."""
    with running(whole_settings) as call:
        yield call


@pytest.fixture
def parallel_whole_engine(cluster: None, whole_settings: EngineSettings) -> Iterator[Callable[..., Any]]:
    """One whose model lies on two ranks."""
    with running(replace(whole_settings, tensor_parallel_size=2)) as call:
        yield call


@pytest.fixture
def whole_twin(whole_settings: EngineSettings) -> WholeTwin:
    return WholeTwin(whole_settings)


@pytest.fixture(scope="module")
def qwen3(settings: EngineSettings, random_qwen3_dir: Path) -> EngineSettings:
    """A model of another family."""
    return replace(settings, model_path=random_qwen3_dir)


@pytest.fixture
def qwen3_engine(cluster: None, qwen3: EngineSettings) -> Iterator[Callable[..., Any]]:
    with running(qwen3) as call:
        yield call


@pytest.fixture
def qwen3_twin(qwen3: EngineSettings) -> Twin:
    return Twin(qwen3)


@pytest.fixture
def whole_qwen3_engine(cluster: None, qwen3: EngineSettings) -> Iterator[Callable[..., Any]]:
    with running(replace(qwen3, lora_rank=0)) as call:
        yield call


@pytest.fixture
def whole_qwen3_twin(qwen3: EngineSettings) -> WholeTwin:
    return WholeTwin(qwen3)


@pytest.fixture(scope="module")
def internvl(settings: EngineSettings, random_internvl_dir: Path) -> EngineSettings:
    """A model of a family whose images are cut into tiles, and whose vision tower takes no adapter."""
    return replace(settings, model_path=random_internvl_dir)


@pytest.fixture
def internvl_engine(cluster: None, internvl: EngineSettings) -> Iterator[Callable[..., Any]]:
    with running(internvl) as call:
        yield call


@pytest.fixture
def internvl_twin(internvl: EngineSettings) -> Twin:
    return Twin(internvl)


@pytest.fixture
def whole_internvl_engine(cluster: None, internvl: EngineSettings) -> Iterator[Callable[..., Any]]:
    with running(replace(internvl, lora_rank=0)) as call:
        yield call


@pytest.fixture
def whole_internvl_twin(internvl: EngineSettings) -> WholeTwin:
    return WholeTwin(internvl)


@pytest.fixture
def damage(twin: Twin) -> SimpleNamespace:
    """Adapters that must never be sampled from; each with a checksum of its own."""
    from safetensors.torch import load, save

    def changed(change: Callable[[dict[str, Any]], dict[str, Any]]) -> AdapterBlob:
        tensors = change(load(twin.blob(9).safetensors))
        return twin.blob(9, content=save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    def without_last(tensors: dict[str, Any]) -> dict[str, Any]:
        return dict(sorted(tensors.items())[:-1])

    good = twin.blob(9)
    flipped = bytearray(good.safetensors)
    flipped[-1000] ^= 1
    return SimpleNamespace(
        corrupted=replace(good, safetensors=bytes(flipped)),
        cut_on_the_way=replace(good, safetensors=good.safetensors[:-100]),
        cut_by_the_learner=twin.blob(9, content=good.safetensors[:-100]),
        empty=changed(lambda _: {}),
        misnamed=changed(lambda tensors: {name.replace("visual", "vision"): t for name, t in tensors.items()}),
        halved=changed(without_last),
        thinner=changed(lambda tensors: {n: t[:4] if "lora_A" in n else t[:, :4] for n, t in tensors.items()}),
        not_finite=changed(lambda tensors: {name: tensor / 0 for name, tensor in tensors.items()}),
        fewer=changed(lambda tensors: {name: t for name, t in tensors.items() if ".visual." not in name}),
        full_weights=changed(lambda tensors: {"lm_head.weight": next(iter(tensors.values()))}),
    )
