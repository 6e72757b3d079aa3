"""Which actors live: each is asked again and again, and answers in a thread of its own, whatever else it does.

A process that dies is told by Ray at once; one that is stopped, or stuck so deep that none of its threads runs, is not.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from actors.failures import DEATHS

ASK_EVERY_S = 2.0
DEATH_IS_TOLD_WITHIN_S = 5.0


@dataclass(slots=True)
class _Question:
    reference: Any
    asked_s: float
    is_answered: bool = False


class Health:
    """Asks actors for signs of life.

    Args:
        actors: By name; each has `is_alive` in a concurrency group of its own.
        deadline_s: For an answer.
    """

    def __init__(self, actors: Mapping[str, Any], deadline_s: float) -> None:
        self._actors = dict(actors)
        self.deadline_s = deadline_s
        self._questions: dict[str, _Question] = {}

    def find_hung(self) -> str:
        """Name of an actor that owes an answer for longer than the deadline; empty where there is none.

        A death is no silence: the call that waits for the actor tells it.
        """
        now_s = time.monotonic()
        for name, actor in self._actors.items():
            question = self._questions.get(name)
            if question is None or (question.is_answered and now_s - question.asked_s >= ASK_EVERY_S):
                self._questions[name] = _Question(actor.is_alive.remote(), now_s)
            elif not question.is_answered:
                question.is_answered = bool(ray.wait([question.reference], timeout=0)[0])
                if not question.is_answered and now_s - question.asked_s > self.deadline_s:
                    return name
        return ""

    def forget(self) -> None:
        """Leaves open questions: what actors owe from a time in which they could not answer is no silence."""
        self._questions.clear()

    def find_dead(self) -> str:
        """Name of an actor whose process is gone or silent; empty where all answer within a few seconds."""
        asked = {name: actor.is_alive.remote() for name, actor in self._actors.items()}
        end_s = time.monotonic() + DEATH_IS_TOLD_WITHIN_S
        for name, reference in asked.items():
            try:
                ray.get(reference, timeout=max(0.0, end_s - time.monotonic()))
            except (*DEATHS, TimeoutError):
                return name
        return ""
