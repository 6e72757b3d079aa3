"""The loop over in-process ports: what it hands on, in which order, and that a continued stage is the same stage."""

import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fxray.data.frame import Frame
from fxray.errors import CheckpointError, DataError, SyncError
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


def run(bandit: Bandit, cursor: Cursor = Cursor("alpha", 0, 0), **kwargs):
    history = []
    end = run_stage(
        plan(**kwargs),
        cursor,
        bandit.ports,
        draw=draw,
        observe=lambda cursor, metrics: history.append((cursor, metrics)),
        save=lambda cursor, _: bandit.calls.append(f"save {cursor.step}"),
    )
    return end, history


def test_a_step_samples_from_the_policy_that_the_last_step_made() -> None:
    bandit = Bandit()
    end, _ = run(bandit, num_steps=2)
    assert end == Cursor("alpha", 2, 2)
    assert bandit.calls == [
        *("publish v0", "generate v0", "score 0", "probe", "update", "save 1"),
        *("publish v1", "generate v1", "score 0.5", "update", "save 2"),
        *("publish v2", "generate v2", "probe"),
    ]


def test_the_policy_climbs_its_reward() -> None:
    bandit = Bandit()
    _, history = run(bandit, num_steps=40)
    rewards = [metrics["reward"] for _, metrics in history]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.5
    assert history[0][1]["num_tokens"] == 2 * G * 2


class KilledError(Exception):
    pass


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 4])
@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_a_continued_stage_equals_the_uninterrupted_one(killed_after: int, max_staleness: int) -> None:
    whole, first, second = Bandit(), Bandit(), Bandit()
    _, history = run(whole, num_steps=6, max_staleness=max_staleness, probe_every_steps=2)
    kept: list[tuple[float, list[AdapterBlob]]] = []

    def die(cursor: Cursor, past: Sequence[AdapterBlob]) -> None:
        if cursor.step == killed_after:
            kept.append((first.policy, list(past)))
            raise KilledError

    present = plan(6, 2, max_staleness=max_staleness)
    with pytest.raises(KilledError):
        run_stage(present, Cursor("alpha", 0, 0), first.ports, draw=draw, observe=lambda *_: None, save=die)
    ((second.policy, past),) = kept
    assert len(past) == min(killed_after, max_staleness)
    rest = []
    end = run_stage(
        present,
        Cursor("alpha", killed_after, killed_after),
        second.ports,
        draw=draw,
        observe=lambda _, metrics: rest.append(metrics),
        save=lambda *_: None,
        past=past,
    )
    assert end == Cursor("alpha", 6, 6)
    assert second.policy == whole.policy
    assert [m["reward"] for m in rest] == [m["reward"] for _, m in history[killed_after:]]


def test_what_a_probe_measured_is_among_the_metrics_of_its_step() -> None:
    bandit = Bandit()
    bandit.gap = ProbeGap(1e-5, 1e-4)
    _, history = run(bandit, num_steps=3, probe_every_steps=2)
    assert [metrics.get("probe_gap_nats") for _, metrics in history] == [1e-4, None, 1e-4]
    assert [metrics.get("probe_mean_nats") for _, metrics in history] == [1e-5, None, 1e-5]


def test_the_rate_warms_up() -> None:
    bandit = Bandit()
    run(bandit, num_steps=4)
    assert bandit.rates == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1])


def test_the_rate_may_fall_to_nothing_by_the_end_of_the_stage() -> None:
    bandit = Bandit()
    run(bandit, num_steps=6, rate_decay="linear")
    assert bandit.rates == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.075, 0.05, 0.025])


def test_a_rate_that_falls_from_its_peak_alone_is_still_the_peak() -> None:
    bandit = Bandit()
    run(bandit, num_steps=3, rate_decay="linear")
    assert bandit.rates == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])


def test_a_masked_answer_leaves_means_and_advantages() -> None:
    bandit = Bandit()
    bandit.masked = {0}
    _, history = run(bandit, num_steps=1)
    assert history[0][1]["num_masked"] == 2
    for advantages_G in bandit.advantages:
        assert advantages_G[0] == 0
        assert advantages_G[1:].sum() == pytest.approx(0, abs=1e-5)


def test_a_group_without_spread_is_counted_and_has_no_advantage() -> None:
    bandit = Bandit()
    bandit.masked = {1, 2, 3}
    _, history = run(bandit, num_steps=1)
    assert history[0][1]["num_groups_without_spread"] == 2
    assert all((advantages_G == 0).all() for advantages_G in bandit.advantages)


@pytest.mark.parametrize(
    "gap", [(1.1e-3, 1.1e-3), (1e-6, 1.1e-2), (0.8, 0.9), (float("nan"), 0.0), (0.0, float("nan"))]
)
def test_a_sampler_that_ignores_the_adapter_stops_the_stage(gap: tuple[float, float]) -> None:
    bandit = Bandit()
    bandit.gap = ProbeGap(*gap)
    with pytest.raises(
        SyncError, match=r"stage alpha, policy version 0.*differ from the learner's .* 1e-03 .* 1e-02\n"
    ):
        run(bandit)
    assert "update" not in bandit.calls


def test_a_gap_that_is_just_the_tolerance_stops_nothing() -> None:
    bandit = Bandit()
    bandit.gap = ProbeGap(1e-3, 1e-2)
    assert run(bandit, num_steps=1)[0] == Cursor("alpha", 1, 1)


def test_a_step_without_images_is_an_error_that_names_its_place() -> None:
    with pytest.raises(DataError, match="stage alpha, step 0"):
        run_stage(
            plan(),
            Cursor("alpha", 0, 0),
            Bandit().ports,
            draw=lambda _: [],
            observe=lambda *_: None,
            save=lambda *_: None,
        )


# Sampling ahead of the learner


@pytest.mark.parametrize(
    ("max_staleness", "versions"), [(0, [0, 1, 2, 3, 4, 5]), (1, [0, 0, 1, 2, 3, 4]), (3, [0, 0, 0, 0, 1, 2])]
)
def test_every_step_is_drawn_from_the_policy_a_fixed_number_of_steps_before(
    max_staleness: int, versions: list[int]
) -> None:
    bandit = Bandit()
    _, history = run(bandit, max_staleness=max_staleness)
    assert [call for call in bandit.calls if call.startswith("generate")] == [
        *(f"generate v{version}" for version in versions),
        "generate v6",  # the last probe
    ]
    assert [metrics["staleness"] for _, metrics in history] == [step - v for step, v in enumerate(versions)]


def test_with_overlap_a_probe_is_drawn_from_the_present_policy() -> None:
    bandit = Bandit()
    bandit.gap = ProbeGap(1e-5, 1e-5)
    _, history = run(bandit, max_staleness=2, probe_every_steps=3)
    assert ["probe_gap_nats" in metrics for _, metrics in history] == [True, False, False, True, False, False]
    # before step 5, which is drawn from version 3 as well
    drawn = [call for call in bandit.calls if call.startswith("generate")]
    assert drawn == [f"generate v{version}" for version in (0, 0, 0, 1, 2, 3, 3, 6)]


class Slow(Bandit):
    """Takes its time, and knows whether two calls of one port ran at once."""

    def __init__(self, generate_s: float, update_s: float) -> None:
        super().__init__()
        self.generate_s, self.update_s = generate_s, update_s
        self.is_generating = threading.Lock()

    def generate(self, prompts: Sequence[PromptGroup], sampling: SamplingSettings) -> list[RolloutGroup]:
        assert self.is_generating.acquire(blocking=False), "two calls of generate at once"
        time.sleep(self.generate_s)
        self.is_generating.release()
        return super().generate(prompts, sampling)

    def update(self, groups: Sequence[TrainingGroup], settings: UpdateSettings) -> dict[str, float]:
        time.sleep(self.update_s)
        return super().update(groups, settings)


@pytest.mark.parametrize(("generate_s", "update_s"), [(0.05, 0.05), (0.06, 0.02), (0.02, 0.06)])
@pytest.mark.alone
def test_a_step_with_overlap_takes_as_long_as_the_slower_half(generate_s: float, update_s: float) -> None:
    _, history = run(Slow(generate_s, update_s), num_steps=12, max_staleness=1)
    steady = sorted(metrics["seconds"] for _, metrics in history[2:-2])
    assert steady[len(steady) // 2] < 1.15 * max(generate_s, update_s) + 0.004
    waits = [metrics["seconds/wait"] for _, metrics in history[2:-2]]
    idle = [metrics["seconds/idle"] for _, metrics in history[3:-2]]
    if generate_s > update_s:
        assert min(waits) > 0.5 * (generate_s - update_s)
    if generate_s < update_s:
        assert min(idle) > 0.5 * (update_s - generate_s)


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_what_fails_while_sampling_ahead_stops_the_stage_at_its_step(max_staleness: int) -> None:
    bandit, seen = Bandit(), []
    with pytest.raises(DataError, match="stage alpha, step 4"):
        run_stage(
            plan(max_staleness=max_staleness),
            Cursor("alpha", 0, 0),
            bandit.ports,
            draw=lambda step: draw(step) if step != 4 else [],
            observe=lambda cursor, _: seen.append(cursor.step),
            save=lambda *_: None,
        )
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_the_next_prompts_are_read_while_answers_are_drawn(max_staleness: int) -> None:
    read, steps = {step: threading.Event() for step in range(5)}, []

    class Waiting(Bandit):
        def generate(self, prompts: Sequence[PromptGroup], sampling: SamplingSettings) -> list[RolloutGroup]:
            step = int(prompts[0].group_id.split("/")[1])
            assert read.get(step + 1, read[step]).wait(10), f"the prompts of step {step + 1} are not read"
            return super().generate(prompts, sampling)

    def reading(step: int) -> list[PromptGroup]:
        steps.append(step)
        read[step].set()
        return draw(step)

    run_stage(
        plan(5, max_staleness=max_staleness),
        Cursor("alpha", 0, 0),
        Waiting().ports,
        draw=reading,
        observe=lambda *_: None,
        save=lambda *_: None,
    )
    assert steps == [0, 1, 2, 3, 4]  # none beyond the stage


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("max_staleness", [0, 1, 2])
def test_the_prompts_of_a_step_are_read_once_whatever_is_proved_with_them(max_staleness: int, start: int) -> None:
    steps: list[int] = []
    bandit = Bandit()
    run_stage(
        plan(6, max_staleness=max_staleness, probe_every_steps=1),
        Cursor("alpha", start, start),
        bandit.ports,
        draw=lambda step: steps.append(step) or draw(step),
        observe=lambda *_: None,
        save=lambda *_: None,
        past=[bandit.export_policy(version) for version in range(max(0, start - max_staleness), start)],
    )
    assert steps == list(range(start, 6))


def test_a_stage_that_fails_leaves_no_one_sampling() -> None:
    bandit = Slow(0.1, 0.0)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run_stage(plan(max_staleness=4), Cursor("alpha", 0, 0), bandit.ports, draw=draw, observe=fail, save=fail)
    assert not bandit.is_generating.locked()
    before = len(bandit.calls)
    time.sleep(0.15)
    assert len(bandit.calls) == before


def test_a_checkpoint_without_the_policies_behind_it_is_refused() -> None:
    with pytest.raises(CheckpointError, match="policy version 2, which step 3 is drawn from"):
        run(Bandit(), Cursor("alpha", 3, 3), max_staleness=1)
