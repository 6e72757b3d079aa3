"""The pool where its nodes come and go, and where it grows, shrinks and rests."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from plain_pool import TWO, adapter, check_groups, failures, prompts

from actors.errands import Deadlines
from actors.nodes import Nodes
from actors.rollout import RolloutPool
from actors.scaling import Limits, StepTimes
from fxray.errors import DeadlineError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_a_worker_that_waits_for_a_node_delays_nobody_and_is_no_failure(pool_with: Callable[..., Any]) -> None:
    with pool_with(has_place=lambda name: name == "rollout-1") as pool:
        pool.adopt(adapter(1))
        pool._deadlines = Deadlines(0, 120, 60)
        check_groups(pool.generate(prompts(9), TWO), prompts(9))
        assert (pool.num_deaths, pool.num_up) == (0, 1)


def test_when_nobody_has_a_node_that_is_said(pool_with: Callable[..., Any]) -> None:
    with (
        pool_with(has_place=lambda name: False, start_s=1) as pool,
        pytest.raises(DeadlineError, match=r"rollout-1 to start\n.*no node has room"),
    ):
        pool.adopt(adapter(1))


def test_a_step_waits_for_as_many_workers_as_it_takes_at_first_and_for_one_later(
    pool_with: Callable[..., Any],
) -> None:
    with pool_with({"start rollout-2": "sleep 3"}, min_workers=2) as pool:
        assert {proof.worker for proof in pool.adopt(adapter(1))} == {"rollout-1", "rollout-2"}
        for worker in list(pool._crew.members):
            ray.kill(worker.actor)
        check_groups(pool.generate(prompts(9), TWO), prompts(9))


def test_a_worker_whose_node_is_drained_finishes_gets_no_more_and_is_replaced_without_being_counted(
    pool_with: Callable[..., Any],
) -> None:
    leaving: dict[str, float] = {}
    notes: list[str] = []
    nodes = Nodes(lambda: leaving, lambda _: None)
    faults = {"alpha/0/0": "sleep 4"}
    with pool_with(faults, num_workers=1, nodes=nodes, on_event=lambda event: notes.append(event.text)) as pool:
        pool.adopt(adapter(3))
        threading.Timer(1, leaving.__setitem__, ("node of rollout-1", float("inf"))).start()
        groups = pool.generate(prompts(40), TWO)
        check_groups(groups, prompts(40))
        assert pool.facts.num_leases == 3
        assert [group.rollouts[0].text.split()[-1] for group in groups[::16]] == ["rollout-1", "rollout-2", "rollout-2"]
        assert {group.policy_version for group in groups} == {3}
        assert (pool.num_deaths, pool.num_departures) == (0, 1)
        assert notes == ["rollout-1 gets no more groups: its node is being drained"]


def test_the_groups_of_a_worker_whose_node_is_gone_before_it_is_done_go_to_another(
    pool_with: Callable[..., Any],
) -> None:
    leaving: dict[str, float] = {}
    with pool_with(
        {"alpha/0/0": "once:hang"}, min_workers=2, nodes=Nodes(lambda: leaving, lambda _: None), failures=failures(0)
    ) as pool:
        pool.adopt(adapter(1))
        threading.Timer(0.5, lambda: leaving.update({f"node of {name}": 1.0 for name in holders(pool, 0)})).start()
        check_groups(pool.generate(prompts(9), TWO), prompts(9))
        assert (pool.num_deaths, pool.num_departures) == (0, 1)


def holders(pool: RolloutPool, index: int) -> list[str]:
    return [errand.worker.name for errand in pool._errands.values() if index in errand.lease]


def test_a_pool_grows_and_shrinks_by_what_its_steps_measured(pool_with: Callable[..., Any]) -> None:
    asked: list[int] = []
    nodes = Nodes(dict, asked.append)
    with pool_with(num_workers=1, limits=Limits(1, 3, every_steps=2), nodes=nodes) as pool:
        waits, idles = StepTimes(10, 9, 9, 0), StepTimes(10, 1, 0, 9)
        sizes = []
        for step in (waits, waits, waits, idles, idles, idles, idles, idles):
            pool.adopt(adapter(len(sizes)))
            groups = pool.generate(prompts(12), TWO)
            check_groups(groups, prompts(12))
            assert {group.policy_version for group in groups} == {len(sizes)}
            deadline_s = time.monotonic() + 60
            while pool.num_up < pool.scaler.num_workers and time.monotonic() < deadline_s:
                pool.generate(prompts(1), TWO)
            pool.scaler.observe(step, 12)
            sizes.append(pool.scaler.num_workers)
        assert sizes == [1, 1, 1, 2, 2, 2, 1, 1]
        assert asked == [1, 2, 1]
        assert (pool.num_deaths, pool.num_up) == (0, 1)
    assert asked == [1, 2, 1, 0]


def test_nobody_holds_gpu_memory_when_a_pool_rests(pool_with: Callable[..., Any], tmp_path: Path) -> None:
    faults = {"start rollout-2": "sleep 3", "alpha/0/1": "once:die"}
    with pool_with(faults, rests=True) as pool:
        pool.adopt(adapter(1))
        check_groups(pool.generate(prompts(3), TWO), prompts(3))
        assert pool.num_deaths == 1
        assert len(pool._idle) == 2
        assert all(worker.is_resting for worker in pool._idle)
        rested = {path.name.removesuffix("-rested") for path in tmp_path.glob("*-rested")}
        assert rested == {worker.name for worker in pool._idle}  # having loaded the policy, both were awake
