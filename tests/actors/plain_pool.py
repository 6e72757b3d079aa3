"""A pool whose workers draw without an engine and misbehave on demand."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.errands import Deadlines
from actors.failures import FailureBudget
from actors.nodes import STEADY
from actors.rollout import RolloutPool
from actors.rollout_worker import HEALTH, Draw, Job
from actors.scaling import Scaler
from fxray.data.frame import Frame
from fxray.errors import DataError, ModelError
from fxray.grpo.types import AdapterBlob, ImageRef, PromptGroup, RolloutGroup, SamplingSettings, SyncProof
from fxray.schema import Annotation, Verdict

TWO = SamplingSettings(group_size=2, temperature=1.0, max_new_tokens=8)


def failures(max_restarts: int) -> FailureBudget:
    return FailureBudget("rollout workers", max_restarts=max_restarts, window_s=600, remedy="")


def draw_of(job: Job, size: int, version: int, name: str) -> Draw:
    """Answers of 1, 2, ... tokens that tell group seed, index and worker."""
    return Draw(
        group_id=job.group_id,
        policy_version=version,
        prompt_token_ids=np.array([1, 2], np.int32),
        token_ids=np.concatenate([np.full(i + 1, job.seed, np.int32) for i in range(size)]),
        logprobs=-np.arange(sum(range(size + 1)), dtype=np.float32),
        lengths_G=np.arange(1, size + 1, dtype=np.int32),
        is_finished_G=np.arange(size) % 2 == 0,
        probabilities_G=np.full(size, np.nan),
        texts=tuple(f"{job.seed}/{i} by {name}" for i in range(size)),
    )


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
        if fault.startswith("sleep "):
            _, seconds, *rest = fault.split(" ", 2)
            time.sleep(float(seconds))
            fault = "".join(rest)
        if fault == "die":
            os._exit(1)
        if fault == "fail":
            raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")
        if fault == "hang":
            time.sleep(300)
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
            draws.append(draw_of(job, sampling.group_size, self.version, self.name))
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
