"""A learner that is lost again and again at one place ends the run, however long each time takes."""

from types import SimpleNamespace
from typing import Any

import pytest

from actors.failures import FailureBudget
from fxray.config.load import load_config
from fxray.errors import LearnerLostError, WorkerDiedError
from fxray.launch.fleet import Fleet


def fleet_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    fleet = Fleet.__new__(Fleet)
    fleet._session = SimpleNamespace(config=load_config("tiny", ["failures.max_restarts=2"]))
    fleet._learner, fleet._newest_version, fleet._num_lost_here = None, 0, 0
    fleet._learner_failures = FailureBudget("learners", max_restarts=2, window_s=60, remedy="")
    fleet.pool = SimpleNamespace(scaler=SimpleNamespace(observe=lambda step, num_groups: None))
    clock = iter(range(0, 10**6, 1800))  # longer than the window each time
    monkeypatch.setattr("fxray.launch.fleet.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    return fleet


def step(fleet: Any, policy_version: int) -> None:
    seconds = dict.fromkeys(("seconds", "seconds/generate", "seconds/wait", "seconds/idle"), 1.0)
    fleet.observe(seconds | {"policy_version": float(policy_version), "num_groups": 4.0})


def test_steps_that_were_made_before_are_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, lost = fleet_of(monkeypatch), LearnerLostError("the learner's update did not end within 1800 s")
    step(fleet, 11)
    for _ in range(2):
        fleet.drop_learner(lost)
        step(fleet, 10)
        step(fleet, 11)
    with pytest.raises(WorkerDiedError, match=r"lost 3 times without a step beyond policy version 11.*within 1800 s"):
        fleet.drop_learner(lost)


def test_a_step_further_begins_to_count_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = fleet_of(monkeypatch)
    for version in range(10):
        fleet.drop_learner(LearnerLostError("rank 0 died"))
        step(fleet, version + 1)
    assert fleet._learner_failures.num_failures == 10
    assert fleet._num_lost_here == 0
