"""A rollout pool without Ray: a clock that only waiting moves, and actors whose calls end when it says so."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from plain_pool import adapter, draw_of, failures
from ray.exceptions import ActorDiedError, RayTaskError

from actors import rollout
from actors.errands import Deadlines
from actors.nodes import STEADY
from actors.rollout import RolloutPool
from actors.scaling import Scaler
from fxray.grpo.types import SamplingSettings, SyncProof


@dataclass(eq=False)
class Reference:
    """The end of a call."""

    at_s: float
    value: Any = None
    error: Exception | None = None


class Ray:
    """Ray's calls and the clock, in one thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "sleep", self._sleep)
        for name in ("wait", "get", "put", "kill"):
            monkeypatch.setattr(ray, name, getattr(self, f"_{name}"))

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def _wait(
        self, references: Sequence[Reference], num_returns: int = 1, timeout: float = math.inf
    ) -> tuple[list[Reference], list[Reference]]:
        first_s = min(reference.at_s for reference in references)
        self.now_s = max(self.now_s, min(first_s, self.now_s + timeout))
        ready = [reference for reference in references if reference.at_s <= self.now_s][:num_returns]
        return ready, [reference for reference in references if reference not in ready]

    def _get(self, reference: Reference, timeout: float = math.inf) -> Any:
        if reference.error is not None:
            raise reference.error
        return reference.value

    def _put(self, value: Any) -> Any:
        return value

    def _kill(self, actor: "StubWorker") -> None:
        actor.dies_s = min(actor.dies_s, self.now_s)


@dataclass(eq=False)
class StubWorker:
    """An engine's actor: how long its calls take, and what goes wrong. Times are seconds of the stub's clock.

    Attributes:
        ray: The stub's.
        name: "rollout-1".
        node: Where it runs.
        place_s: For a node to have room for it.
        start_s: For its engine to come up, from when it was asked for.
        draw_s: For a lease.
        dies_s: When its process ends.
        start_error: What its start raises.
        draw_error: What drawing raises in its process.
    """

    ray: Ray
    name: str
    node: str = ""
    place_s: float = 0.0
    start_s: float = 1.0
    draw_s: float = 1.0
    dies_s: float = math.inf
    start_error: Exception | None = None
    draw_error: Exception | None = None
    leases: list[int] = field(default_factory=list)

    def _method(self, act: Callable[..., tuple[float, Any, Exception | None]]) -> Any:
        def remote(*arguments: Any) -> Reference:
            seconds, value, error = act(*arguments)
            end_s = self.ray.now_s + seconds
            if end_s >= self.dies_s:
                return Reference(max(self.dies_s, self.ray.now_s), error=ActorDiedError())
            return Reference(end_s, value, error)

        return SimpleNamespace(remote=remote)

    @property
    def start(self) -> Any:
        return self._method(lambda: (self.start_s, None, self.start_error))

    @property
    def health(self) -> Any:
        return self._method(lambda: (self.place_s, self.node or f"node of {self.name}", None))

    @property
    def load_policy(self) -> Any:
        return self._method(lambda blob: (0.0, SyncProof(self.name, blob.version, blob.sha256, blob.num_modules), None))

    @property
    def use_base_model(self) -> Any:
        return self._method(lambda: (0.0, None, None))

    @property
    def rest(self) -> Any:
        return self._method(lambda: (0.0, None, None))

    @property
    def generate(self) -> Any:
        return self._method(self._draw)

    def _draw(self, jobs: Sequence[Any], sampling: SamplingSettings) -> tuple[float, Any, Exception | None]:
        self.leases.append(len(jobs))
        error = None if self.draw_error is None else RayTaskError("generate", "a traceback", self.draw_error)
        draws = [draw_of(job, sampling.group_size, adapter(1).version, self.name) for job in jobs]
        return self.draw_s, draws, error


def stub_pool(
    stub: Ray,
    workers: dict[int, dict[str, Any]],
    *,
    num_workers: int,
    deadlines: Deadlines,
    max_restarts: int,
    rests: bool = False,
) -> RolloutPool:
    """A pool whose n-th worker is as `workers[n]` says.

    Args:
        stub: Ray's stand-in.
        workers: What is unusual, by the number in the name; times of deaths count from now.
        num_workers: Of the pool.
        deadlines: Of its waits.
        max_restarts: Of its budget.
        rests: Its workers do between two calls.
    """
    begun_s = stub.now_s

    def spawn(name: str) -> StubWorker:
        changes = dict(workers.get(int(name.rpartition("-")[2]), {}))
        dies_s = begun_s + changes.pop("dies_s", math.inf)
        return StubWorker(stub, name, dies_s=dies_s, **changes)

    return rollout.RolloutPool(
        spawn,
        scaler=Scaler(num_workers, None),
        min_workers=1,
        max_num_seqs=4,
        deadlines=deadlines,
        failures=failures(max_restarts),
        nodes=STEADY,
        rests=rests,
    )
