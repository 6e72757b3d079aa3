"""Real engines behind the pool: what a group is does not depend on who draws it, nor on who dies meanwhile."""

import hashlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from small_engine import small_engine

from actors.errands import Deadlines
from actors.failures import FailureBudget
from actors.nodes import STEADY
from actors.rollout import RolloutPool
from actors.rollout_worker import HEALTH, RolloutWorker
from actors.scaling import Scaler
from actors.weight_sync import PolicyPublisher
from fxray.data.frame import Frame
from fxray.engine.settings import EngineSettings
from fxray.grammar.prompts import TEMPLATES
from fxray.grpo.types import AdapterBlob, ImageRef, PromptGroup, RolloutGroup, SamplingSettings
from fxray.schema import Annotation, Verdict

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
SAMPLING = SamplingSettings(group_size=4, temperature=1.0, max_new_tokens=32)


class WarmWorker(RolloutWorker):
    """Starts its engine once, so that two pools can share it, and can be found and killed."""

    def start(self) -> None:
        if not hasattr(self, "_engine"):
            super().start()

    def generate(self, jobs: Any, sampling: SamplingSettings) -> Any:
        if self._name.startswith("doomed") and jobs[0].group_id.startswith("deadly"):
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return super().generate(jobs, sampling)


@pytest.fixture(scope="module")
def settings(random_model_dir: Path) -> EngineSettings:
    return small_engine(random_model_dir)


@pytest.fixture(scope="module")
def adapter(random_model_dir: Path) -> AdapterBlob:
    import torch

    from fxray.model.adapter import POLICY, adapter_bytes, adapter_parameters, attach_adapter
    from fxray.model.load import load_model

    model = attach_adapter(load_model(random_model_dir, dtype="float32"), rank=8, alpha=16, dropout=0, seed=0)
    parameters = adapter_parameters(model, POLICY)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    content, config = adapter_bytes(model, POLICY)
    return AdapterBlob(1, content, config, hashlib.sha256(content).hexdigest(), len(parameters) // 2)


def prompts(model_dir: Path, name: str) -> list[PromptGroup]:
    from fxray.model.prompts import load_tokenizer, render_prompt

    tokenizer, rng = load_tokenizer(model_dir), np.random.default_rng(0)
    groups = []
    for i in range(16):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (112, 112, 3), dtype=np.uint8)).save(buffer, "PNG")
        content = buffer.getvalue()
        handle = ray.put(content) if i % 2 else content
        frame = Frame(112, 112, 112, 112)
        prompt = render_prompt(tokenizer, TEMPLATES[i % 9])
        image = ImageRef(handle, len(content))
        groups.append(PromptGroup(f"{name}/{i}", f"s{i}", image, prompt, Annotation(Verdict.REAL), frame, 77 + i))
    return groups


def texts(groups: list[RolloutGroup]) -> list[list[str]]:
    return [[rollout.text for rollout in group.rollouts] for group in groups]


@pytest.mark.usefixtures("cluster")
def test_groups_are_the_same_from_one_worker_from_two_and_around_a_kill(
    settings: EngineSettings, adapter: AdapterBlob
) -> None:
    actor = ray.remote(concurrency_groups={HEALTH: 1})(WarmWorker)
    warm = actor.options(num_cpus=0).remote(settings, "warm")
    names = iter(["doomed", "heir"])
    failures = FailureBudget("rollout workers", max_restarts=1, window_s=600, remedy="")
    limits = {"max_num_seqs": 16, "deadlines": Deadlines(280, 280, 60), "failures": failures, "nodes": STEADY}

    def pool(spawn: Callable[[str], Any], num_workers: int) -> RolloutPool:
        return RolloutPool(spawn, scaler=Scaler(num_workers, None), min_workers=num_workers, **limits)

    single = pool(lambda _: warm, 1)
    PolicyPublisher(single).publish(adapter)
    asked = prompts(settings.model_path, "calm")
    alone = single.generate(asked, SAMPLING)
    assert [group.prompt for group in alone] == asked
    assert {group.policy_version for group in alone} == {1}
    assert all(len(set(group)) == 4 for group in texts(alone))
    unused = {"boto3", "scipy", "sklearn"}  # a sixth to a third of what the processor does until an engine is up
    assert not ray.get(warm.__ray_call__.remote(lambda _: unused & sys.modules.keys()))

    doomed = pool(lambda _: actor.options(num_cpus=0).remote(settings, next(names)), 1)
    PolicyPublisher(doomed).publish(adapter)
    asked = prompts(settings.model_path, "deadly")
    survived = doomed.generate(asked, SAMPLING)
    assert doomed.num_deaths == 1
    assert doomed.facts.num_leases == 2
    assert [group.prompt for group in survived] == asked
    assert {group.policy_version for group in survived} == {1}
    assert texts(survived) == texts(alone)
    for one, other in zip(alone, survived, strict=True):
        np.testing.assert_array_equal(one.prompt_token_ids, other.prompt_token_ids)
        for a, b in zip(one.rollouts, other.rollouts, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)

    workers = iter([warm, doomed._idle[0].actor])
    both = pool(lambda _: next(workers), 2)
    assert len(PolicyPublisher(both).publish(adapter)) == 2
    shared = both.generate(prompts(settings.model_path, "shared"), SAMPLING)
    assert both.facts.num_leases == 2
    assert texts(shared) == texts(alone)
    both.close()
