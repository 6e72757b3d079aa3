"""What flows around one GRPO step, as plain values. Nothing here holds pixels: images travel as references.

Legend: P prompt tokens (image placeholders included), R tokens of one answer, G answers of a group.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fxray.config.families import FAMILIES
from fxray.data.frame import Frame
from fxray.schema import Annotation, Sample

FORBIDDEN_TOKENS = {"<|video_pad|>", "<|vision_pad|>", "<|vision_start|>", "<|vision_end|>", "<video>"}.union(
    *({family.placeholder, family.image_start, family.image_end} - {""} for family in FAMILIES.values())
)
"""Tokens that are never sampled, as far as a vocabulary has them: they stand for pixels. Sampled log-probabilities are
over the rest of the vocabulary, so a learner that agrees with the sampler gives these tokens the logit minus infinity
too."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where the encoded image of a sample lies.

    Attributes:
        handle: Whatever the image store gave out: an object reference under Ray, bytes in one process.
        num_bytes: Size of the encoded image.
    """

    handle: object
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Visit:
    """A row of a dataset whose image is asked for.

    Attributes:
        row: Its number.
        change_key: What `fxray.data.augment` draws from how the image is changed; None for one that stays as it is.
    """

    row: int
    change_key: tuple[object, ...] | None = None


@dataclass(frozen=True, slots=True)
class SeenImage:
    """The image of a visit.

    Attributes:
        ref: Where it lies.
        moved: Size and regions of one that was changed; None for one that is as the dataset has it.
    """

    ref: ImageRef
    moved: Sample | None = None


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """One image and question, for which G answers are drawn.

    Attributes:
        group_id: Unique within the run: "stage/step/position".
        sample_id: The dataset's id.
        image: Reference to the encoded image, moved once per group.
        prompt: Chat-formatted text with one image placeholder.
        annotation: The truth, boxes in original pixels.
        frame: Original and model frame of the image.
        seed: Seed of the group; answer i is drawn with a seed derived from it and i alone.
    """

    group_id: str
    sample_id: str
    image: ImageRef
    prompt: str
    annotation: Annotation
    frame: Frame
    seed: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer.

    Attributes:
        token_ids: int32 [R], the end token included when the model gave one.
        logprobs: float32 [R], log-probability of each token under the sampler at its temperature.
        text: Decoded with special tokens kept.
        is_finished: False when cut at the length limit.
        probability: Of "generated" against "real" where the answer chose its verdict; None where it has none, or the
            sampling did not ask for it.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    text: str
    is_finished: bool
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The G answers of a prompt.

    Attributes:
        prompt: What was asked.
        prompt_token_ids: int32 [P], image placeholders expanded by the engine.
        rollouts: G answers in order of their index.
        policy_version: The adapter that they were drawn from.
    """

    prompt: PromptGroup
    prompt_token_ids: NDArray[np.int32]
    rollouts: tuple[Rollout, ...]
    policy_version: int


@dataclass(frozen=True, slots=True)
class GroupScore:
    """What the rewards say of a group.

    Attributes:
        group_id: The group.
        rewards_G: float64 [G], the weighted sums; 0 where masked.
        parts: Per part ("label", "iou", "format", a user's own name) float64 [G], unweighted.
        is_valid_G: bool [G], False where scoring failed or timed out: masked, never scored 0.
        facts: Further per-answer numbers that are only logged ("is_strict", "is_right", "num_boxes", ...).
    """

    group_id: str
    rewards_G: NDArray[np.float64]
    parts: dict[str, NDArray[np.float64]]
    is_valid_G: NDArray[np.bool_]
    facts: dict[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """A group that is ready for the learner.

    Attributes:
        rollouts: The answers.
        advantages_G: float32 [G]; 0 where masked or where the group has no spread.
        is_valid_G: bool [G]; masked answers leave every mean and denominator.
    """

    rollouts: RolloutGroup
    advantages_G: NDArray[np.float32]
    is_valid_G: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """The numbers of one update that do not live in the optimizer."""

    learning_rate: float
    temperature: float
    clip_low: float
    clip_high: float
    kl_beta: float
    loss_aggregation: str
    importance_cap: float
    num_updates: int
    max_new_tokens: int
    kl_without_spread: bool = True
    """Whether groups without spread in their rewards are learnt from too, by their KL term alone."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How answers are drawn. `temperature` 0 is greedy; `asks_probability` also asks for `Rollout.probability`."""

    group_size: int
    temperature: float
    max_new_tokens: int
    asks_probability: bool = False


@dataclass(frozen=True, slots=True)
class Validation:
    """Held-out images that a policy answers while it is trained.

    Attributes:
        every_steps: Steps between two times.
        sampling: How they are answered.
        batches: Reads their prompts, some at a time.
    """

    every_steps: int
    sampling: SamplingSettings
    batches: Callable[[], Iterable[Sequence[PromptGroup]]]


@dataclass(frozen=True, slots=True)
class AdapterBlob:
    """A published adapter.

    Attributes:
        version: Policy version; grows by one per publication within a run.
        safetensors: PEFT-named tensors as safetensors bytes.
        peft_config: Content of adapter_config.json.
        sha256: Of `safetensors`.
        num_modules: LoRA modules in it; each must be bound by the engine.
    """

    version: int
    safetensors: bytes
    peft_config: dict[str, object]
    sha256: str
    num_modules: int

    @property
    def num_bytes(self) -> int:
        return len(self.safetensors)


@dataclass(frozen=True, slots=True)
class WeightsBlob:
    """All weights of a model, published as a whole; their bytes stay where the learner has put them.

    Attributes:
        version: Policy version; grows by one per publication within a run.
        pieces: The tuple of uint8 arrays that `fxray.tensor_file` makes, or a reference to it in the object store.
        sha256: Over the pieces, one after the other.
        num_modules: Tensors in it; the engine must compute with each.
        num_bytes: Of all pieces.
    """

    version: int
    pieces: object
    sha256: str
    num_modules: int
    num_bytes: int


PolicyBlob = AdapterBlob | WeightsBlob
"""What is trained of a policy, as it travels from the learner to the engines."""


@dataclass(frozen=True, slots=True)
class SyncProof:
    """What a worker acknowledges after loading a policy."""

    worker: str
    version: int
    sha256: str
    num_bound_modules: int


@dataclass(frozen=True, slots=True)
class ProbeGap:
    """How far the sampler's log-probabilities of answer tokens lie from the learner's, |difference| in nats.

    Attributes:
        mean_nats: Over all tokens: what a wrong policy moves, and rounding hardly.
        largest_nats: Of one token.
    """

    mean_nats: float
    largest_nats: float
