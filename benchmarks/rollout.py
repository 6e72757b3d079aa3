"""How fast answers are drawn: `python benchmarks/rollout.py` (16 prompts x 8 answers at 112 px, at most 64 tokens).

Measures, on the same prompts, images, adapter and engine settings:
    pool    RolloutPool over Ray, from encoded images in the object store to groups in the driver
    raw     vLLM's LLM.generate on decoded images in one process, detokenisation off, as the engine calls it
    stock   raw with vLLM's own LoRA maths for CPUs instead of fxray's for a single adapter; not on a GPU
"""

import argparse
import hashlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image

from actors.errands import Deadlines
from actors.failures import FailureBudget
from actors.nodes import STEADY
from actors.rollout import RolloutPool
from actors.rollout_worker import rollout_spawner
from actors.scaling import Scaler
from actors.weight_sync import PolicyPublisher
from fxray.data.frame import smart_frame
from fxray.data.images import decode_image
from fxray.engine.engine import Engine, Question
from fxray.engine.settings import EngineSettings
from fxray.grammar.prompts import TEMPLATES
from fxray.grpo.types import AdapterBlob, ImageRef, PromptGroup, SamplingSettings
from fxray.schema import Annotation, Verdict

RANK = 8
DEADLINE_S = 1200.0


class BareEngine(Engine):
    """Times vLLM itself."""

    def warm_up(self, adapter: AdapterBlob) -> None:
        self.load_policy(adapter)

    def use_stock_maths(self) -> None:
        from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

        def restore(worker: Any) -> None:
            for wrapper in worker._manager.punica_wrapper_mapping.values():
                wrapper.__class__ = PunicaWrapperCPU

        self._llm.collective_rpc(restore)

    def time_generate(self, questions: list[Question], sampling: SamplingSettings) -> tuple[float, int]:
        prompts = [{"prompt": q.prompt, "multi_modal_data": {"image": q.image}} for q in questions]
        params = [self._sampling_params(question, sampling) for question in questions]
        start_s = time.monotonic()
        outputs = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._lora_request)
        seconds = time.monotonic() - start_s
        return seconds, sum(len(answer.token_ids) for output in outputs for answer in output.outputs)


def main() -> None:
    arguments = parse_arguments()
    settings = engine_settings(arguments)
    adapter = random_adapter(settings.model_path, settings.dtype)
    prompts = make_prompts(arguments, settings)
    sampling = SamplingSettings(arguments.answers, 1.0, arguments.max_new_tokens)
    print(
        f"{arguments.model}: {arguments.prompts} prompts x {arguments.answers} answers at {arguments.px} px, at most "
        f"{arguments.max_new_tokens} tokens; {arguments.steps} steps after one to warm up"
    )
    print(f"{'':18}{'least s':>8}{'median':>8}{'tokens':>8}{'tokens/s':>10}")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would lower the workers' priority
    with tempfile.TemporaryDirectory(prefix="fx-", dir="/tmp") as folder:
        ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        time_pool(arguments, settings, adapter, prompts, sampling)
        kinds = ["raw"] if arguments.gpu else ["raw", "stock"]
        for kind in kinds if not arguments.pool_only else ():
            time_raw(arguments, settings, adapter, prompts, sampling, kind)
        ray.shutdown()


def time_pool(
    arguments: argparse.Namespace,
    settings: EngineSettings,
    adapter: AdapterBlob,
    prompts: list[PromptGroup],
    sampling: SamplingSettings,
) -> None:
    options = {"num_cpus": 1, "num_gpus": 1 if arguments.gpu else 0}
    pool = RolloutPool(
        rollout_spawner(settings, options),
        scaler=Scaler(arguments.workers, None),
        min_workers=arguments.workers,
        max_num_seqs=settings.max_num_seqs,
        deadlines=Deadlines(DEADLINE_S, DEADLINE_S, DEADLINE_S),
        nodes=STEADY,
        failures=FailureBudget("rollout workers", max_restarts=0, window_s=3600, remedy="see their logs"),
    )
    publisher = PolicyPublisher(pool)
    publisher.publish(adapter)
    start_s = time.monotonic()
    publisher.publish(adapter)
    sync_s = time.monotonic() - start_s
    placed = [
        PromptGroup(g.group_id, g.sample_id, ImageRef(ray.put(g.image.handle), g.image.num_bytes), *rest(g))
        for g in prompts
    ]

    def step() -> tuple[float, int]:
        pool.generate(placed, sampling)
        return pool.facts.seconds, pool.facts.num_tokens

    label = f"pool, {arguments.workers} worker" + ("s" if arguments.workers > 1 else "")
    report(label, arguments.steps, step)
    facts = pool.facts
    print(
        f"    sync {sync_s * 1000:.0f} ms for {len(adapter.safetensors) / 2**20:.2f} MiB; images "
        f"{facts.image_bytes / 1024:.0f} KiB out, answers {facts.answer_bytes / 1024:.0f} KiB back, "
        f"{facts.num_leases} leases"
    )
    pool.close()


def time_raw(
    arguments: argparse.Namespace,
    settings: EngineSettings,
    adapter: AdapterBlob,
    prompts: list[PromptGroup],
    sampling: SamplingSettings,
    kind: str,
) -> None:
    actor = ray.remote(BareEngine).options(num_cpus=1, num_gpus=1 if arguments.gpu else 0).remote(settings)
    ray.get(actor.warm_up.remote(adapter), timeout=DEADLINE_S)
    if kind == "stock":
        ray.get(actor.use_stock_maths.remote(), timeout=DEADLINE_S)
    questions = [Question(g.prompt, decode_image(content_of(g), g.sample_id), g.seed, g.sample_id) for g in prompts]
    report(kind, arguments.steps, lambda: ray.get(actor.time_generate.remote(questions, sampling), timeout=DEADLINE_S))
    ray.kill(actor)


def report(label: str, num_steps: int, step: Callable[[], tuple[float, int]]) -> None:
    step()
    seconds, tokens = zip(*(step() for _ in range(num_steps)), strict=True)
    least_s, num_tokens = min(seconds), tokens[0]
    print(
        f"{label:18}{least_s:8.2f}{statistics.median(seconds):8.2f}{num_tokens:8d}{num_tokens / least_s:10.0f}",
        flush=True,
    )


def content_of(group: PromptGroup) -> bytes:
    assert isinstance(group.image.handle, bytes)
    return group.image.handle


def rest(group: PromptGroup) -> tuple[Any, ...]:
    return group.prompt, group.annotation, group.frame, group.seed


def make_prompts(arguments: argparse.Namespace, settings: EngineSettings) -> list[PromptGroup]:
    from fxray.model.prompts import load_tokenizer, render_prompt

    tokenizer, rng = load_tokenizer(settings.model_path), np.random.default_rng(0)
    frame = smart_frame(arguments.px, arguments.px, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    groups = []
    for i in range(arguments.prompts):
        buffer = io.BytesIO()
        pixels = rng.integers(0, 255, (arguments.px, arguments.px, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG")
        content = buffer.getvalue()
        prompt = render_prompt(tokenizer, TEMPLATES[i % len(TEMPLATES)])
        truth = Annotation(Verdict.REAL)
        groups.append(PromptGroup(f"bench/0/{i}", f"s{i}", ImageRef(content, len(content)), prompt, truth, frame, i))
    return groups


def random_adapter(model_path: Path, dtype: str) -> AdapterBlob:
    import torch

    from fxray.model.adapter import POLICY, adapter_bytes, adapter_parameters, attach_adapter
    from fxray.model.load import load_model

    model = attach_adapter(load_model(model_path, dtype=dtype), rank=RANK, alpha=2 * RANK, dropout=0, seed=0)
    parameters = adapter_parameters(model, POLICY)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if "lora_B" in name:
                parameter.normal_(std=1e-3)
    content, config = adapter_bytes(model, POLICY)
    return AdapterBlob(0, content, config, hashlib.sha256(content).hexdigest(), len(parameters) // 2)


def engine_settings(arguments: argparse.Namespace) -> EngineSettings:
    from fxray.model.folder import resolve_model_path

    return EngineSettings(
        model_path=resolve_model_path(arguments.model),
        dtype=arguments.dtype,
        min_pixels=56 * 56,
        max_pixels=max(112 * 112, arguments.px**2),
        lora_rank=RANK,
        max_num_seqs=arguments.max_num_seqs,
        max_model_len=arguments.max_model_len,
        block_size=arguments.block_size,
        kv_cache_bytes=256 * 2**20,
        gpu_memory_utilization=0.8,
        tensor_parallel_size=1,
        can_sleep=False,
        enforce_eager=False,
        threads=arguments.threads,
        sync="bytes",
        seed=0,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="folder of a Qwen2.5-VL")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--px", type=int, default=112)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="of one engine; 0 takes all processors")
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--gpu", action="store_true", help="one GPU per worker")
    parser.add_argument("--pool-only", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
