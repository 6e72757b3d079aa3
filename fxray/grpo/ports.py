"""The four ports of the GRPO loop. Actors implement them over Ray; unit tests implement them in one process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fxray.grpo.types import (
    GroupScore,
    PolicyBlob,
    ProbeGap,
    PromptGroup,
    RolloutGroup,
    SamplingSettings,
    SyncProof,
    TrainingGroup,
    UpdateSettings,
)
from rewards.stage import StageRewards


class Generator(Protocol):
    """Draws answers from the newest published policy."""

    def generate(self, prompts: Sequence[PromptGroup], sampling: SamplingSettings) -> list[RolloutGroup]:
        """Returns one group per prompt, in the order of `prompts`, whatever worker drew it."""
        ...


class Scorer(Protocol):
    """Scores answers."""

    def score(self, groups: Sequence[RolloutGroup], stage: StageRewards, progress_frac: float) -> list[GroupScore]:
        """Returns one score per group, in order; what could not be scored is masked.

        Args:
            groups: Answers with their prompts.
            stage: Reward weights of the stage.
            progress_frac: t / T within the stage, for weights that move.
        """
        ...


class Learner(Protocol):
    """Holds the policy, its optimizer and the reference."""

    def update(self, groups: Sequence[TrainingGroup], settings: UpdateSettings) -> dict[str, float]:
        """Applies `settings.num_updates` optimizer steps; returns metrics by name."""
        ...

    def export_policy(self, version: int) -> PolicyBlob:
        """What is trained of the policy, ready to travel."""
        ...

    def set_reference(self, folder: Path | None = None) -> None:
        """Makes the present policy the reference of the KL term, or the one in a folder."""
        ...

    def interpolate(self, liti_eta: float) -> None:
        """Keeps that share of the policy's way from the reference, weight by weight."""
        ...

    def reset_optimizer(self) -> None:
        """Forgets the optimizer's moments, as at the start of a stage."""
        ...

    def probe(self, groups: Sequence[RolloutGroup], temperature: float) -> ProbeGap:
        """How far the sampler's log-probabilities in `groups` lie from the learner's."""
        ...

    def save(self, path: Path) -> None:
        """Writes policy (in `path/adapter`), reference and optimizer below an existing folder `path`."""
        ...

    def load(self, path: Path) -> None:
        """Restores what `save` wrote, bit for bit."""
        ...


class Publisher(Protocol):
    """Brings a policy into every rollout worker and proves it."""

    def publish(self, policy: PolicyBlob) -> list[SyncProof]:
        """Returns one proof per worker; raises SyncError where version, checksum or bound modules differ."""
        ...
