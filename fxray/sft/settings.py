"""The plain values of an SFT job."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

from fxray.config.schedule import num_sft_steps
from fxray.counts import counted
from fxray.errors import ConfigError
from fxray.grammar.prompts import TemplateSetting
from fxray.grammar.views import RegionOrder, ViewName

LongAnswer = Literal["error", "drop-regions"]

MERELY_HOW = frozenset(
    {"model_path", "dataset_path", "gradient_checkpointing", "num_workers", "gpus_per_worker"}
    | {
        "max_tokens_per_micro_batch",
        "node_resources",
        "threads",
        "zero_stage",
        "checkpoint_every_steps",
        "max_failures",
    }
    | {"start_deadline_s", "step_deadline_s", "on_corrupt_image"}
    | {"validation_path", "validation_rows", "validate_every_steps"}
)
"""Where and in how many parts the work is done, and what stops it; what comes out is the same but for rounding and what
drops out, so a run with dropout keeps its workers and the samples of a pass (`fxray.launch.run`)."""


@dataclass(frozen=True, slots=True)
class SftSettings:
    """Everything that makes one SFT job.

    Attributes:
        model_path: Folder or name of the base model.
        dataset_path: Parquet file of the training split.
        dtype: Type of the base weights, "float32" or "bfloat16"; what is trained is float32.
        min_pixels: Smallest area of an image in the model's frame, in square pixels.
        max_pixels: Largest such area.
        lora_rank: Rank of the adapter; 0 trains all weights, in float32.
        lora_alpha: Each update is scaled by alpha / rank.
        lora_dropout: Dropout on the adapter's input.
        gradient_checkpointing: Recompute activations in the backward pass.
        epochs: Passes over the data.
        max_steps: Upper bound on the steps; 0 for none.
        learning_rate: Highest rate, reached after warm-up.
        warmup_frac: Part of the steps in which the rate rises; then it falls along a cosine.
        batch_size: Samples per step over all workers.
        max_tokens_per_micro_batch: Tokens of a pass of one worker; a longer sample has one of its own.
        weight_decay: Of AdamW.
        max_grad_norm: Gradients are clipped to this norm.
        num_workers: Ranks.
        gpus_per_worker: GPUs of a rank; 0 trains on the CPU.
        node_resources: Custom resources that a rank takes of its node.
        threads: CPU threads of a rank; 0 shares the processors of a node between its ranks.
        zero_stage: DeepSpeed ZeRO stage.
        checkpoint_every_steps: Steps between two checkpoints.
        max_failures: Deaths of workers that the job survives.
        start_deadline_s: For the workers to have a place and to load the model.
        step_deadline_s: For any step.
        max_answer_tokens: Bound on an answer.
        on_long_answer: Stop at a longer answer, or drop its last regions until it fits.
        augment_share: Share of the samples whose image is changed as on its way through the net.
        templates: Which sets of chat templates there are.
        view: What answers speak of.
        region_order: Regions of an answer as annotated, or by position.
        on_corrupt_image: Stop at an image that cannot be read, or leave it out of its step.
        seed: Of order, templates, initial adapter and dropout.
        validation_path: Parquet file of held-out samples.
        validation_rows: Of them those whose loss is measured on the way, each of which can be taught.
        validate_every_steps: Steps between two times; 0 for never.
    """

    model_path: str
    dataset_path: str
    dtype: Literal["float32", "bfloat16"]
    min_pixels: int
    max_pixels: int
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    gradient_checkpointing: bool
    epochs: float
    max_steps: int
    learning_rate: float
    warmup_frac: float
    batch_size: int
    max_tokens_per_micro_batch: int
    weight_decay: float
    max_grad_norm: float
    num_workers: int
    gpus_per_worker: float
    node_resources: dict[str, float]
    threads: int
    zero_stage: int
    checkpoint_every_steps: int
    max_failures: int
    start_deadline_s: float
    step_deadline_s: float
    max_answer_tokens: int
    on_long_answer: LongAnswer
    augment_share: float
    templates: TemplateSetting
    view: ViewName
    region_order: RegionOrder
    on_corrupt_image: Literal["error", "skip"]
    seed: int
    validation_path: str = ""
    validation_rows: tuple[int, ...] = ()
    validate_every_steps: int = 0

    def __post_init__(self) -> None:
        if self.batch_size % self.num_workers:
            raise ConfigError(
                f"{counted(self.batch_size, 'sample does', 'samples do')} not divide into "
                f"{counted(self.num_workers, 'worker')}",
                where="sft.batch_size",
                remedy=f"choose a multiple of {self.num_workers}",
            )

    def num_steps(self, num_samples: int) -> int:
        """Updates in all, for a training split of so many samples; at least one."""
        return num_sft_steps(num_samples, epochs=self.epochs, batch_size=self.batch_size, max_steps=self.max_steps)

    def rate(self, step: int, num_steps: int) -> float:
        """Learning rate of a step, from 0 to `num_steps - 1`: linear warm-up, then half a cosine down towards 0."""
        num_warmup = math.ceil(self.warmup_frac * num_steps)
        if step < num_warmup:
            return self.learning_rate * (step + 1) / num_warmup
        done_frac = (step - num_warmup) / (num_steps - num_warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done_frac))

    def identity(self) -> dict[str, object]:
        """The values that decide what comes out; a checkpoint belongs to one identity."""
        return {name: value for name, value in asdict(self).items() if name not in MERELY_HOW}
