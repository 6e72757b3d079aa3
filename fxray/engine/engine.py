"""One vLLM engine: draws answers from the base model, from one adapter on it, or from other weights in its place."""

import gc
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fxray.engine.binding import REFUSALS, bind_policy, read_weights
from fxray.engine.environment import is_cpu_build, prepare_environment
from fxray.engine.logprobs import read_logprobs
from fxray.engine.prompts import Prompts
from fxray.engine.settings import EngineSettings
from fxray.engine.start import forbidden_bias, keep_groups, llm_arguments, register_class, start_of_vllm
from fxray.errors import ConfigError, FxrayError, ResourceError, SyncError
from fxray.files import write_atomically
from fxray.grammar.probability import probability_generated, verdict_tokens
from fxray.grpo.types import AdapterBlob, PolicyBlob, Rollout, SamplingSettings, SyncProof
from fxray.large_imports import without_collection

BASE_VERSION = -1
"""Policy version of answers that the base model gave."""

_MEMORY_DIR = Path("/dev/shm")
_SEED_BITS = 2**62


@dataclass(frozen=True, slots=True)
class Question:
    """What answers are drawn for.

    Attributes:
        prompt: Chat text with one placeholder of the model's family.
        image: Upright RGB image.
        seed: Of the group of answers.
        where: Named in errors: the sample's id.
    """

    prompt: str
    image: Image.Image
    seed: int
    where: str


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to a question; `prompt_token_ids` is int32 [P], image placeholders expanded."""

    prompt_token_ids: NDArray[np.int32]
    rollouts: tuple[Rollout, ...]


class Questions(Protocol):
    """Questions that become ready one after the other, in whatever order."""

    def take(self, *, wait: bool) -> Question | None:
        """The next question that is ready.

        Args:
            wait: None then means that no more will come; else only that none is ready now.
        """
        ...


def answer_seed(group_seed: int, index: int) -> int:
    """Seed of an answer, a function of its group's seed and its index alone: no worker and no batch enters it.

    Neighbouring group seeds lie far apart (SplitMix64), because vLLM counts up from the seed of a group's first answer.
    """
    mixed = (group_seed + 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return (mixed ^ mixed >> 31) % _SEED_BITS + index


class Engine:
    """A vLLM engine in this process, with at most one policy.

    vLLM's caches know an adapter by its name, so every load has a name and an id of its own: what an older adapter
    left in them is never found again. Whole weights have no name, so loading them empties the caches.

    Args:
        settings: What it is made of.

    Raises:
        ModelError: vLLM cannot drive the model with these settings.
        ResourceError: vLLM was imported into this process in another way before.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._num_loads = self._num_streamed = 0
        self._policy: tuple[Any, int] | None = None
        self._is_asleep = False
        self._process_id, self._turn = os.getpid(), threading.Lock()
        with without_collection():
            prepare_environment(threads=settings.threads)
            from vllm import LLM

            gc.freeze()  # vLLM collects several times as it comes up
            arguments = llm_arguments(settings)
            with start_of_vllm(settings.model_path):
                register_class(settings.model_path)
                self._llm = LLM(**arguments)
                keep_groups(self)
        if is_cpu_build() and settings.lora_rank:
            self._llm.collective_rpc("use_single_adapter_maths")
        self._tokenizer = self._llm.get_tokenizer()
        self._prompts = Prompts(self._tokenizer)
        self._forbidden = forbidden_bias(self._tokenizer)
        self._verdicts = verdict_tokens(lambda text: list(self._tokenizer.encode(text, add_special_tokens=False)))

    @property
    def policy_version(self) -> int:
        """Version of the policy in use, `BASE_VERSION` without one."""
        return BASE_VERSION if self._policy is None else self._policy[1]

    def generate(self, questions: Sequence[Question], sampling: SamplingSettings) -> list[Answers]:
        """Draws a group of answers to each question. Calls of several threads wait for each other.

        Args:
            questions: Any number of them.
            sampling: Group size, temperature, length.

        Returns:
            Answers in the order of `questions`. Log-probabilities are those of the distribution that was sampled from:
            at its temperature, over the vocabulary without `FORBIDDEN_TOKENS`.

        Raises:
            ConfigError: A prompt is too long, or malformed.
            ResourceError: The engine was made before this process was forked off another.
        """
        if not questions:
            return []
        if os.getpid() != self._process_id:  # its threads are not here, and whoever waits for them waits for ever
            raise ResourceError(
                f"the engine is of process {self._process_id}, of which this one is a fork",
                remedy="load the detector in the process that asks it, or let multiprocessing `spawn` that one",
            )
        with self._turn:
            return self._generate(questions, sampling)

    def _generate(self, questions: Sequence[Question], sampling: SamplingSettings) -> list[Answers]:
        from vllm.exceptions import VLLMValidationError

        self._wake()
        prompts = [self._prompts.write(question.prompt, question.image) for question in questions]
        params = [self._sampling_params(question, sampling) for question in questions]
        try:
            outputs = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._lora_request)
        except (ValueError, VLLMValidationError) as error:
            raise self._refusal(error, f"samples {questions[0].where} to {questions[-1].where}") from error
        return [self._answers(output, self._watched(sampling)) for output in outputs]

    def stream(self, questions: Questions, sampling: SamplingSettings) -> Iterator[tuple[str, Answers | ConfigError]]:
        """Draws a group of answers to each question, each given as soon as it is complete.

        Twice as many questions as the engine decodes at once are taken in advance, so that it is never short of work
        and memory does not grow with their number.

        Args:
            questions: Are taken when there is room for them.
            sampling: Group size, temperature, length.

        Yields:
            `where` of a question, and its answers, or why vLLM refuses it.
        """
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind

        self._wake()
        watched = self._watched(sampling)
        core, most = self._llm.llm_engine, 2 * self._settings.max_num_seqs
        asked: dict[str, str] = {}  # an image is forgotten once vLLM has what the model sees of it
        try:
            while True:
                while len(asked) < most and (question := questions.take(wait=not asked)) is not None:
                    self._num_streamed += 1
                    request_id = f"stream-{self._num_streamed}"
                    params = self._sampling_params(question, sampling)
                    params.output_kind = RequestOutputKind.FINAL_ONLY
                    prompt = self._prompts.write(question.prompt, question.image)
                    try:
                        core.add_request(request_id, prompt, params, lora_request=self._lora_request)
                    except (ValueError, VLLMValidationError) as error:
                        yield question.where, self._refusal(error, question.where)
                    else:
                        asked[request_id] = question.where
                if not asked:
                    return
                for output in core.step():
                    if output.finished:
                        yield asked.pop(output.request_id), self._answers(output, watched)
        finally:
            core.abort_request(list(asked))

    def load_policy(self, blob: PolicyBlob, worker: str = "engine") -> SyncProof:
        """Answers from now on come from this policy, and that is proved.

        Args:
            blob: An adapter, or whole weights whose pieces are here.
            worker: Named in the proof and in errors.

        Raises:
            SyncError: The bytes are not what the learner published, or the engine does not compute with all of them.
        """
        self._wake()
        request = self._next_request(blob.version) if isinstance(blob, AdapterBlob) else None
        previous = self._lora_request
        steps = bind_policy(
            blob,
            lora_rank=self._settings.lora_rank,
            lora_id=self._num_loads,
            previous_id=previous.lora_int_id if previous else 0,
            worker=worker,
        )
        try:
            call = next(steps)
            while True:
                try:
                    result = (
                        self._bind(request, blob)
                        if isinstance(blob, AdapterBlob) and call[0] == "load_adapter"
                        else self._on_workers(call[0], *call[1])
                    )
                except REFUSALS as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(result)
        except StopIteration as end:
            proof: SyncProof = end.value
        if request is None:
            self._empty_caches()
        self._policy = (request, blob.version)
        return proof

    def use_base_model(self) -> None:
        """Answers from now on come from the base model."""
        if self._policy is not None and self._settings.lora_rank == 0:
            self.load_policy(read_weights(self._settings.model_path, BASE_VERSION))
        self._policy = None

    def sleep(self) -> None:
        """Gives the GPU's memory away until the next call that needs it: weights wait in the host's memory."""
        if self._settings.can_sleep and not self._is_asleep:
            self._llm.sleep(level=1)
            self._is_asleep = True

    @property
    def _lora_request(self) -> Any:
        return self._policy[0] if self._policy else None

    def _empty_caches(self) -> None:
        """Forgets whatever was computed with other weights."""
        engine = self._llm.llm_engine
        engine.reset_mm_cache()
        engine.reset_encoder_cache()
        if not engine.reset_prefix_cache():
            raise SyncError("the engine's cache of prefixes cannot be emptied: an answer is being drawn")

    def _refusal(self, error: Exception, where: str) -> ConfigError:
        remedy = f"raise rollout.max_model_len (now {self._settings.max_model_len}) or lower model.max_pixels"
        return ConfigError(f"vLLM refuses a prompt: {error}", where=where, remedy=remedy)

    def _wake(self) -> None:
        if self._is_asleep:
            self._llm.wake_up()
            self._is_asleep = False

    def _next_request(self, version: int) -> Any:
        from vllm.lora.request import LoRARequest

        self._num_loads += 1
        name = f"policy-v{version}-{self._num_loads}"
        return LoRARequest(name, self._num_loads, f"memory/{name}")

    def _bind(self, request: Any, blob: AdapterBlob) -> Any:
        if self._settings.sync == "bytes":
            return self._on_workers("load_adapter", request.lora_int_id)
        memory_dir = _MEMORY_DIR if _MEMORY_DIR.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="fxray-adapter-", dir=memory_dir) as folder:
            write_atomically(Path(folder) / "adapter_config.json", json.dumps(blob.peft_config))
            write_atomically(Path(folder) / "adapter_model.safetensors", blob.safetensors)
            request.lora_path = folder
            return self._llm.llm_engine.add_lora(request)

    def _on_workers(self, method: str, *args: object) -> Any:
        """Calls a method of `WorkerExtension` on every rank; they must agree."""
        results = self._llm.collective_rpc(method, args=args)
        if any(result != results[0] for result in results):
            raise SyncError(f"the ranks of the engine disagree in {method}: {results}")
        return results[0]

    def _sampling_params(self, question: Question, sampling: SamplingSettings) -> Any:
        from vllm import SamplingParams

        watched_ids = self._watched(sampling)
        return SamplingParams(
            n=sampling.group_size,
            temperature=sampling.temperature,
            max_tokens=sampling.max_new_tokens,
            seed=answer_seed(question.seed, 0),
            logit_bias=self._forbidden,
            logprobs=None if watched_ids else 0,
            logprob_token_ids=list(watched_ids) or None,
            flat_logprobs=True,
            detokenize=False,
            skip_special_tokens=False,
        )

    def _watched(self, sampling: SamplingSettings) -> tuple[int, ...]:
        return self._verdicts.watched if sampling.asks_probability else ()

    def _answers(self, output: Any, watched_ids: tuple[int, ...]) -> Answers:
        completions = sorted(output.outputs, key=lambda completion: completion.index)
        rollouts = []
        for completion in completions:
            if completion.finish_reason not in {"stop", "length"}:
                raise FxrayError(f"vLLM ended an answer with {completion.finish_reason!r}")
            token_ids = np.asarray(completion.token_ids, dtype=np.int32)
            logprobs, watched_T2 = read_logprobs(completion, watched_ids)
            ids = token_ids.tolist()
            rollouts.append(
                Rollout(
                    token_ids=token_ids,
                    logprobs=logprobs,
                    text=self._tokenizer.decode(
                        token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
                    ),
                    is_finished=completion.finish_reason == "stop",
                    probability=probability_generated(ids, watched_T2, self._verdicts) if watched_ids else None,
                )
            )
        return Answers(np.asarray(output.prompt_token_ids, dtype=np.int32), tuple(rollouts))
