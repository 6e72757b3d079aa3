"""The workers of a rollout pool: who is there, who answers, who must go.

    hired ─► placed ─► up ─────────────────────────────► gone
      no node yet:   health questions every few seconds     │ died, hung, late: a failure
      not late       in a thread of its own                 └ node drained, pool smaller: none

A worker answers health questions in a Ray concurrency group of its own, while it starts, draws or rests; the first
answer also says on which node it is. Whoever is up and leaves a question open for too long is hung.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.nodes import Nodes
from actors.whereabouts import node_of
from fxray import spans
from fxray.grpo.types import PolicyBlob, SyncProof
from fxray.spans import Fact, Span

LOOK_EVERY_S = 2.0
"""Seconds between two looks at workers and nodes, at most."""
LAUNCH_S = 30.0
"""For the process of a worker that has a node to be heard of."""
NEVER_RAN = ("its node has died", "The actor never ran")
"""What Ray says of an actor that it gave to a node whose death it had not noticed yet."""


@dataclass(eq=False, slots=True)
class Worker:
    """An engine's actor, as the pool knows it. Times are of the monotonic clock.

    Attributes:
        name: "rollout-3".
        actor: Ray's handle.
        hired_s: When it was asked for.
        placed_s: When it was first heard of; None while it waits for a node.
        node: Id of its node.
        is_up: Its engine has started.
        is_resting: Its engine holds no GPU memory.
        leaves_s: When its node goes; None where the node stays.
        policy: What it samples from.
        proof: That it does.
        asked_s: When the open question was asked.
    """

    name: str
    actor: Any
    hired_s: float
    placed_s: float | None = None
    node: str = ""
    is_up: bool = False
    is_resting: bool = False
    leaves_s: float | None = None
    policy: PolicyBlob | None = None
    proof: SyncProof | None = None
    asked_s: float = 0.0

    @property
    def has_no_node(self) -> bool:
        """It was not heard of for longer than a process takes to come up."""
        return self.placed_s is None and time.monotonic() - self.hired_s >= LAUNCH_S

    def begin(self, name: str, what: str, facts: dict[str, Fact] | None = None) -> Span:
        """Something that the driver wants of this worker begins."""
        return spans.begin(self.name, name, what, where=lambda: node_of(self.actor), facts=facts)


def was_taken(worker: Worker, error: Exception | None) -> bool:
    """Whether a worker went by no fault of its own: its node leaves or was taken away, or died before it ran there."""
    is_told = isinstance(error, RayActorError) and (error.preempted or all(words in str(error) for words in NEVER_RAN))
    return is_told or worker.leaves_s is not None


@dataclass(slots=True)
class Crew:
    """Workers and the questions that they have not answered.

    Attributes:
        spawn: Makes an actor with the methods of `RolloutWorker`, given its name.
        nodes: The cluster's.
        hang_deadline_s: For a worker that is up to answer.
        members: Everyone who is there, in the order in which they came.
        questions: Open ones.
    """

    spawn: Callable[[str], Any]
    nodes: Nodes
    hang_deadline_s: float
    members: list[Worker] = field(default_factory=list)
    questions: dict[ray.ObjectRef, Worker] = field(default_factory=dict)
    num_hired: int = 0
    next_look_s: float = 0.0

    @property
    def num_up(self) -> int:
        """Workers whose engines have started, on nodes that stay."""
        return sum(worker.is_up and worker.leaves_s is None for worker in self.members)

    def num_up_besides(self, worker: Worker) -> int:
        """How many of these are others."""
        return self.num_up - (worker.is_up and worker.leaves_s is None)

    @property
    def num_staying(self) -> int:
        """Workers on nodes that stay, those that are still starting included."""
        return sum(worker.leaves_s is None for worker in self.members)

    def hire(self) -> Worker:
        """Asks Ray for another worker; it may wait for a node for as long as it likes."""
        self.num_hired += 1
        name = f"rollout-{self.num_hired}"
        worker = Worker(name, self.spawn(name), time.monotonic())
        self.members.append(worker)
        self._ask(worker)
        return worker

    def hear(self, question: ray.ObjectRef) -> Worker:
        """Takes an answer.

        Raises:
            RayActorError: The worker is dead; it is still a member.
        """
        worker = self.questions[question]
        worker.node = ray.get(question)
        worker.placed_s = worker.placed_s or time.monotonic()
        del self.questions[question]
        return worker

    def look(self) -> tuple[list[Worker], list[Worker]]:
        """Asks those who have answered again, and looks at the nodes. Every answer must have been heard before.

        Returns:
            Workers that hang, and workers whose node has begun to leave.
        """
        now_s = time.monotonic()
        self.next_look_s = now_s + min(LOOK_EVERY_S, self.hang_deadline_s / 4)
        asked = set(self.questions.values())
        for worker in self.members:
            if worker not in asked:
                self._ask(worker)
        leaving = self.nodes.leaving() if self.members else {}
        drained = [worker for worker in self.members if worker.node in leaving and worker.leaves_s is None]
        for worker in drained:
            worker.leaves_s = now_s + leaving[worker.node]
        hung = [worker for worker in asked if worker.is_up and now_s - worker.asked_s > self.hang_deadline_s]
        return hung, drained

    def dismiss(self, worker: Worker) -> None:
        """Ends a worker, dead or alive, and forgets it."""
        ray.kill(worker.actor)  # a process that does not react gets SIGKILL from Ray five seconds later
        self.members.remove(worker)
        for question in [each for each, asked in self.questions.items() if asked is worker]:
            del self.questions[question]

    def surplus(self, num_workers: int) -> list[Worker]:
        """Who goes when the pool is to have so many: those that are not up first, then the newest."""
        staying = [worker for worker in self.members if worker.leaves_s is None]
        order = sorted(staying, key=lambda worker: (worker.is_up, -self.members.index(worker)))
        return order[: max(0, len(staying) - num_workers)]

    def _ask(self, worker: Worker) -> None:
        worker.asked_s = time.monotonic()
        self.questions[worker.actor.health.remote()] = worker
