"""Sampling, ahead of the learner or not: which policy draws a step, what runs at once, and what is read."""

import threading
import time
from collections.abc import Sequence

import pytest
from bandit import Bandit, draw, plan, run

from fxray.errors import CheckpointError, DataError
from fxray.grpo.loop import Cursor, run_stage
from fxray.grpo.types import ProbeGap, PromptGroup, RolloutGroup, SamplingSettings, TrainingGroup, UpdateSettings


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
