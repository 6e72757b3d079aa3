"""One vLLM engine in a process of its own: answers many questions at once, each as it comes, and can be interrupted."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fxray.counts import counted
from fxray.engine.binding import MixedWeightsError, bind_policy
from fxray.engine.engine import BASE_VERSION
from fxray.engine.environment import is_cpu_build, prepare_environment
from fxray.engine.logprobs import read_logprobs
from fxray.engine.prompts import Prompts
from fxray.engine.root_cause import SharedOutput
from fxray.engine.settings import EngineSettings
from fxray.engine.start import forbidden_bias, llm_arguments, register_class, start_of_vllm
from fxray.errors import ConfigError, DeadlineError, WorkerDiedError
from fxray.grammar.markers import BOX_END
from fxray.grpo.types import AdapterBlob, PolicyBlob, Rollout, SyncProof
from fxray.large_imports import without_collection


@dataclass(frozen=True, slots=True)
class Draft:
    """What an answer says so far; `text` ends with a box."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A greedy answer.

    Attributes:
        rollout: The answer itself.
        watched_logprobs_TW: float32 [T, W], at each of its T tokens the log-probability of each of the W tokens that
            were watched; NaN where the engine gave none.
        policy_version: Of what gave it, `BASE_VERSION` for the base model.
    """

    rollout: Rollout
    watched_logprobs_TW: NDArray[np.float32]
    policy_version: int


@dataclass(frozen=True, slots=True)
class _Policy:
    """What a name stands for: an adapter by vLLM's request, or whole weights without one."""

    request: Any
    version: int


class StreamingEngine:
    """A vLLM engine that is driven from one event loop, with a policy for each name, as many as its settings allow.

    vLLM's core runs in a child process, which ends with this one. Make it inside a running event loop.

    Args:
        settings: What it is made of; policies always enter as bytes.

    Raises:
        ModelError: vLLM cannot drive the model with these settings.
        ResourceError: vLLM was imported into this process in another way before.
    """

    def __init__(self, settings: EngineSettings) -> None:
        with without_collection():
            prepare_environment(threads=settings.threads)
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

        self._settings = settings
        self._num_loads = self._num_asked = self._num_running = 0
        self._policies: dict[str, _Policy] = {}
        self._is_swapping = False
        self._changed = asyncio.Condition()
        self._output = SharedOutput.from_now()
        arguments = llm_arguments(settings)
        with start_of_vllm(settings.model_path):
            register_class(settings.model_path)
            self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, enable_log_requests=False))
        self._tokenizer = self._llm.get_tokenizer()
        self._box_end = self._tokenizer.convert_tokens_to_ids(BOX_END)
        self._prompts = Prompts(self._tokenizer)
        self._forbidden = forbidden_bias(self._tokenizer)

    async def prepare(self) -> None:
        """Sets the engine's workers up; call it once before anything is asked."""
        await self._on_workers("end_with", (os.getpid(),))
        if is_cpu_build() and self._settings.lora_rank:
            await self._on_workers("use_single_adapter_maths")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    async def answer(
        self,
        prompt: str,
        image: Image.Image,
        *,
        where: str,
        max_new_tokens: int,
        name: str = "",
        watched_ids: tuple[int, ...] = (),
        with_drafts: bool = False,
    ) -> AsyncGenerator[Draft | Answer]:
        """Asks about an image; the answer is the last item. A caller that goes away frees the engine at once.

        Args:
            prompt: Chat text with one image placeholder.
            image: Upright RGB image.
            where: Named in errors.
            max_new_tokens: Longest answer.
            name: Of the policy that answers; the base model where none was loaded under it.
            watched_ids: Tokens whose log-probabilities are wanted at every place of the answer.
            with_drafts: Also tell what was said so far, whenever a box is complete.

        Raises:
            ConfigError: The prompt is too long, or malformed.
            WorkerDiedError: The engine's core is dead.
        """
        async with self._not_swapping():
            self._num_asked += 1
            policy = self._policies.get(name, _Policy(None, BASE_VERSION))
            outputs = self._llm.generate(
                self._prompts.write(prompt, image),
                self._sampling_params(max_new_tokens, watched_ids, with_drafts=with_drafts),
                f"question-{self._num_asked}",
                lora_request=policy.request,
            )
            gathered = _Gathered(watched_ids)
            try:
                async for output in outputs:
                    completion = output.outputs[0]
                    gathered.add(completion)
                    if with_drafts and self._box_end in completion.token_ids and not output.finished:
                        yield Draft(self._decode(gathered.token_ids))
            except ValueError as error:
                raise ConfigError(
                    f"vLLM refuses a prompt: {error}",
                    where=where,
                    remedy=f"raise rollout.max_model_len (now {self._settings.max_model_len}) or lower max_pixels",
                ) from error
            except Exception as error:
                cause = self._output.root_cause() or f"{type(error).__name__}: {error}"
                raise WorkerDiedError(f"the engine gave no answer: {cause}", where=where) from error
            finally:
                await outputs.aclose()
            yield gathered.answer(self._decode(gathered.token_ids), policy.version)

    async def load_policy(self, blob: PolicyBlob, *, worker: str, deadline_s: float, name: str = "") -> SyncProof:
        """Answers to whatever is asked under this name from now on come from this policy, and that is proved.

        Answers that have begun are ended first, by the policy that they began with; new questions wait meanwhile.

        Args:
            blob: An adapter, or whole weights whose pieces are here.
            worker: Named in the proof and in errors.
            deadline_s: For the answers that have begun.
            name: What the policy is asked by.

        Raises:
            ConfigError: As many policies of other names are loaded as the settings allow.
            SyncError: The bytes are not what was published, or not every module of theirs is bound; the policy
                before stays in use, unless whole weights were taken and not proved: then the engine is ended.
            DeadlineError: Answers that had begun did not end in time.
        """
        from vllm.lora.request import LoRARequest

        async with self._alone(deadline_s, worker):
            others = {other: policy for other, policy in self._policies.items() if other != name}
            if len(others) >= self._settings.max_adapters:
                raise ConfigError(
                    f"a policy besides {', '.join(map(repr, others))}, expected at most {self._settings.max_adapters}",
                    where=worker,
                    remedy="start the engine for more adapters",
                )
            self._num_loads += 1
            label = f"policy-v{blob.version}-{self._num_loads}"
            is_adapter = isinstance(blob, AdapterBlob)
            request = LoRARequest(label, self._num_loads, f"memory/{label}") if is_adapter else None
            steps = bind_policy(
                blob,
                lora_rank=self._settings.lora_rank,
                lora_id=self._num_loads,
                previous_id=_lora_id(self._policies.get(name)),
                worker=worker,
                other_ids=tuple(map(_lora_id, others.values())),
            )
            try:
                call = next(steps)
                while True:
                    try:
                        result = await self._on_workers(*call)
                    except Exception as error:  # noqa: BLE001  whatever a worker raised arrives as a bare one
                        call = steps.throw(RuntimeError(str(error)))
                    else:
                        call = steps.send(result)
            except StopIteration as end:
                proof: SyncProof = end.value
            except MixedWeightsError:
                self.close()
                raise
            if request is None:
                await self._empty_caches(f"{worker}, policy version {blob.version}")
            self._policies[name] = _Policy(request, blob.version)
            return proof

    async def _empty_caches(self, where: str) -> None:
        """Forgets whatever was computed with other weights; ends the engine and raises where it cannot."""
        await self._llm.reset_mm_cache()
        await self._llm.reset_encoder_cache()
        if not await self._llm.reset_prefix_cache():
            self.close()
            raise MixedWeightsError(
                "the cache of prefixes, computed with other weights, cannot be emptied",
                where=where,
                remedy="an answer has not ended in the engine; the engine is started anew",
            )

    async def check_alive(self) -> None:
        """Returns while the engine's core lives.

        Raises:
            WorkerDiedError: It is dead.
        """
        try:
            await self._llm.check_health()
        except Exception as error:
            raise WorkerDiedError(f"the engine is dead: {self._output.root_cause() or error}") from error

    def close(self) -> None:
        """Ends the engine's core."""
        self._llm.shutdown()

    def _sampling_params(self, max_new_tokens: int, watched_ids: tuple[int, ...], *, with_drafts: bool) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0,
            max_tokens=max_new_tokens,
            logit_bias=self._forbidden,
            logprobs=None if watched_ids else 0,
            logprob_token_ids=list(watched_ids) or None,
            flat_logprobs=True,
            detokenize=False,
            skip_special_tokens=False,
            output_kind=RequestOutputKind.DELTA if with_drafts else RequestOutputKind.FINAL_ONLY,
        )

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    async def _on_workers(self, method: str, arguments: tuple[object, ...] = ()) -> Any:
        plain = tuple(each.tobytes() if isinstance(each, np.ndarray) else each for each in arguments)
        results = await self._llm.collective_rpc(method, args=plain)
        if any(result != results[0] for result in results):
            raise RuntimeError(f"the ranks of the engine disagree in {method}: {results}")
        return results[0]

    @asynccontextmanager
    async def _not_swapping(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_swapping)
            self._num_running += 1
        try:
            yield
        finally:
            self._num_running -= 1
            async with self._changed:
                self._changed.notify_all()

    @asynccontextmanager
    async def _alone(self, deadline_s: float, worker: str) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_swapping)
            self._is_swapping = True
        try:
            try:
                async with asyncio.timeout(deadline_s), self._changed:
                    await self._changed.wait_for(lambda: self._num_running == 0)
            except TimeoutError as error:
                raise DeadlineError(
                    f"{counted(self._num_running, 'answer')} that had begun did not end within {deadline_s:g} s",
                    where=worker,
                    remedy="the policy before stays in use; load the new one again",
                ) from error
            yield
        finally:
            self._is_swapping = False
            async with self._changed:
                self._changed.notify_all()


def _lora_id(policy: _Policy | None) -> int:
    """Id of a policy's adapter in the engine; 0 where there is none."""
    return policy.request.lora_int_id if policy and policy.request else 0


class _Gathered:
    """The parts of an answer, put together as they come."""

    def __init__(self, watched_ids: tuple[int, ...]) -> None:
        self._watched_ids = watched_ids
        self.token_ids: list[int] = []
        self._logprobs: list[NDArray[np.float32]] = []
        self._watched: list[NDArray[np.float32]] = []
        self._is_finished = False

    def add(self, completion: Any) -> None:
        logprobs_T, watched_TW = read_logprobs(completion, self._watched_ids)
        self._logprobs.append(logprobs_T)
        self._watched.append(watched_TW)
        self.token_ids += list(completion.token_ids)
        self._is_finished = completion.finish_reason == "stop"

    def answer(self, text: str, policy_version: int) -> Answer:
        logprobs_T, watched_TW = np.concatenate(self._logprobs), np.concatenate(self._watched)
        rollout = Rollout(np.asarray(self.token_ids, np.int32), logprobs_T, text, self._is_finished)
        return Answer(rollout, watched_TW, policy_version)
