from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RuntimeEnvSetupError

from actors.failures import FailureBudget
from actors.health import Health
from fxray.errors import WorkerDiedError

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
        "failures.max_restarts: ranks failed 2 times within 1 minutes, 1 restarts are allowed; the last one: rank 1 "
        "was killed for its memory\n  remedy: use less memory; the run continues from its last checkpoint"
    )


def raising(error: Exception) -> Any:
    def get(*_: object, **__: object) -> None:
        raise error

    return get


@pytest.mark.parametrize("death", DEATHS)
def test_whoever_is_asked_for_a_sign_of_life_is_found_dead(monkeypatch: pytest.MonkeyPatch, death: Exception) -> None:
    actor = SimpleNamespace(is_alive=SimpleNamespace(remote=lambda: "answer"))
    monkeypatch.setattr(ray, "get", raising(death))
    assert Health({"learner rank 1": actor}, deadline_s=10).find_dead() == "learner rank 1"
