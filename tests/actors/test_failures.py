from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayActorError, RuntimeEnvSetupError

from actors.failures import FailureBudget, dead_node
from actors.health import Health
from fxray.errors import WorkerDiedError
from fxray.ray_words import words_of

DEATHS = (
    ActorDiedError(),
    OutOfMemoryError("killed by the memory monitor"),
    RuntimeEnvSetupError("Failed to unpack the working directory: No space left on device"),
    NodeDiedError("its node is gone"),
)


def budget(max_restarts: int) -> FailureBudget:
    return FailureBudget("ranks", max_restarts=max_restarts, window_s=60, remedy="use less memory")


@pytest.mark.parametrize(
    ("max_restarts", "times_s", "is_spent"),
    [
        (0, [5], True),
        (1, [0], False),
        (1, [0, 59.9], True),
        (1, [0, 60, 120, 180], False),  # one a minute, for ever
        (2, [0, 30, 60, 90, 120], False),
        (2, [0, 30, 59], True),
        (2, [0, 100, 110, 120], True),
    ],
)
def test_failures_count_for_as_long_as_the_window(max_restarts: int, times_s: list[float], is_spent: bool) -> None:
    present = budget(max_restarts)
    for now_s in times_s[:-1]:
        present.record(now_s, "rank 0 died")
    if is_spent:
        with pytest.raises(WorkerDiedError):
            present.record(times_s[-1], "rank 0 died")
    else:
        present.record(times_s[-1], "rank 0 died")
    assert present.num_failures == len(times_s)


def test_a_spent_budget_says_who_how_often_why_and_what_to_do() -> None:
    present = budget(1)
    present.record(10, "rank 0 died")
    with pytest.raises(WorkerDiedError) as caught:
        present.record(20, "rank 1 was killed for its memory")
    assert str(caught.value) == (
        "failures.max_restarts: ranks failed 2 times within 1 min, 1 restart is allowed; the last one: rank 1 "
        "was killed for its memory\n  remedy: use less memory; the run continues from its last checkpoint"
    )


def test_what_ray_says_of_a_death_is_one_line_of_what_happened() -> None:
    error = RayActorError(
        actor_id=None,
        error_msg="The actor died unexpectedly before finishing this task.\n\tclass_name: RolloutWorker\n\tactor_id: 2e"
        "\n\tpid: 16946\n\tnamespace: fxray\n\tip: 127.0.0.1\nThe actor is dead because its worker process has died. "
        "Worker exit detail: End of file. Some common causes include: (1) the process was killed by the OOM killer.",
    )
    assert words_of(error) == (
        "The actor died unexpectedly before finishing this task. pid: 16946 The actor is dead because its worker "
        "process has died. Worker exit detail: End of file."
    )
    assert words_of(OutOfMemoryError("no memory\n" * 100)) == ("no memory " * 100)[:400]


def test_what_ray_says_of_a_death_ends_with_what_was_raised() -> None:
    frame = '  File "/opt/python/lib/python3.11/asyncio/tasks.py", line 489, in wait_for\n    return fut.result()\n'
    error = RuntimeEnvSetupError(
        f"[Node 10.0.0.2] Traceback (most recent call last):\n{frame * 20}           ^^^^^^^^^^^^\n"
        "\x1b[36mFileNotFoundError\x1b[39m: [Errno 2] No such file or directory: 'job.zip'\n"
    )
    assert words_of(error) == (
        "Failed to set up runtime environment. [Node 10.0.0.2] Traceback (most recent call last): FileNotFoundError: "
        "[Errno 2] No such file or directory: 'job.zip'"
    )


def test_processes_that_fall_with_their_node_are_one_failure_and_those_that_come_after_are_not() -> None:
    present = budget(2)
    for now_s in (10.0, 10.1, 15.0):
        present.record(now_s, "an engine died", node="a", hired_s=0.0)
    present.record(16.0, "its successor died there", node="a", hired_s=11.0)
    assert present.num_failures == 4
    for node in ("b", ""):
        with pytest.raises(WorkerDiedError, match="failed"):
            present.record(17.0, "one elsewhere died", node=node, hired_s=0.0)


def test_failures_whose_node_nobody_knows_are_counted_one_by_one() -> None:
    present = budget(1)
    present.record(10.0, "an engine died")
    with pytest.raises(WorkerDiedError):
        present.record(10.1, "an engine died")


def test_a_dead_node_is_the_one_that_ray_names() -> None:
    node = RayActorError("f00", "The actor died because its node has died. Node Id: 5eed12. the node was killed")
    assert (dead_node(node), dead_node(ActorDiedError())) == ("5eed12", "")


def raising(error: Exception) -> Any:
    def get(*_: object, **__: object) -> None:
        raise error

    return get


@pytest.mark.parametrize("death", DEATHS)
def test_whoever_is_asked_for_a_sign_of_life_is_found_dead(monkeypatch: pytest.MonkeyPatch, death: Exception) -> None:
    actor = SimpleNamespace(is_alive=SimpleNamespace(remote=lambda: "answer"))
    monkeypatch.setattr(ray, "get", raising(death))
    assert Health({"learner rank 1": actor}, deadline_s=10).find_dead() == "learner rank 1"
