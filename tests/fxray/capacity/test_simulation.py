"""A simulated run: every group once, closed forms, never faster than the engines, and failures only cost time."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxray.capacity.leases import (
    EngineSpeed,
    decoding_steps,
    engine_seconds,
    groups_at_once,
    lease_size,
    num_shares,
    share_size,
)
from fxray.capacity.simulation import Costs, DriverSpeed, Setup, simulate
from fxray.errors import ConfigError

SPEED = EngineSpeed(lease_s=0.1, group_s=0.02, step_s=0.01, token_s=0.001)
FREE = DriverSpeed(0, 0, 0, 0, 0, 0, 0)
COSTS = Costs(
    engine=SPEED,
    driver=FREE,
    adapter_bytes=1e6,
    link_bytes_per_s=1e9,
    load_s=0.005,
    start_s=5.0,
    death_seen_s=0.1,
    score_group_s=0.003,
    learn_group_s=0.05,
    learn_s=0.2,
)
BUSY = DriverSpeed(1e-3, 1e-5, 5e-4, 1e-6, 1e-3, 1e-4, 1e-3)
LENGTHS = np.array([4, 10, 10, 23, 40])

setups = st.builds(
    Setup,
    num_workers=st.integers(1, 9),
    num_groups=st.integers(1, 40),
    group_size=st.integers(1, 8),
    max_num_seqs=st.integers(1, 32),
    num_steps=st.integers(1, 4),
    max_staleness=st.integers(0, 2),
    num_reward_workers=st.integers(1, 3),
    workers_per_node=st.integers(1, 8),
    deaths_per_hour=st.sampled_from([0.0, 300.0]),
    joins_s=st.lists(st.floats(0, 20), max_size=3).map(tuple),
    seed=st.integers(0, 99),
)


def test_a_lease_is_a_fair_share_and_fills_an_engine_at_most_eight_times() -> None:
    assert [groups_at_once(8, 128), groups_at_once(8, 32), groups_at_once(3, 4)] == [16, 4, 2]
    assert lease_size(16, 1, 16) == 16
    assert lease_size(16, 4, 4) == 4
    assert lease_size(16, 16, 4) == 1  # all draw, though each could take four groups
    assert lease_size(32, 4, 32) == 8
    assert lease_size(3, 8, 4) == 1
    assert lease_size(9, 2, 2) == 5
    assert [lease_size(100, n, 4) for n in (1, 3, 5, 50)] == [32, 32, 20, 2]  # at most 8 times 4


def test_an_answer_that_ends_gives_its_place_to_the_next() -> None:
    assert decoding_steps([], 4) == 0
    assert decoding_steps([5, 3, 9], 3) == 9
    assert decoding_steps([5, 3, 9, 4, 2], 2) == 12  # places end at 5, 3; then 12, 9, 11


def test_shares_are_half_of_what_is_fair_and_no_longer_than_they_may_take() -> None:
    assert share_size(32, 2, group_s=0.0) == 8
    assert share_size(32, 2, group_s=0.01) == 5
    assert share_size(32, 2, group_s=0.06) == share_size(32, 2, group_s=math.inf) == share_size(1, 2, group_s=0.0) == 1
    assert num_shares(32, 2, 0.0) == 10  # 8, 6, 5, 4, 3, 2, 1, 1, 1, 1
    assert num_shares(32, 2, 0.01) == 11  # 5, 5, 5, 5, 3, 3, 2, 1, 1, 1, 1


def test_one_workers_step_is_the_sum_of_its_parts() -> None:
    setup = Setup(num_workers=1, num_groups=20, group_size=2, max_num_seqs=2, num_steps=3, num_reward_workers=2)
    run = simulate(setup, COSTS, np.array([10]))
    # leases of 8, 8 and 4 groups, each 2 answers of 10 tokens, one group at a time
    lease_s = 3 * 0.1 + 20 * 0.02 + 20 * 10 * 0.01 + 20 * 2 * 10 * 0.001
    step_s = (0.001 + 0.005) + lease_s + 10 * 0.003 + (0.2 + 20 * 0.05)
    assert run.step_s == pytest.approx(step_s)
    assert [step.num_leases for step in run.steps] == [3, 3, 3]
    assert run.tokens_per_s == pytest.approx(400 / step_s)


@pytest.mark.parametrize(("staleness", "expected_s"), [(0, 3 * 1.0 + 3 * 0.7), (1, 3 * 1.0 + 0.7), (2, 3 * 1.0 + 0.7)])
def test_sampling_hides_learning_where_it_may_run_ahead(staleness: int, expected_s: float) -> None:
    costs = Costs(EngineSpeed(1.0, 0, 0, 0), FREE, 0, 1, 0, 0, 0, 0, 0, 0.7)
    run = simulate(Setup(1, 4, 1, 8, 3, staleness), costs, np.array([1]))
    assert run.seconds == pytest.approx(expected_s)


def test_a_slow_learner_lets_the_sampler_ahead_by_its_staleness_and_no_further() -> None:
    costs = Costs(EngineSpeed(1.0, 0, 0, 0), FREE, 0, 1, 0, 0, 0, 0, 0, 3.0)
    run = simulate(Setup(1, 4, 1, 8, 5, 2), costs, np.array([1]))
    assert [step.begins_s for step in run.steps] == [0, 1, 2, 4, 7]  # policy t - 2 is there at 1 + 3 (t - 2)
    assert run.seconds == 16


def test_an_adapter_reaches_more_nodes_later_and_the_drivers_calls_add_up() -> None:
    def first(num_workers: int, workers_per_node: int, driver: DriverSpeed = FREE):
        setup = Setup(num_workers, num_workers, 1, 1, 1, workers_per_node=workers_per_node)
        return simulate(setup, Costs(SPEED, driver, 1e6, 1e7, 0.5, 0, 0, 0, 0, 0), np.array([1])).steps[0]

    assert first(8, 8).publish_s == pytest.approx(0.1 + 0.5)
    assert first(8, 1).publish_s == pytest.approx(8 * 0.1 + 0.5)
    calls = DriverSpeed(
        submit_s=1, submit_group_s=2, wait_s=4, wait_each_s=8, take_s=16, take_group_s=32, prompt_group_s=0
    )
    of_publishing = 3 * (1 + 4 + 16) + 8 * (3 + 2 + 1)
    of_drawing = 3 * (1 + 2 + 4 + 16 + 32) + 8 * (3 + 2 + 1)
    of_scoring = 2 * (1 + 4 + 8 + 16) + 3 * (2 + 32)  # shares of two groups and of one
    assert first(3, 1, calls).driver_s == of_publishing + of_drawing + of_scoring


@settings(max_examples=30)
@given(setups)
def test_every_group_arrives_once_and_engines_are_never_faster_than_they_are(setup: Setup) -> None:
    run = simulate(setup, COSTS, LENGTHS)
    again = simulate(setup, COSTS, LENGTHS)
    assert [step.ends_s for step in run.steps] == [step.ends_s for step in again.steps]
    for index, step in enumerate(run.steps):
        assert step.drawn.tolist() == [1] * setup.num_groups
        lengths = np.random.default_rng((setup.seed, index)).choice(LENGTHS, (setup.num_groups, setup.group_size))
        alone_s = engine_seconds(lengths.ravel().tolist(), setup.num_groups, setup.max_num_seqs, SPEED)
        assert step.generate_s * (setup.num_workers + run.num_joined) >= min(alone_s, step.engine_s) - 1e-9
        assert step.engine_s >= alone_s - 1e-9  # one lease for all would never be slower
    assert len(run.steps) == setup.num_steps


@settings(max_examples=20)
@given(setups, st.sampled_from([60.0, 600.0, 1800.0]))
def test_failures_only_cost_time(setup: Setup, deaths_per_hour: float) -> None:
    costs = Costs(SPEED, FREE, 0, 1, 0.005, 5.0, 0.1, 0.003, 0.05, 0.2)
    sizes = (setup.num_workers, setup.num_groups, setup.group_size, setup.max_num_seqs, setup.num_steps)
    sound = simulate(Setup(*sizes, setup.max_staleness, seed=setup.seed), costs, LENGTHS)
    failing = simulate(
        Setup(*sizes, setup.max_staleness, deaths_per_hour=deaths_per_hour, seed=setup.seed), costs, LENGTHS
    )
    assert failing.seconds >= sound.seconds - 1e-9
    if failing.num_deaths == 0:
        assert failing.seconds == sound.seconds


def test_a_worker_that_joins_shortens_the_steps_after_it_is_up() -> None:
    setup = Setup(1, 8, 1, 1, 6, joins_s=(1.0,))
    alone, joined = (simulate(each, COSTS, np.array([50])) for each in (Setup(1, 8, 1, 1, 6), setup))
    assert joined.num_joined == 1
    assert joined.steps[0].generate_s == alone.steps[0].generate_s
    assert joined.steps[-1].generate_s == pytest.approx(alone.steps[-1].generate_s / 2, rel=0.1)


@pytest.mark.parametrize("seed", range(30))
def test_a_worker_that_still_loads_the_policy_before_holds_nothing_up(seed: int) -> None:
    costs = replace(COSTS, load_s=0.5, start_s=0.2)
    setup = Setup(4, 8, 4, 8, 20, deaths_per_hour=240.0, seed=seed)
    run = simulate(setup, costs, LENGTHS)
    assert all((step.drawn == 1).all() for step in run.steps)
    assert max(step.publish_s for step in run.steps) < 5


def test_engines_that_never_finish_a_lease_are_an_error() -> None:
    setup = Setup(1, 1, 1, 1, 1, deaths_per_hour=2 * 3600)
    with pytest.raises(ConfigError, match="do not finish their leases"):
        simulate(setup, COSTS, np.array([1000]))


def test_a_busy_driver_makes_many_workers_slow() -> None:
    def efficiency(num_workers: int) -> float:
        setup = Setup(num_workers, 4 * num_workers, 8, 32, 2)
        return (
            simulate(setup, Costs(SPEED, BUSY, 1e6, 1e9, 0.005, 5, 0.1, 0, 0, 0.2), LENGTHS).tokens_per_s / num_workers
        )

    assert efficiency(256) < 0.8 * efficiency(4)
