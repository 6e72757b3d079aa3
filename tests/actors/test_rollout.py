"""The pool's bookkeeping, with workers that draw without an engine and misbehave on demand."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.failures import FailureBudget
from actors.rollout import RolloutPool
from actors.rollout_worker import Draw, Job
from fxray.data.frame import Frame
from fxray.errors import DataError, DeadlineError, ModelError, SyncError, WorkerDiedError
from fxray.grpo.types import AdapterBlob, ImageRef, PromptGroup, RolloutGroup, SamplingSettings, SyncProof
from fxray.schema import Annotation, Verdict

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
TWO = SamplingSettings(group_size=2, temperature=1.0, top_p=1.0, max_new_tokens=8)


def failures(max_restarts: int) -> FailureBudget:
    return FailureBudget("rollout workers", max_restarts=max_restarts, window_s=600, remedy="")


@ray.remote(num_cpus=0)
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
        return fault

    def start(self) -> None:
        if self._fault(f"start {self.name}") == "refuse":
            raise ModelError("no such model", where=self.name)

    def load_adapter(self, adapter: AdapterBlob) -> SyncProof:
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
                    texts=tuple(f"{job.seed}/{i} by {self.name}" for i in range(size)),
                )
            )
        return draws


@pytest.fixture
def pool_with(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    @contextmanager
    def make(faults: dict[str, str] | None = None, **changes: Any) -> Iterator[RolloutPool]:
        arguments = {
            "num_workers": 2,
            "max_num_seqs": 4,
            "start_deadline_s": 120,
            "step_deadline_s": 120,
            "failures": failures(3),
        }
        spawn = lambda name: PlainWorker.remote(name, faults or {}, str(tmp_path))  # noqa: E731
        pool = RolloutPool(spawn, **(arguments | changes))
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
    with pool_with() as pool:
        while len(pool.adopt(adapter(7))) < 2:
            time.sleep(0.1)
        asked = prompts(9)
        groups = pool.generate(asked, TWO)
        check_groups(groups, asked)
        assert drawn_by(groups) == {"rollout-1", "rollout-2"}
        assert {group.policy_version for group in groups} == {7}
        assert pool.facts.num_tokens == 9 * 3
        assert pool.facts.num_leases == 2  # five groups are a fair share, four answers fill an engine
        assert pool.facts.image_bytes == sum(range(100, 109))
        assert pool.facts.answer_bytes == sum(8 + 12 + 12 + 8 + 2 + 2 * len("1000/0 by rollout-1") for _ in range(9))
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
        with pytest.raises(SyncError, match="bound LoRA modules 0, expected 2") as caught:
            pool.adopt(adapter(1))
        assert caught.value.where == "rollout-1"


def test_waiting_for_groups_has_a_deadline_that_names_them(pool_with: Any) -> None:
    with pool_with({"alpha/0/0": "hang"}, num_workers=1) as pool:
        pool.adopt(adapter(1))
        pool._step_deadline_s = 1
        with pytest.raises(DeadlineError, match="4 groups from rollout-1"):
            pool.generate(prompts(4), TWO)


def test_waiting_for_a_worker_has_a_deadline_that_names_it(pool_with: Any) -> None:
    faults = {"start rollout-1": "hang"}
    with (
        pool_with(faults, num_workers=1, start_deadline_s=1) as pool,
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
        pool_with({"rest rollout-1": "hang"}, num_workers=1, rests=True, step_deadline_s=8) as pool,
        pytest.raises(DeadlineError, match="rollout-1 did not give the GPU's memory away"),
    ):
        pool.generate(prompts(2), TWO)
