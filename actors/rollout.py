"""Rollouts from any number of workers that may join late, hang or die.

    groups ─► leases ─► idle workers ─► draws, matched by group ─► groups in prompt order
                 ▲           │ worker died: its groups go back to the queue, a new worker starts
                 └───────────┘ a new worker proves the newest adapter before its first lease

A group is settled when its draw has arrived, so none is lost and none doubled, and as an answer depends on its group's
seed and index alone, a group is the same whoever drew it.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from actors.failures import FailureBudget
from actors.rollout_worker import Draw, Job, RolloutActor
from actors.weight_sync import check_proof
from fxray.engine.settings import EngineSettings
from fxray.errors import DeadlineError, FxrayError
from fxray.grpo.types import AdapterBlob, PromptGroup, RolloutGroup, SamplingSettings, SyncProof

BATCHES_PER_LEASE = 8
"""A lease fills an engine at most this often, so that a death does not cost more."""


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """What one call of `generate` did.

    Attributes:
        seconds: From the first lease to the last draw.
        num_tokens: Sampled tokens.
        num_leases: Requests to workers; more than needed where workers died.
        image_bytes: Encoded images that the leases refer to, each moved once.
        answer_bytes: What came back.
    """

    seconds: float
    num_tokens: int
    num_leases: int
    image_bytes: int
    answer_bytes: int

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Batch:
    """One call of `generate`: what waits, what is there."""

    prompts: Sequence[PromptGroup]
    sampling: SamplingSettings
    waiting: deque[int]
    draws: dict[int, Draw] = field(default_factory=dict)
    num_leases: int = 0
    image_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Errand:
    """What a worker is busy with: starting, taking over an adapter, or drawing the groups `lease` of `batch`."""

    worker: "_Worker"
    what: str
    deadline_s: float
    adapter: AdapterBlob | None = None
    batch: _Batch | None = None
    lease: tuple[int, ...] = ()


@dataclass(eq=False, slots=True)
class _Worker:
    name: str
    actor: Any
    adapter: AdapterBlob | None = None
    proof: SyncProof | None = None


class RolloutPool:
    """The `Generator` of the GRPO loop over Ray, and the target of its `Publisher`.

    Workers start at once and in the background; the first call that needs one waits for it.

    Args:
        spawn: Makes an actor with the methods of `RolloutWorker`, given its name.
        num_workers: Engines.
        max_num_seqs: Answers that one engine decodes at once.
        start_deadline_s: For an engine to come up.
        step_deadline_s: For one call of `generate` or `adopt`.
        failures: How often workers may die.
        rests: Workers give their GPU's memory away between two calls of `generate`.
    """

    def __init__(
        self,
        spawn: Callable[[str], Any],
        *,
        num_workers: int,
        max_num_seqs: int,
        start_deadline_s: float,
        step_deadline_s: float,
        failures: FailureBudget,
        rests: bool = False,
    ) -> None:
        self._spawn = spawn
        self._num_workers = num_workers
        self._max_num_seqs = max_num_seqs
        self._start_deadline_s = start_deadline_s
        self._step_deadline_s = step_deadline_s
        self._failures = failures
        self._rests = rests
        self._policy: tuple[AdapterBlob, ray.ObjectRef] | None = None
        self._idle: list[_Worker] = []
        self._errands: dict[ray.ObjectRef, _Errand] = {}
        self._num_spawned = 0
        self.facts = RolloutFacts(0.0, 0, 0, 0, 0)
        for _ in range(num_workers):
            self._start_worker()

    @property
    def num_deaths(self) -> int:
        """Workers that died since the pool began."""
        return self._failures.num_failures

    def generate(self, prompts: Sequence[PromptGroup], sampling: SamplingSettings) -> list[RolloutGroup]:
        """Returns one group per prompt, in the order of `prompts`, whatever worker drew it.

        Raises:
            WorkerDiedError: Workers died more often than the budget allows.
            DeadlineError: The groups, or a worker, are not there in time.
            SyncError: A worker that joined does not sample from the newest adapter.
            FxrayError: Whatever a worker refuses a prompt or an image with.
        """
        start_s = time.monotonic()
        batch = _Batch(prompts, sampling, deque(range(len(prompts))))
        size = self._lease_size(len(prompts), sampling.group_size)
        while len(batch.draws) < len(prompts):
            while self._idle and batch.waiting:
                self._lease(batch, size, start_s + self._step_deadline_s)
            self._settle(start_s + self._step_deadline_s, f"groups {_missing(batch)}")
        if self._rests:
            self._rest(start_s + self._step_deadline_s)
        groups = [batch.draws[index].to_group(prompt) for index, prompt in enumerate(prompts)]
        self.facts = RolloutFacts(
            seconds=time.monotonic() - start_s,
            num_tokens=sum(len(draw.token_ids) for draw in batch.draws.values()),
            num_leases=batch.num_leases,
            image_bytes=batch.image_bytes,
            answer_bytes=sum(draw.num_bytes for draw in batch.draws.values()),
        )
        return groups

    def _rest(self, deadline_s: float) -> None:
        """Sends the idle workers to rest and waits; whoever dies meanwhile is replaced when it is needed."""
        resting = {worker.actor.rest.remote(): worker for worker in self._idle}
        _, late = ray.wait(list(resting), num_returns=len(resting), timeout=max(0.0, deadline_s - time.monotonic()))
        if late:
            raise DeadlineError(
                f"{', '.join(resting[each].name for each in late)} did not give the GPU's memory away in time",
                where="rollout pool",
                remedy="see the workers' logs in Ray's session folder, or set rollout.sleep=false",
            )
        for reference, worker in resting.items():
            try:
                ray.get(reference)
            except (RayActorError, OutOfMemoryError) as error:
                self._idle.remove(worker)
                self._replace(_Errand(worker, f"{worker.name} to rest", deadline_s), error)

    def adopt(self, adapter: AdapterBlob) -> list[SyncProof]:
        """Hands an adapter to every worker; those still starting get it before their first group.

        Returns:
            Checked proofs of the workers that are up, at least one.

        Raises:
            SyncError: A worker does not sample from the adapter.
            WorkerDiedError: Workers died more often than the budget allows.
            DeadlineError: A worker did not answer in time.
        """
        deadline_s = time.monotonic() + self._step_deadline_s
        self._policy = (adapter, ray.put(adapter))
        idle, self._idle = self._idle, []
        for worker in idle:
            self._continue(worker)
        while not self._idle or any(errand.adapter is adapter for errand in self._errands.values()):
            self._settle(deadline_s, f"proofs of policy version {adapter.version}")
        return [worker.proof for worker in self._idle if worker.proof is not None]

    def use_base_model(self) -> None:
        """Lets all workers answer from the base model until the next adapter is adopted."""
        self._policy = None
        idle, self._idle = self._idle, []
        for worker in idle:
            self._continue(worker)

    def close(self) -> None:
        """Ends the workers."""
        for worker in {*self._idle, *(errand.worker for errand in self._errands.values())}:
            ray.kill(worker.actor)
        self._idle.clear()
        self._errands.clear()

    def _lease_size(self, num_groups: int, group_size: int) -> int:
        fills_engine = math.ceil(self._max_num_seqs / group_size)
        fair_share = math.ceil(num_groups / self._num_workers)
        return max(fills_engine, min(fair_share, BATCHES_PER_LEASE * fills_engine))

    def _start_worker(self) -> None:
        self._num_spawned += 1
        name = f"rollout-{self._num_spawned}"
        worker = _Worker(name, self._spawn(name))
        deadline_s = time.monotonic() + self._start_deadline_s
        self._errands[worker.actor.start.remote()] = _Errand(worker, f"{name} to start", deadline_s)

    def _lease(self, batch: _Batch, size: int, deadline_s: float) -> None:
        worker = self._idle.pop()
        lease = tuple(batch.waiting.popleft() for _ in range(min(size, len(batch.waiting))))
        batch.num_leases += 1
        batch.image_bytes += sum(batch.prompts[index].image.num_bytes for index in lease)
        reference = worker.actor.generate.remote([Job.of(batch.prompts[index]) for index in lease], batch.sampling)
        what = f"{len(lease)} groups from {worker.name}"
        self._errands[reference] = _Errand(worker, what, deadline_s, batch=batch, lease=lease)

    def _continue(self, worker: _Worker) -> None:
        """Sends a worker on: to the newest policy if it has another, else to the idle ones."""
        wanted, reference = self._policy or (None, None)
        if worker.adapter is wanted:
            self._idle.append(worker)
            return
        deadline_s = time.monotonic() + self._step_deadline_s
        if wanted is None:
            request, what = worker.actor.use_base_model.remote(), f"{worker.name} to drop its adapter"
        else:
            request = worker.actor.load_adapter.remote(reference)
            what = f"{worker.name} to load policy version {wanted.version}"
        worker.adapter, worker.proof = wanted, None
        self._errands[request] = _Errand(worker, what, deadline_s, adapter=wanted)

    def _settle(self, deadline_s: float, what: str) -> None:
        """Waits for one errand to end, and deals with how it ended."""
        until_s = min([deadline_s, *(errand.deadline_s for errand in self._errands.values())])
        ready, _ = ray.wait(list(self._errands), num_returns=1, timeout=max(0.0, until_s - time.monotonic()))
        if not ready:
            late = ", ".join(errand.what for errand in self._errands.values() if errand.deadline_s <= until_s)
            raise DeadlineError(
                f"no answer in time from the rollout workers: waited for {late or what}",
                where="rollout pool",
                remedy="see the workers' logs in Ray's session folder, or raise rollout.step_deadline_s",
            )
        (reference,) = ready
        errand = self._errands.pop(reference)
        try:
            result = ray.get(reference)
        except (RayActorError, OutOfMemoryError) as error:
            self._replace(errand, error)
            return
        except RayTaskError as error:
            if errand.batch is not None:  # the request was at fault, the worker is sound
                self._continue(errand.worker)
            raise (error.cause if isinstance(error.cause, FxrayError) else error) from None
        if errand.batch is not None:
            self._collect(errand, errand.batch, result)
        if errand.adapter is not None:
            check_proof(errand.adapter, result)
            errand.worker.proof = result
        self._continue(errand.worker)

    def _collect(self, errand: _Errand, batch: _Batch, draws: list[Draw]) -> None:
        for index, draw in zip(errand.lease, draws, strict=True):
            if draw.group_id != batch.prompts[index].group_id or index in batch.draws:
                raise FxrayError(f"drew {draw.group_id} out of turn", where=errand.worker.name)
            batch.draws[index] = draw

    def _replace(self, errand: _Errand, error: Exception) -> None:
        """Puts a dead worker's groups back and starts another worker."""
        ray.kill(errand.worker.actor)
        if errand.batch is not None:
            errand.batch.waiting.extendleft(reversed(errand.lease))
        reason = f"{errand.worker.name} died while the driver waited for {errand.what}: {error}"
        self._failures.record(time.monotonic(), reason)
        self._start_worker()


def rollout_spawner(settings: EngineSettings, actor_options: dict[str, Any]) -> Callable[[str], Any]:
    """Makes rollout actors, given Ray's options for where they run."""
    return lambda name: RolloutActor.options(**actor_options).remote(settings, name)


def _missing(batch: _Batch) -> str:
    missing = [group.group_id for index, group in enumerate(batch.prompts) if index not in batch.draws]
    return ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
