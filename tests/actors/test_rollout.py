"""The pool's bookkeeping, with workers that draw without an engine and misbehave on demand."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import ObjectLostError

from actors.errands import Deadlines
from actors.failures import FailureBudget
from actors.nodes import STEADY, Nodes
from actors.rollout import RolloutPool
from actors.rollout_worker import HEALTH, Draw, Job
from actors.scaling import Limits, Scaler, StepTimes
from fxray.data.frame import Frame
from fxray.errors import DataError, DeadlineError, ModelError, SyncError, WorkerDiedError
from fxray.grpo.types import AdapterBlob, ImageRef, PromptGroup, RolloutGroup, SamplingSettings, SyncProof
from fxray.schema import Annotation, Verdict

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
TWO = SamplingSettings(group_size=2, temperature=1.0, max_new_tokens=8)


def failures(max_restarts: int) -> FailureBudget:
    return FailureBudget("rollout workers", max_restarts=max_restarts, window_s=600, remedy="")


@ray.remote(num_cpus=0, concurrency_groups={HEALTH: 1})
class PlainWorker:
    """Draws answers that tell group seed, index and worker; `faults` maps what happens to how it goes wrong."""

    def __init__(self, name: str, faults: dict[str, str], once: str) -> None:
        self.name, self.faults, self.once = name, faults, Path(once)
        self.version = -1

    def _fault(self, event: str) -> str:
        fault = self.faults.get(event, "")
        if fault.startswith("once:"):
            mark = self.once / event.replace("/", "_")
            if mark.exists():
                return ""
            mark.touch()
            fault = fault.removeprefix("once:")
        if fault == "die":
            os._exit(1)
        if fault == "hang":
            time.sleep(300)
        if fault.startswith("sleep "):
            time.sleep(float(fault.removeprefix("sleep ")))
        return fault

    @ray.method(concurrency_group=HEALTH)
    def health(self) -> str:
        (self.once / f"{self.name}-pid").write_text(str(os.getpid()))
        return f"node of {self.name}"

    def start(self) -> None:
        if self._fault(f"start {self.name}") == "refuse":
            raise ModelError("no such model", where=self.name)

    def load_policy(self, adapter: AdapterBlob) -> SyncProof:
        fault = self._fault(f"load {self.name}")
        self.version = adapter.version
        num_bound = 0 if fault == "lie" else adapter.num_modules
        return SyncProof(self.name, adapter.version, adapter.sha256, num_bound)

    def use_base_model(self) -> None:
        self.version = -1

    def rest(self) -> None:
        self._fault(f"rest {self.name}")
        (self.once / f"{self.name}-rested").touch()

    def generate(self, jobs: Sequence[Job], sampling: SamplingSettings) -> list[Draw]:
        draws = []
        for job in jobs:
            if self._fault(job.group_id) == "bad image":
                raise DataError("is damaged", where=job.sample_id)
            size = sampling.group_size
            draws.append(
                Draw(
                    group_id=job.group_id,
                    policy_version=self.version,
                    prompt_token_ids=np.array([1, 2], np.int32),
                    token_ids=np.concatenate([np.full(i + 1, job.seed, np.int32) for i in range(size)]),
                    logprobs=-np.arange(sum(range(size + 1)), dtype=np.float32),
                    lengths_G=np.arange(1, size + 1, dtype=np.int32),
                    is_finished_G=np.arange(size) % 2 == 0,
                    probabilities_G=np.full(size, np.nan),
                    texts=tuple(f"{job.seed}/{i} by {self.name}" for i in range(size)),
                )
            )
        return draws


@pytest.fixture
def pool_with(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    @contextmanager
    def make(faults: dict[str, str] | None = None, **changes: Any) -> Iterator[RolloutPool]:
        has_place = changes.pop("has_place", lambda name: True)
        deadlines = Deadlines(*(changes.pop(name, 120) for name in ("start_s", "step_s", "hang_s")))
        scaler = Scaler(changes.pop("num_workers", 2), changes.pop("limits", None))
        arguments = {"min_workers": 1, "max_num_seqs": 4, "failures": failures(3), "nodes": STEADY} | changes

        def spawn(name: str) -> Any:
            resources = {} if has_place(name) else {"nowhere": 1}
            return PlainWorker.options(resources=resources).remote(name, faults or {}, str(tmp_path))

        pool = RolloutPool(spawn, scaler=scaler, deadlines=deadlines, **arguments)
        try:
            yield pool
        finally:
            pool.close()

    return make


def prompts(number: int) -> list[PromptGroup]:
    truth, frame = Annotation(Verdict.REAL), Frame(28, 28, 28, 28)
    return [
        PromptGroup(f"alpha/0/{i}", f"s{i}", ImageRef(b"", 100 + i), "?", truth, frame, seed=1000 + i)
        for i in range(number)
    ]


def adapter(version: int) -> AdapterBlob:
    return AdapterBlob(version, b"weights", {}, "checksum", 2)


def drawn_by(groups: list[RolloutGroup]) -> set[str]:
    return {group.rollouts[0].text.partition(" by ")[2] for group in groups}


def check_groups(groups: list[RolloutGroup], asked: list[PromptGroup]) -> None:
    assert [group.prompt for group in groups] == asked
    for group in groups:
        assert [r.token_ids.tolist() for r in group.rollouts] == [[group.prompt.seed], [group.prompt.seed] * 2]
        assert [r.logprobs.tolist() for r in group.rollouts] == [[0.0], [-1.0, -2.0]]
        assert [r.text.partition(" ")[0] for r in group.rollouts] == [f"{group.prompt.seed}/{i}" for i in range(2)]
        assert [r.is_finished for r in group.rollouts] == [True, False]


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
        with pytest.raises(WorkerDiedError, match="failed 3 times within 10 minutes, 2 restarts") as caught:
            pool.generate(prompts(4), TWO)
        assert "2 groups from rollout-" in str(caught.value)


def test_a_worker_that_cannot_start_says_why(pool_with: Any) -> None:
    faults = {"start rollout-1": "refuse", "start rollout-2": "refuse"}
    with pool_with(faults) as pool, pytest.raises(ModelError, match="no such model"):
        pool.generate(prompts(1), TWO)


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


@pytest.mark.parametrize(("how", "within_s"), [(signal.SIGKILL, 5), (signal.SIGSTOP, 5)])
def test_a_worker_that_is_killed_or_stopped_is_noticed_in_seconds_and_its_groups_are_drawn_again(
    pool_with: Callable[..., Any], tmp_path: Path, how: signal.Signals, within_s: float
) -> None:
    told_s: list[float] = []
    faults = {"alpha/0/0": "once:sleep 60"}
    with pool_with(faults, min_workers=2, hang_s=2, on_event=lambda _: told_s.append(time.monotonic())) as pool:
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
