"""A policy of one number behind all four ports of the loop, and a stage of it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fxray.data.frame import Frame
from fxray.grpo.loop import Cursor, Ports, StagePlan, run_stage
from fxray.grpo.types import (
    AdapterBlob,
    GroupScore,
    ImageRef,
    ProbeGap,
    PromptGroup,
    Rollout,
    RolloutGroup,
    SamplingSettings,
    SyncProof,
    TrainingGroup,
    UpdateSettings,
    Validation,
)
from fxray.schema import Annotation, Verdict
from rewards.stage import RightWrong, StageRewards

G = 4
FRAME = Frame(112, 112, 112, 112)


class Bandit:
    """A policy of one number. An answer is a digit near it; the reward is the digit: the number must grow."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.policy = 2.0
        self.published = (-1, float("nan"))
        self.gap = ProbeGap(0.0, 0.0)
        self.masked: set[int] = set()
        self.rates: list[float] = []
        self.advantages: list[np.ndarray] = []

    # Generator
    def generate(self, prompts: Sequence[PromptGroup], sampling: SamplingSettings) -> list[RolloutGroup]:
        version, policy = self.published
        self.calls.append(f"generate v{version}")
        return [self._group(prompt, sampling.group_size, version, policy) for prompt in prompts]

    def _group(self, prompt: PromptGroup, size: int, version: int, policy: float) -> RolloutGroup:
        draws = np.random.default_rng(prompt.seed).normal(policy, 1.0, size)
        rollouts = tuple(
            Rollout(np.array([1, 2], np.int32), np.array([-0.5, -0.5], np.float32), f"{draw:.6f}", True)
            for draw in draws
        )
        return RolloutGroup(prompt, np.array([9, 9, 9], np.int32), rollouts, version)

    # Scorer
    def score(self, groups: Sequence[RolloutGroup], stage: StageRewards, progress_frac: float) -> list[GroupScore]:
        self.calls.append(f"score {progress_frac:g}")
        scores = []
        for group in groups:
            rewards = np.array([float(rollout.text) for rollout in group.rollouts])
            valid = np.array([i not in self.masked for i in range(len(rewards))])
            parts = {"label": rewards, "iou": 0 * rewards}
            scores.append(GroupScore(group.prompt.group_id, np.where(valid, rewards, 0), parts, valid))
        return scores

    # Learner
    def update(self, groups: Sequence[TrainingGroup], settings: UpdateSettings) -> dict[str, float]:
        self.calls.append("update")
        self.rates.append(settings.learning_rate)
        self.advantages += [group.advantages_G for group in groups]
        for group in groups:
            texts = np.array([float(rollout.text) for rollout in group.rollouts.rollouts])
            self.policy += settings.learning_rate * float((group.advantages_G * (texts - self.policy)).mean())
        return {"loss": 0.0}

    def export_policy(self, version: int) -> AdapterBlob:
        data = np.float64(self.policy).tobytes()
        return AdapterBlob(version, data, {}, hashlib.sha256(data).hexdigest(), 1)

    def set_reference(self, folder: Path | None = None) -> None: ...

    def reset_optimizer(self) -> None: ...

    def probe(self, groups: Sequence[RolloutGroup], temperature: float) -> ProbeGap:
        self.calls.append("probe")
        return self.gap

    def save(self, path: Path) -> None: ...

    def load(self, path: Path) -> None: ...

    # Publisher
    def publish(self, adapter: AdapterBlob) -> list[SyncProof]:
        self.calls.append(f"publish v{adapter.version}")
        self.published = (adapter.version, float(np.frombuffer(adapter.safetensors)[0]))
        return [SyncProof("fake", adapter.version, adapter.sha256, 1)]

    @property
    def ports(self) -> Ports:
        return Ports(self, self, self, self)


REWARDS = StageRewards("alpha", 0.0, 1.0, RightWrong(1.0, -1.0), RightWrong(2.0, -1.0))


def plan(num_steps: int = 6, probe_every_steps: int = 0, rate_decay: str = "none", max_staleness: int = 0) -> StagePlan:
    sampling = SamplingSettings(G, 1.0, 8)
    update = UpdateSettings(0.1, 1.0, 0.2, 0.2, 0.0, "answer", 2.0, 1, 8)
    numbers = (2, rate_decay, "group-std", probe_every_steps, 1e-3, max_staleness)
    return StagePlan("alpha", REWARDS, num_steps, sampling, update, *numbers)


def draw(step: int) -> list[PromptGroup]:
    return [
        PromptGroup(f"alpha/{step}/{i}", f"s{i}", ImageRef(b"", 0), "?", Annotation(Verdict.REAL), FRAME, 10 * step + i)
        for i in range(2)
    ]


def run(bandit: Bandit, cursor: Cursor = Cursor("alpha", 0, 0), validation: Validation | None = None, **kwargs):
    history = []
    end = run_stage(
        plan(**kwargs),
        cursor,
        bandit.ports,
        draw=draw,
        observe=lambda cursor, metrics: history.append((cursor, metrics)),
        save=lambda cursor, _: bandit.calls.append(f"save {cursor.step}"),
        validation=validation,
    )
    return end, history
