"""The pool's bookkeeping: groups, policies, deaths, deadlines."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from plain_pool import TWO, adapter, check_groups, drawn_by, failures, prompts
from ray.exceptions import ObjectLostError

from actors.errands import Deadlines
from actors.rollout_worker import Draw
from fxray.errors import DataError, DeadlineError, FxrayError, ModelError, SyncError, WorkerDiedError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_groups_come_back_in_prompt_order_from_all_workers(pool_with: Any) -> None:
    with pool_with(min_workers=2) as pool:
        assert len(pool.adopt(adapter(7))) == 2
        asked = prompts(9)
        groups = pool.generate(asked, TWO)
        check_groups(groups, asked)
        assert drawn_by(groups) == {"rollout-1", "rollout-2"}
        assert {group.policy_version for group in groups} == {7}
        assert pool.facts.num_tokens == 9 * 3
        assert pool.facts.num_leases == 2  # five groups are a fair share, four answers fill an engine
        assert pool.facts.image_bytes == sum(range(100, 109))
        assert pool.facts.answer_bytes == sum(
            8 + 12 + 12 + 8 + 2 + 16 + 2 * len("1000/0 by rollout-1") for _ in range(9)
        )
        assert pool.facts.tokens_per_s == pool.facts.num_tokens / pool.facts.seconds
        assert pool.generate([], TWO) == []


def test_a_long_batch_is_leased_in_parts_that_fill_an_engine_eight_times(pool_with: Any) -> None:
    with pool_with(num_workers=1) as pool:
        groups = pool.generate(prompts(40), TWO)
        check_groups(groups, prompts(40))
        assert pool.facts.num_leases == 3  # 16 + 16 + 8 groups
        assert {group.policy_version for group in groups} == {-1}


def test_a_dead_workers_groups_are_drawn_once_by_another(pool_with: Any) -> None:
    with pool_with({"alpha/0/1": "once:die", "alpha/0/7": "once:die"}) as pool:
        pool.adopt(adapter(1))
        asked = prompts(12)
        groups = pool.generate(asked, TWO)
        check_groups(groups, asked)
        assert pool.num_deaths == 2
        assert {group.policy_version for group in groups} == {1}


def test_groups_that_were_lost_with_the_node_where_they_lay_are_drawn_again(
    pool_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, lost = ray.get, []

    def lose_one(reference: Any, **options: Any) -> Any:
        result = get(reference, **options)
        if not lost and isinstance(result, list) and result and isinstance(result[0], Draw):
            lost.append(result)
            raise ObjectLostError(reference.hex(), None, "")
        return result

    with pool_with() as pool:
        pool.adopt(adapter(1))
        monkeypatch.setattr(ray, "get", lose_one)
        check_groups(pool.generate(prompts(8), TWO), prompts(8))
        assert (len(lost), pool.num_deaths) == (1, 1)


def test_the_only_workers_death_is_survived_and_its_successor_proves_the_policy_first(pool_with: Any) -> None:
    with pool_with({"alpha/0/1": "once:die"}, num_workers=1) as pool:
        pool.adopt(adapter(4))
        groups = pool.generate(prompts(3), TWO)
        check_groups(groups, prompts(3))
        assert drawn_by(groups) == {"rollout-2"}
        assert {group.policy_version for group in groups} == {4}
        assert [proof.worker for proof in pool.adopt(adapter(5))] == ["rollout-2"]


def test_workers_that_die_while_loading_or_starting_are_replaced(pool_with: Any) -> None:
    with pool_with({"load rollout-1": "die", "start rollout-2": "die"}) as pool:
        proofs = pool.adopt(adapter(1))
        assert {proof.worker for proof in proofs} <= {"rollout-3", "rollout-4"}
        assert proofs
        check_groups(pool.generate(prompts(8), TWO), prompts(8))
        deadline_s = time.monotonic() + 60  # a busy machine takes its time to start the worker that dies of it
        while pool.num_deaths < 2 and time.monotonic() < deadline_s:
            check_groups(pool.generate(prompts(1), TWO), prompts(1))
        assert pool.num_deaths == 2


def test_too_many_deaths_end_the_run_with_the_reason(pool_with: Any) -> None:
    with pool_with({"alpha/0/1": "die"}, failures=failures(2)) as pool:
        with pytest.raises(WorkerDiedError, match="failed 3 times within 10 min, 2 restarts") as caught:
            pool.generate(prompts(4), TWO)
        assert "2 groups from rollout-" in str(caught.value)


def test_a_worker_that_cannot_start_says_why(pool_with: Any) -> None:
    faults = {f"start rollout-{number}": "refuse" for number in range(1, 9)}
    with pool_with(faults, failures=failures(1)) as pool, pytest.raises(ModelError, match="no such model"):
        pool.generate(prompts(1), TWO)


@pytest.mark.parametrize("num_needed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_machines_where_no_engine_starts_end_nothing_while_others_are_on_their_way(
    pool_with: Any, num_needed: int
) -> None:
    faults = {"start rollout-1": "sleep 6", "start rollout-2": "sleep 6", "start rollout-3": "refuse"}
    with pool_with(faults, num_workers=3, min_workers=num_needed, failures=failures(1)) as pool:
        check_groups(pool.generate(prompts(2), TWO), prompts(2))
        assert pool.num_deaths == 1
        assert [worker.name for worker in pool._crew.members][:2] == ["rollout-1", "rollout-2"]


def test_the_refusal_of_one_is_told_when_the_others_die_on_their_way(pool_with: Any) -> None:
    faults = {"start rollout-1": "refuse", "start rollout-2": "sleep 4 die"}
    with pool_with(faults) as pool, pytest.raises(ModelError, match="no such model"):
        pool.generate(prompts(1), TWO)


def test_a_worker_that_fails_is_replaced_like_one_that_died(pool_with: Any) -> None:
    told: list[Any] = []
    with pool_with({"alpha/0/1": "once:fail"}, on_event=told.append) as pool:
        check_groups(pool.generate(prompts(4), TWO), prompts(4))
        assert pool.num_deaths == 1
    assert "failed: RuntimeError: CUDA error: an illegal memory access" in told[0].text
    always = pool_with({"alpha/0/1": "fail"}, failures=failures(2))
    with always as pool, pytest.raises(WorkerDiedError, match=r"failed 3 times .* illegal memory access"):
        pool.generate(prompts(4), TWO)


def test_one_that_cannot_start_ends_nothing_while_others_draw(pool_with: Any) -> None:
    with pool_with({"start rollout-2": "refuse"}) as pool:
        end_s = time.monotonic() + 60
        while pool.num_deaths < 1 and time.monotonic() < end_s:
            check_groups(pool.generate(prompts(2), TWO), prompts(2))
        assert pool.num_deaths == 1


def test_a_thread_that_comes_late_hires_nobody_for_a_closed_pool(pool_with: Any) -> None:
    with pool_with() as pool:
        pool.generate(prompts(1), TWO)
        pool.close()
        with pytest.raises(FxrayError, match="is closed"):
            pool.adopt(adapter(1))
        assert not pool._crew.members


def test_a_bad_image_is_an_error_that_names_the_sample(pool_with: Any) -> None:
    with pool_with({"alpha/0/2": "bad image"}) as pool:
        with pytest.raises(DataError, match="is damaged") as caught:
            pool.generate(prompts(4), TWO)
        assert caught.value.where == "s2"


def test_a_worker_that_lies_about_its_adapter_stops_the_run(pool_with: Any) -> None:
    with pool_with({"load rollout-1": "lie"}, num_workers=1) as pool:
        with pytest.raises(SyncError, match="bound modules 0, expected 2") as caught:
            pool.adopt(adapter(1))
        assert caught.value.where == "rollout-1"


def test_waiting_for_groups_has_a_deadline_that_names_them(pool_with: Any) -> None:
    with pool_with({"alpha/0/0": "hang"}, num_workers=1) as pool:
        pool.adopt(adapter(1))
        pool._deadlines = Deadlines(120, 1, 60)
        with pytest.raises(DeadlineError, match="4 groups from rollout-1"):
            pool.generate(prompts(4), TWO)


def test_groups_of_an_engine_that_lives_but_does_not_draw_go_to_another(pool_with: Any) -> None:
    with pool_with({"alpha/0/0": "once:hang"}, min_workers=2) as pool:
        pool.adopt(adapter(1))
        pool._deadlines = Deadlines(120, 2, 60)
        check_groups(pool.generate(prompts(9), TWO), prompts(9))
        assert pool.num_deaths == 1


def test_waiting_for_a_worker_has_a_deadline_that_names_it(pool_with: Any) -> None:
    faults = {"start rollout-1": "hang"}
    with (
        pool_with(faults, num_workers=1, start_s=1) as pool,
        pytest.raises(DeadlineError, match="rollout-1 to start"),
    ):
        pool.adopt(adapter(1))


def test_the_base_model_takes_over_and_gives_back(pool_with: Any) -> None:
    with pool_with() as pool:
        pool.adopt(adapter(1))
        pool.use_base_model()
        assert {group.policy_version for group in pool.generate(prompts(8), TWO)} == {-1}
        pool.adopt(adapter(1))
        assert {group.policy_version for group in pool.generate(prompts(8), TWO)} == {1}


def test_what_a_failed_step_left_behind_does_not_reach_the_next(pool_with: Any) -> None:
    with pool_with({"alpha/0/0": "once:bad image"}) as pool:
        with pytest.raises(DataError):
            pool.generate(prompts(8), TWO)
        check_groups(pool.generate(prompts(8), TWO), prompts(8))


def test_workers_rest_when_all_answers_are_there_and_one_that_dies_then_is_replaced(
    pool_with: Callable[..., Any], tmp_path: Path
) -> None:
    with pool_with(num_workers=1) as pool:
        pool.generate(prompts(2), TWO)
    assert not list(tmp_path.glob("*-rested"))
    with pool_with({"rest rollout-1": "once:die"}, num_workers=1, rests=True) as pool:
        for num_deaths in (1, 1):
            assert len(pool.generate(prompts(6), TWO)) == 6
            assert pool.num_deaths == num_deaths
    assert [path.name for path in tmp_path.glob("*-rested")] == ["rollout-2-rested"]


def test_a_worker_that_does_not_come_to_rest_is_named(pool_with: Callable[..., Any]) -> None:
    with (
        pool_with({"rest rollout-1": "hang"}, num_workers=1, rests=True, step_s=8) as pool,
        pytest.raises(DeadlineError, match="rollout-1 to rest"),
    ):
        pool.generate(prompts(2), TWO)


def pid_of(folder: Path, name: str) -> int:
    return int((folder / f"{name}-pid").read_text())


@pytest.mark.parametrize(("how", "hang_s", "within_s"), [(signal.SIGKILL, 60, 5), (signal.SIGSTOP, 4, 8)])
def test_a_worker_that_is_killed_or_stopped_is_noticed_in_seconds_and_its_groups_are_drawn_again(
    pool_with: Callable[..., Any], tmp_path: Path, how: signal.Signals, hang_s: float, within_s: float
) -> None:
    told_s: list[float] = []
    faults = {"alpha/0/0": "once:sleep 60"}
    with pool_with(faults, min_workers=2, hang_s=hang_s, on_event=lambda _: told_s.append(time.monotonic())) as pool:
        pool.adopt(adapter(1))
        struck_s = []

        def strike() -> None:
            while not (tmp_path / "alpha_0_0").exists():
                time.sleep(0.05)
            struck_s.append(time.monotonic())
            holder = next(errand.worker for errand in pool._errands.values() if 0 in errand.lease)
            os.kill(pid_of(tmp_path, holder.name), how)

        striker = threading.Thread(target=strike)
        striker.start()
        groups = pool.generate(prompts(9), TWO)
        striker.join()
        check_groups(groups, prompts(9))
        assert pool.num_deaths == 1
        print(f"{how.name} noticed after {told_s[0] - struck_s[0]:.2f} s")
        assert told_s[0] - struck_s[0] < within_s
        assert pool.adopt(adapter(2))  # whoever is there samples from the next policy
