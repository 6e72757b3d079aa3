"""Reward schedules: the stages of GRPO as data (paper, section 4.4).

A preset is a file in configs/schedules; a user's own file may hold any number of stages, in their order:

    stages:
      - name: alpha
        epochs: 1
        rewards: {r_base: 0, w_iou: 1, label: {right: 1, wrong: -1}, format: {right: 2, wrong: -1}}
"""

import math
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fxray.config.document import read_document
from fxray.config.load import find_yaml, shipped_folder
from fxray.config.section import Count, Positive, Section
from fxray.config.validate import validate


class RightWrong(Section):
    """The two values of a reward that is either earned or not."""

    right: float
    wrong: float

    @model_validator(mode="after")
    def _right_is_better(self) -> "RightWrong":
        if self.right <= self.wrong:
            raise ValueError(f"`right` must earn more than `wrong`, got {self.right} and {self.wrong}")
        return self


class RewardWeights(Section):
    """R = r_base + w_iou R_G + w_label R_C + w_format R_F."""

    r_base: float = 0.0
    """Added to every answer; it cancels in the group advantage and only moves the logged curve."""
    w_iou: float
    """Weight of the relaxed IoU, at the start of the stage."""
    w_iou_final: float | None = None
    """Weight of the relaxed IoU at the end of the stage, reached linearly; by default it does not move."""
    label: RightWrong
    """Reward of a right and of a wrong verdict."""
    w_label: float = 1.0
    format: RightWrong
    """Reward of an answer in the strict form, and of any other."""
    w_format: float = 1.0
    eta: Positive = 1.1
    """Relaxing constant: R_G = min(1, eta IoU)."""
    matching: Literal["union", "nearest"] = "union"
    """IoU of the united areas (the paper's text), or of nearest pairs of boxes (the authors' code)."""
    functions: dict[str, float] = Field(default_factory=dict)
    """Weights of rewards of one's own in this stage, by their path; by default those in reward.functions."""


class Stage(Section):
    """One stage: its rewards, its length, and what differs from the `grpo` section."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    """Lower case, digits and dashes: it names a folder and the rows of the report."""
    rewards: RewardWeights
    epochs: Positive = 1.0
    """Passes over the training split, where neither `steps` here nor grpo.steps_per_stage says otherwise."""
    steps: Count | None = None
    """Updates; it goes before `epochs` and grpo.steps_per_stage."""
    learning_rate: Positive | None = None
    max_new_tokens: Count | None = None
    reference: Literal["sft", "previous-stage"] | None = None

    def num_steps(self, steps_per_stage: int, num_samples: int, prompts_per_step: int) -> int:
        """Updates of this stage: its own `steps`, else `grpo.steps_per_stage`, else its epochs."""
        return self.steps or steps_per_stage or _steps_of_epochs(self.epochs, num_samples, prompts_per_step)


def num_sft_steps(num_samples: int, *, epochs: float, batch_size: int, max_steps: int) -> int:
    """Updates of SFT on a training split of so many samples: those of the epochs, at least one, at most `max_steps`."""
    of_epochs = _steps_of_epochs(epochs, num_samples, batch_size)
    return min(of_epochs, max_steps) if max_steps else of_epochs


def _steps_of_epochs(epochs: float, num_samples: int, batch_size: int) -> int:
    """Batches that hold so many samples so often, at least one; 1.1 is meant as it is written, and is no float."""
    return max(1, math.ceil(Fraction(str(epochs)) * num_samples / batch_size))


class Schedule(Section):
    """The stages, in order."""

    stages: tuple[Stage, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> "Schedule":
        if not self.stages:
            raise ValueError("a schedule needs at least one stage")
        names = [stage.name for stage in self.stages]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"stage names must differ, got {', '.join(twice)} twice")
        if reserved := sorted({"sft", "no-ft"} & set(names)):
            raise ValueError(f"a stage cannot be called {reserved[0]}")
        return self


def load_stages(path_or_name: str | Path) -> tuple[Stage, ...]:
    """The stages of a preset or of a YAML file.

    Raises:
        ConfigError: There is no such schedule, or a stage has an unknown key or a value out of bounds.
    """
    path = find_yaml(path_or_name, shipped_folder() / "schedules", kind="schedule")
    return validate(Schedule, read_document(path), where=str(path)).stages
