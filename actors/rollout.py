"""Rollouts from any number of workers that may join late, hang, die or be sent away.

    groups ─► leases ─► idle workers ─► draws, matched by group ─► groups in prompt order
                 ▲           │ worker lost: its groups go back to the queue, another one is hired
                 └───────────┘ who joins proves the newest policy before its first lease

A group is settled when its draw has arrived, so none is lost and none doubled, and a group is the same whoever drew it.
Who is there, answers and stays: `actors/crew.py`. How many: `actors/scaling.py`. One thread at a time may use a pool.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from actors.crew import Crew, Worker, was_taken
from actors.errands import (
    DRAW,
    LOAD,
    REST,
    START,
    Batch,
    Deadlines,
    Errand,
    RolloutFacts,
    end_s,
    ends_run,
    is_starting,
    kept_from_rest,
    late_error,
    may_start,
    missing_groups,
)
from actors.failures import DEATHS, LOSSES, FailureBudget, forget_frames, is_of_one_machine
from actors.nodes import Nodes
from actors.rollout_worker import Job
from actors.scaling import Scaler
from actors.weight_sync import check_proof
from fxray import spans
from fxray.capacity.leases import groups_at_once, lease_size
from fxray.counts import counted
from fxray.errors import FxrayError
from fxray.events import Note, OnEvent, ignore
from fxray.grpo.types import PolicyBlob, PromptGroup, RolloutGroup, SamplingSettings, SyncProof
from fxray.ray_words import words_of
from fxray.spans import Fact
from fxray.waiting import waiting_for


class RolloutPool:
    """The `Generator` of the GRPO loop over Ray, and the target of its `Publisher`.

    Workers start at once and in the background; the first call that needs them waits for `min_workers`.

    Args:
        spawn: Makes an actor with the methods of `RolloutWorker`, given its name.
        scaler: How many workers there shall be.
        min_workers: So many must be up before the first groups are drawn.
        max_num_seqs: Answers that one engine decodes at once.
        deadlines: Of its waits.
        failures: How often workers may die, hang or be late.
        nodes: The cluster's.
        rests: Workers give their GPU's memory away between two calls of `generate`.
        on_event: Told of every worker that is lost and every change of size.
    """

    def __init__(
        self,
        spawn: Callable[[str], Any],
        *,
        scaler: Scaler,
        min_workers: int,
        max_num_seqs: int,
        deadlines: Deadlines,
        failures: FailureBudget,
        nodes: Nodes,
        rests: bool = False,
        on_event: OnEvent = ignore,
    ) -> None:
        self._crew = Crew(spawn, nodes, deadlines.hang_s)
        self.scaler = scaler
        self._nodes = nodes
        self._max_num_seqs = max_num_seqs
        self._deadlines = deadlines
        self._failures = failures
        self._rests = rests
        self._on_event = on_event
        self._policy: tuple[PolicyBlob, ray.ObjectRef] | None = None
        self._idle: list[Worker] = []
        self._errands: dict[ray.ObjectRef, Errand] = {}
        self._num_needed = min_workers
        self._short_since_s: float | None = time.monotonic()
        self._refusal: Exception | None = None
        self._is_closed = False
        self.num_departures = 0
        self.facts = RolloutFacts(0.0, 0, 0, 0, 0)
        nodes.ask_for(scaler.num_workers)
        self._fill()

    @property
    def num_deaths(self) -> int:
        """Workers that died, failed, hung or were late since the pool began."""
        return self._failures.num_failures

    @property
    def num_up(self) -> int:
        """Workers whose engines are up."""
        return self._crew.num_up

    def generate(self, prompts: Sequence[PromptGroup], sampling: SamplingSettings) -> list[RolloutGroup]:
        """Returns one group per prompt, in the order of `prompts`, whatever worker drew it.

        Raises:
            WorkerDiedError: Workers were lost more often than the budget allows.
            DeadlineError: The groups, or a worker, are not there in time.
            SyncError: A worker that joined does not sample from the newest policy.
            FxrayError: Whatever a worker refuses a prompt or an image with.
        """
        fills_engine = groups_at_once(sampling.group_size, self._max_num_seqs)
        if sampling.group_size > 1:  # one answer each is an evaluation, which says nothing of the steps of training
            self._resize(fills_engine)
        self._await_workers()
        start_s = time.monotonic()
        batch = Batch(prompts, sampling, deque(range(len(prompts))), start_s + self._deadlines.step_s)
        size = lease_size(len(prompts), self.scaler.num_workers, fills_engine)
        while len(batch.draws) < len(prompts):
            while self._idle and batch.waiting:
                self._lease(batch, size)
            batch.deadline_s = self._extended_s(batch.deadline_s)
            self._settle(batch.deadline_s, f"groups {missing_groups(batch)}")
        seconds = time.monotonic() - start_s
        if self._rests:
            self.rest()
        self.facts = batch.facts(seconds)
        return [batch.draws[index].to_group(prompt) for index, prompt in enumerate(prompts)]

    def adopt(self, policy: PolicyBlob) -> list[SyncProof]:
        """Hands a policy to every worker; those still starting get it before their first group.

        Returns:
            Checked proofs of the workers that are up, at least one.

        Raises:
            SyncError: A worker does not sample from it.
            WorkerDiedError: Workers were lost more often than the budget allows.
            DeadlineError: A worker did not answer in time.
        """
        self._await_workers()
        deadline_s = time.monotonic() + self._deadlines.step_s
        self._policy = (policy, ray.put(policy))
        self._send_on_idle()
        while not self._idle or any(errand.policy is policy for errand in self._errands.values()):
            deadline_s = self._extended_s(deadline_s)
            self._settle(deadline_s, f"proofs of policy version {policy.version}")
        return [worker.proof for worker in self._idle if worker.proof is not None]

    def use_base_model(self) -> None:
        """Lets all workers answer from the base model until the next policy is adopted."""
        self._policy = None
        self._send_on_idle()

    def rest(self) -> None:
        """Returns when no worker holds GPU memory: those that start or load are waited for, then all are sent to rest.

        Those that wait for a node are let go, so that none starts while others use the GPU, and hired again later.

        Raises:
            DeadlineError: One does not come to rest in time.
            WorkerDiedError: Workers were lost more often than the budget allows.
        """
        deadline_s = time.monotonic() + self._deadlines.start_s + self._deadlines.step_s
        while True:
            while waited_for := kept_from_rest(self._errands.values(), is_short=self._crew.num_up < self._num_needed):
                self._settle(deadline_s, waited_for)
            awake = [worker for worker in self._idle if not worker.is_resting]
            if not awake:
                for errand in list(self._errands.values()):
                    self._let_go(errand.worker)
                return
            for worker in awake:
                self._idle.remove(worker)
                self._send(worker, worker.actor.rest.remote(), REST)

    def close(self) -> None:
        """Ends the workers, and asks for no more nodes; a thread that is still at it finds the pool closed."""
        self._is_closed = True
        for worker in list(self._crew.members):
            self._crew.dismiss(worker)
            spans.retire(worker.name)
        self._idle.clear()
        self._errands.clear()
        self._nodes.ask_for(0)

    def _resize(self, fills_engine: int) -> None:
        """Makes the pool as large as the last steps say that it should be."""
        before = self.scaler.num_workers
        decision = self.scaler.choose(self._crew.num_up, fills_engine)
        if not decision.reason:
            return
        self._on_event(Note(f"from {before} to {decision.num_workers} rollout workers: {decision.reason}"))
        self._nodes.ask_for(self.scaler.num_workers)
        for worker in self._crew.surplus(self.scaler.num_workers):
            self._let_go(worker)
        self._fill()

    def _fill(self) -> None:
        """Hires as many as there should be; while a step lacks workers and one refused to start, the others decide."""
        if self._refusal is not None and self._crew.num_up < self._num_needed:
            if not may_start(self._errands.values()):
                raise self._refusal
            return
        while self._crew.num_staying < self.scaler.num_workers:
            worker = self._crew.hire()
            self._send(worker, worker.actor.start.remote(), START)

    def _await_workers(self) -> None:
        """Waits until a step may begin: at first for as many workers as it takes, later for one."""
        while self._crew.num_up < self._num_needed:
            self._settle(math.inf, "rollout workers to start")
        self._num_needed = 1

    def _extended_s(self, deadline_s: float) -> float:
        """A deadline of a step, which does not run while no worker is up: a start has one of its own."""
        return deadline_s if self._crew.num_up else max(deadline_s, time.monotonic() + self._deadlines.step_s)

    def _send(self, worker: Worker, request: ray.ObjectRef, kind: str, policy: PolicyBlob | None = None) -> None:
        limit_s = self._deadlines.start_s if kind == START else self._deadlines.step_s
        facts: dict[str, Fact] = {"version": policy.version, "bytes": policy.num_bytes} if policy else {}
        what = f"{worker.name} to {kind}" + (f" (version {policy.version})" if policy else "")
        span = worker.begin(kind, what, facts)
        self._errands[request] = Errand(worker, kind, span, time.monotonic() + limit_s, policy)

    def _lease(self, batch: Batch, size: int) -> None:
        batch.deadline_s = time.monotonic() + self._deadlines.step_s  # groups that are drawn again have as long
        worker = self._idle.pop()
        worker.is_resting = False
        lease = tuple(batch.waiting.popleft() for _ in range(min(size, len(batch.waiting))))
        batch.num_leases += 1
        num_bytes = sum(batch.prompts[index].image.num_bytes for index in lease)
        batch.image_bytes += num_bytes
        reference = worker.actor.generate.remote([Job.of(batch.prompts[index]) for index in lease], batch.sampling)
        what = f"{counted(len(lease), 'group')} from {worker.name}"
        span = worker.begin(DRAW, what, {"groups": len(lease), "bytes": num_bytes})
        self._errands[reference] = Errand(worker, DRAW, span, batch.deadline_s, batch=batch, lease=lease)

    def _send_on_idle(self) -> None:
        idle, self._idle = self._idle, []
        for worker in idle:
            self._continue(worker)

    def _continue(self, worker: Worker) -> None:
        """Sends a worker on: away if its node leaves, to the newest policy if it has another, else to the idle ones."""
        wanted, reference = self._policy or (None, None)
        if worker.leaves_s is not None:
            self.num_departures += 1
            self._let_go(worker)
        elif worker.policy is wanted:
            self._idle.append(worker)
        else:
            load = (
                worker.actor.use_base_model.remote() if wanted is None else worker.actor.load_policy.remote(reference)
            )
            worker.policy, worker.proof = wanted, None
            worker.is_resting = worker.is_resting and wanted is None
            self._send(worker, load, LOAD, wanted)

    def _settle(self, deadline_s: float, what: str) -> None:
        """Waits for something to happen, and deals with it."""
        if self._is_closed:
            raise FxrayError("is closed: the run was interrupted", where="rollout pool")
        self._look_after_workers()
        now_s = time.monotonic()
        late = [errand for errand in self._errands.values() if self._end_s(errand) <= now_s]
        until_s = min([deadline_s, self._crew.next_look_s, *(self._end_s(each) for each in self._errands.values())])
        references = [*self._errands, *self._crew.questions]
        patience_s, ready = max(0.0, until_s - now_s), []
        with waiting_for(errand.span for errand in self._errands.values()):
            if references:
                ready, _ = ray.wait(references, num_returns=1, timeout=patience_s)
            else:
                time.sleep(patience_s)
        if ready and ready[0] in self._errands:
            self._finish(ready[0])
        elif ready:
            self._hear(ready[0])
        elif late:
            self._give_up(late[0])
        elif now_s >= deadline_s:
            raise late_error(what)

    def _look_after_workers(self) -> None:
        """Hears who answers, replaces who hangs, and lets go who must leave; at most every few seconds."""
        is_short = self._crew.num_up < self._num_needed and not is_starting(self._errands.values())
        self._short_since_s = (self._short_since_s or time.monotonic()) if is_short else None
        if time.monotonic() < self._crew.next_look_s:
            return
        questions = list(self._crew.questions)
        for question in ray.wait(questions, num_returns=len(questions), timeout=0)[0] if questions else []:
            if question in self._crew.questions:
                self._hear(question)
        hung, drained = self._crew.look()
        for worker in hung:
            self._lose(worker, f"did not answer for {self._deadlines.hang_s:g} s")
        for worker in drained:
            self._on_event(Note(f"{worker.name} gets no more groups: its node is being drained", is_warning=True))
            if worker in self._idle:
                self._continue(worker)
        self._fill()

    def _end_s(self, errand: Errand) -> float:
        return end_s(errand, self._deadlines.start_s, self._short_since_s)

    def _hear(self, question: ray.ObjectRef) -> None:
        worker = self._crew.questions[question]
        try:
            self._crew.hear(question)
        except DEATHS as error:
            forget_frames(error)
            self._lose(worker, f"died: {words_of(error)}", error)

    def _finish(self, reference: ray.ObjectRef) -> None:
        errand = self._errands.pop(reference)
        worker = errand.worker
        try:
            result = ray.get(reference)
        except LOSSES as error:
            self._errands[reference] = errand
            forget_frames(error)
            self._lose(worker, f"died: {words_of(error)}", error)
            return
        except RayTaskError as error:
            if self._can_do_without(errand, error.cause):
                self._errands[reference] = errand
                forget_frames(error)
                self._lose(worker, f"failed: {type(error.cause).__name__}: {str(error.cause).strip()[:300]}")
                return
            errand.span.end(failed="refused")
            if errand.batch is not None:  # the request was at fault, the worker is sound
                self._continue(worker)
            raise (error.cause if isinstance(error.cause, FxrayError) else error) from None
        errand.span.end()
        if errand.kind == START:
            worker.is_up, self._refusal = True, None
            self.scaler.note_start(time.monotonic() - (worker.placed_s or worker.hired_s))
        worker.is_resting = worker.is_resting or errand.kind in (START, REST)
        if errand.batch is not None:
            errand.batch.collect(errand, result)
        if errand.policy is not None:
            check_proof(errand.policy, result)
            worker.proof = result
        self._continue(worker)

    def _can_do_without(self, errand: Errand, cause: Exception) -> bool:
        """Whether a worker is to be replaced that raised something: a fault of its own, or what others are spared."""
        if errand.kind == START:
            is_short = self._crew.num_up < self._num_needed
            self._refusal = cause if is_short else None
            return not is_short or may_start(self._errands.values())
        if is_of_one_machine(cause):
            return self._crew.num_up_besides(errand.worker) >= self._num_needed
        return not isinstance(cause, FxrayError)

    def _give_up(self, errand: Errand) -> None:
        """Does without a worker that is late, if others can go on."""
        worker = errand.worker
        if worker.leaves_s is not None and worker.leaves_s <= time.monotonic():
            self._continue(worker)
            return
        is_short = self._crew.num_up_besides(worker) < self._num_needed
        if ends_run(errand, self._errands.values(), is_short=is_short):
            raise late_error(errand.what, is_placed=worker.placed_s is not None, kind=errand.kind)
        self._lose(worker, f"was given up: waited too long for {errand.what}")

    def _lose(self, worker: Worker, reason: str, error: Exception | None = None) -> None:
        """Does without a worker, counts it unless its node was taken away, and hires another."""
        is_taken = was_taken(worker, error)
        what = next((errand.what for errand in self._errands.values() if errand.worker is worker), "nothing")
        text = f"{worker.name} {reason}; the pool waited for {what}"
        self._let_go(worker, reason)
        self._on_event(Note(text, is_warning=True))
        self.num_departures += is_taken
        if not is_taken:
            self._failures.record(time.monotonic(), text, node=worker.node, hired_s=worker.hired_s)
        self._fill()

    def _let_go(self, worker: Worker, reason: str = "") -> None:
        """Ends a worker; groups that it was drawing go back to the front of the queue."""
        for reference in [each for each, errand in self._errands.items() if errand.worker is worker]:
            errand = self._errands.pop(reference)
            errand.span.end(failed=reason or "let go")
            if errand.batch is not None:
                errand.batch.waiting.extendleft(reversed(errand.lease))
        if worker in self._idle:
            self._idle.remove(worker)
        self._crew.dismiss(worker)
        spans.retire(worker.name, reason)
