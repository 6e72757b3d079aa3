"""One engine in an actor. It holds no run state: whatever it is asked for, the request says everything."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, ObjectLostError

from actors.encoded_images import fetch_images
from fxray.data.decoding import by_threads
from fxray.data.images import decode_image
from fxray.engine.engine import Engine, Question
from fxray.engine.settings import EngineSettings
from fxray.errors import DeadlineError, SyncError
from fxray.grpo.types import PolicyBlob, PromptGroup, Rollout, RolloutGroup, SamplingSettings, SyncProof, WeightsBlob
from fxray.large_imports import large_imports
from fxray.processors import num_processors
from fxray.tensor_file import Bytes

HEALTH = "health"
"""Concurrency group in which health questions are answered."""
WEIGHTS_DEADLINE_S = 900.0
"""For whole weights to arrive from another node's object store."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker must know of a prompt group; the truth stays with the driver."""

    group_id: str
    sample_id: str
    prompt: str
    image: object
    seed: int

    @classmethod
    def of(cls, group: PromptGroup) -> "Job":
        return cls(group.group_id, group.sample_id, group.prompt, group.image.handle, group.seed)


@dataclass(frozen=True, slots=True)
class Draw:
    """The answers of a group as few flat arrays, which is how they travel.

    Attributes:
        group_id: The group.
        policy_version: What they were drawn from.
        prompt_token_ids: int32 [P].
        token_ids: int32 [sum of R], all answers one after the other.
        logprobs: float32 [sum of R].
        lengths_G: int32 [G], R of each answer.
        is_finished_G: bool [G].
        probabilities_G: float64 [G], of "generated"; NaN where there is none.
        texts: G texts.
    """

    group_id: str
    policy_version: int
    prompt_token_ids: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    lengths_G: NDArray[np.int32]
    is_finished_G: NDArray[np.bool_]
    probabilities_G: NDArray[np.float64]
    texts: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        arrays = (self.prompt_token_ids, self.token_ids, self.logprobs)
        per_answer = (self.lengths_G, self.is_finished_G, self.probabilities_G)
        return sum(array.nbytes for array in (*arrays, *per_answer)) + sum(len(text.encode()) for text in self.texts)

    def to_group(self, prompt: PromptGroup) -> RolloutGroup:
        """The answers beside their question."""
        ends = np.cumsum(self.lengths_G)[:-1]
        parts = zip(
            np.split(self.token_ids, ends),
            np.split(self.logprobs, ends),
            self.texts,
            self.is_finished_G.tolist(),
            (None if np.isnan(probability) else float(probability) for probability in self.probabilities_G),
            strict=True,
        )
        rollouts = tuple(Rollout(*part) for part in parts)
        return RolloutGroup(prompt, self.prompt_token_ids, rollouts, self.policy_version)


class RolloutWorker:
    """Draws answers; the engine comes up in `start`, so that its failure arrives with its reason.

    Args:
        settings: The engine's.
        name: Named in proofs and errors.
    """

    def __init__(self, settings: EngineSettings, name: str) -> None:
        self._settings = settings
        self._name = name

    def start(self) -> None:
        """Brings the engine up with the base model.

        Raises:
            ModelError: vLLM cannot drive the model with these settings.
        """
        with large_imports():
            self._engine = Engine(self._settings)
        self._engine.sleep()

    @ray.method(concurrency_group=HEALTH)
    def health(self) -> str:
        """Says, whatever the engine does meanwhile, that the process is alive, and on which node."""
        return str(ray.get_runtime_context().get_node_id())

    def rest(self) -> None:
        """Lets others have the GPU's memory until the next request, if the engine can sleep."""
        self._engine.sleep()

    def load_policy(self, policy: PolicyBlob) -> SyncProof:
        """Takes over a policy and proves it.

        Raises:
            SyncError: The bytes are not what was published, or the engine does not compute with all of them.
            DeadlineError: Whole weights do not arrive.
        """
        if isinstance(policy, WeightsBlob):
            policy = replace(policy, pieces=fetch_pieces(policy))
        return self._engine.load_policy(policy, self._name)

    def use_base_model(self) -> None:
        """Goes back to the base model."""
        self._engine.use_base_model()

    def generate(self, jobs: Sequence[Job], sampling: SamplingSettings) -> list[Draw]:
        """Draws one group per job, in order.

        Raises:
            DataError: An image cannot be read.
            ConfigError: A prompt is too long.
            DeadlineError: Images do not arrive on this node.
            FxrayError: They are lost, or the engine fails.
        """
        encoded = fetch_images([job.image for job in jobs], f"groups {jobs[0].group_id} to {jobs[-1].group_id}")
        names, threads = [job.sample_id for job in jobs], self._settings.threads or num_processors()
        images = by_threads(decode_image, threads, encoded, names)  # those of the engine, which has nothing to do yet
        questions = [
            Question(job.prompt, image, job.seed, job.sample_id) for job, image in zip(jobs, images, strict=True)
        ]
        version = self._engine.policy_version
        return [
            _flat(job.group_id, version, answers.prompt_token_ids, answers.rollouts)
            for job, answers in zip(jobs, self._engine.generate(questions, sampling), strict=True)
        ]


RolloutActor: Any = ray.remote(concurrency_groups={HEALTH: 1})(RolloutWorker)


def rollout_spawner(settings: EngineSettings, actor_options: dict[str, Any]) -> Callable[[str], Any]:
    """Makes rollout actors by name, given Ray's options for where they run."""
    return lambda name: RolloutActor.options(**actor_options).remote(settings, name)


def fetch_pieces(policy: WeightsBlob) -> tuple[Bytes, ...]:
    """The pieces of whole weights, in this node's shared memory where they come from the object store.

    Raises:
        DeadlineError: They do not arrive.
        SyncError: They are lost.
    """
    pieces: Any = policy.pieces
    try:
        return ray.get(pieces, timeout=WEIGHTS_DEADLINE_S) if isinstance(pieces, ray.ObjectRef) else pieces
    except GetTimeoutError as error:
        raise DeadlineError(
            f"{policy.num_bytes} bytes of weights did not arrive within {WEIGHTS_DEADLINE_S:g} s",
            where=f"policy version {policy.version}",
        ) from error
    except ObjectLostError as error:
        raise SyncError(
            f"the weights are lost: {error}",
            where=f"policy version {policy.version}",
            remedy="the node of the learner died; continue the run",
        ) from error


def _flat(group_id: str, version: int, prompt_token_ids: NDArray[np.int32], rollouts: Sequence[Rollout]) -> Draw:
    return Draw(
        group_id=group_id,
        policy_version=version,
        prompt_token_ids=prompt_token_ids,
        token_ids=np.concatenate([rollout.token_ids for rollout in rollouts]),
        logprobs=np.concatenate([rollout.logprobs for rollout in rollouts]),
        lengths_G=np.array([len(rollout.token_ids) for rollout in rollouts], dtype=np.int32),
        is_finished_G=np.array([rollout.is_finished for rollout in rollouts], dtype=np.bool_),
        probabilities_G=np.array([rollout.probability for rollout in rollouts], dtype=np.float64),
        texts=tuple(rollout.text for rollout in rollouts),
    )
