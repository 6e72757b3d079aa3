"""The loop over in-process ports: what it hands on, in which order, and that a continued stage is the same stage."""

from collections.abc import Sequence

import numpy as np
import pytest
from bandit import Bandit, G, draw, plan, run

from fxray.errors import DataError, SyncError
from fxray.grpo.loop import Cursor, run_stage
from fxray.grpo.types import AdapterBlob, ProbeGap


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
    _, history = run(bandit, num_steps=6, rate_decay="linear")
    assert bandit.rates == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.075, 0.05, 0.025])
    assert [metrics["learning_rate"] for _, metrics in history] == bandit.rates


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
