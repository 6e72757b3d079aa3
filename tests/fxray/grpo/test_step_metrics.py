"""What is recorded of a step, against numbers worked out by hand, and what a probe looks at."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bandit import Bandit, draw, plan

from fxray.grpo import loop, sampler
from fxray.grpo.loop import Cursor, reward_metrics, run_stage
from fxray.grpo.types import GroupScore, PromptGroup, Rollout, RolloutGroup
from fxray.schema import Annotation, Box, Region, Verdict

DRAW_S, PUBLISH_S, GENERATE_S, SCORE_S, UPDATE_S, EXPORT_S, PROBE_S = (2.0**i for i in range(7))


class Timed(Bandit):
    """Every call takes a time of its own, on a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def __getattribute__(self, name: str) -> Any:
        seconds = {
            "publish": PUBLISH_S, "generate": GENERATE_S, "score": SCORE_S, "update": UPDATE_S,
            "export_policy": EXPORT_S, "probe": PROBE_S,
        }.get(name, 0.0)  # fmt: skip
        if seconds:
            self.now_s += seconds
        return super().__getattribute__(name)


def test_the_parts_of_a_step_are_what_each_took(monkeypatch: pytest.MonkeyPatch) -> None:
    bandit, steps = Timed(), []
    for module in (loop, sampler):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: bandit.now_s))

    def drawn(step: int) -> list[PromptGroup]:
        assert step < 2, "what lies beyond the stage may not even be readable"
        if step == 0:  # the next step's prompts are read meanwhile, by a thread
            bandit.now_s += DRAW_S
        return list(draw(step))

    run_stage(
        plan(num_steps=2),
        Cursor("alpha", 0, 0),
        bandit.ports,
        draw=drawn,
        observe=lambda _, metrics: steps.append(metrics),
        save=lambda *_: None,
    )
    told = [(DRAW_S, PROBE_S, EXPORT_S), (0, 0, PROBE_S + UPDATE_S + EXPORT_S)]
    for metrics, (draw_s, probe_s, idle_s) in zip(steps, told, strict=True):
        sampled_s = draw_s + PUBLISH_S + GENERATE_S + SCORE_S
        whole_s = sampled_s + probe_s + UPDATE_S + EXPORT_S
        assert {name: value for name, value in metrics.items() if name.startswith("seconds")} == {
            "seconds": whole_s,
            "seconds/idle": idle_s,
            "seconds/draw": draw_s,
            "seconds/publish": PUBLISH_S,
            "seconds/generate": GENERATE_S,
            "seconds/score": SCORE_S,
            "seconds/wait": sampled_s + probe_s,
            "seconds/update": UPDATE_S + EXPORT_S,
        }
        assert (metrics["num_tokens"], metrics["tokens_per_s"]) == (16, 16 / whole_s)


def group(verdict: Verdict, lengths: Sequence[int], finished: Sequence[bool]) -> RolloutGroup:
    regions = (Region(Box(1, 1, 9, 9), "Hand bent"),) if verdict is Verdict.GENERATED else ()
    prompt = draw(0)[0]
    prompt = PromptGroup("g", "s", prompt.image, "?", Annotation(verdict, regions), prompt.frame, 0)
    rollouts = tuple(
        Rollout(np.zeros(length, np.int32), np.zeros(length, np.float32), "", is_finished)
        for length, is_finished in zip(lengths, finished, strict=True)
    )
    return RolloutGroup(prompt, np.zeros(3, np.int32), rollouts, 0)


def score(valid: Sequence[bool], rewards: Sequence[float], iou: Sequence[float], right: Sequence[float]) -> GroupScore:
    facts = {"union_iou": np.array(iou), "is_right": np.array(right)}
    return GroupScore("g", np.array(rewards), {"label": 10 * np.array(rewards)}, np.array(valid), facts)


def test_means_are_of_valid_answers_and_iou_of_generated_images_alone() -> None:
    groups = [group(Verdict.GENERATED, [4, 8], [True, False]), group(Verdict.REAL, [2, 6], [True, True])]
    scores = [score([True, False], [1, 50], [0.5, 0.9], [1, 0]), score([True, True], [2, 6], [1.0, 1.0], [0, 1])]
    metrics = reward_metrics(groups, scores, np.array([False, True]))
    assert metrics == {
        "reward": 3.0,
        "reward/label": 30.0,
        "accuracy": pytest.approx(2 / 3),
        "accuracy_real": 0.5,
        "accuracy_generated": 1.0,
        "iou": 0.5,
        "num_tokens": 20,
        "answer_tokens": 5,
        "unfinished_frac": 0.25,
        "num_masked": 1,
        "num_groups": 2,
        "num_groups_without_spread": 1,
    }
    without = reward_metrics(groups[1:], scores[1:], np.array([True]))
    assert np.isnan(without["iou"])
    half = reward_metrics(groups[1:], [score([True, False], [2, 6], [1.0, 1.0], [1, 0])], np.array([True]))
    assert (half["accuracy_real"], half["accuracy"]) == (1.0, 1.0)


class Asked(Bandit):
    """Remembers which prompts were drawn, and which answers were looked at to prove the policy."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[str] = []
        self.proved: list[list[str]] = []

    def generate(self, prompts: Sequence[PromptGroup], sampling: Any) -> list[RolloutGroup]:
        self.drawn += [prompt.group_id for prompt in prompts]
        return list(super().generate(prompts, sampling))

    def probe(self, groups: Sequence[RolloutGroup], temperature: float) -> Any:
        self.proved.append([group.prompt.group_id for group in groups])
        return super().probe(groups, temperature)


def test_a_probe_looks_at_the_steps_own_answers_and_at_the_end_at_those_of_the_last_step() -> None:
    asked = Asked()
    run_stage(
        plan(3, probe_every_steps=1),
        Cursor("alpha", 0, 0),
        asked.ports,
        draw=lambda step: [replace(draw(step)[0], group_id=f"alpha/{step}/{i}") for i in range(3)],
        observe=lambda *_: None,
        save=lambda *_: None,
    )
    assert asked.proved == [*([f"alpha/{step}/{i}" for i in range(2)] for step in range(3)), ["alpha/2/0"]]
    assert asked.drawn == [*(f"alpha/{step}/{i}" for step in range(3) for i in range(3)), "alpha/2/0"]


def test_an_interrupt_from_the_keyboard_waits_for_nobody_who_samples() -> None:
    is_asked, may_end = threading.Event(), threading.Event()

    class Stuck(Bandit):
        def generate(self, prompts: Sequence[PromptGroup], sampling: Any) -> list[RolloutGroup]:
            if prompts[0].group_id.startswith("alpha/1/"):
                is_asked.set()
                assert may_end.wait(60)
            return list(super().generate(prompts, sampling))

        def update(self, groups: Any, settings: Any) -> dict[str, float]:
            assert is_asked.wait(60)
            raise KeyboardInterrupt

    bandit, left = Stuck(), threading.Event()

    def stage() -> None:
        with pytest.raises(KeyboardInterrupt):
            run_stage(
                plan(max_staleness=1), Cursor("alpha", 0, 0), bandit.ports, draw=draw,
                observe=lambda *_: None, save=lambda *_: None,
            )  # fmt: skip
        left.set()

    thread = threading.Thread(target=stage)
    thread.start()
    try:
        assert left.wait(30)
    finally:
        may_end.set()
        thread.join()
