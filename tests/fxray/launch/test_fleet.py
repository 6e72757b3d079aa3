"""A learner that is lost again and again at one place, and policies that are read from folders."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from actors.failures import FailureBudget
from fxray.config.load import load_config
from fxray.detect.load import open_adapter
from fxray.errors import CheckpointError, LearnerLostError, WorkerDiedError
from fxray.launch.fleet import Fleet, read_policy


def fleet_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    fleet = Fleet.__new__(Fleet)
    fleet._session = SimpleNamespace(config=load_config("tiny", ["failures.max_restarts=2"]))
    fleet._learner, fleet._newest_version, fleet._num_lost_here = None, 0, 0
    fleet._learner_failures = FailureBudget("learners", max_restarts=2, window_s=60, remedy="")
    fleet.pool = SimpleNamespace(scaler=SimpleNamespace(observe=lambda step, num_groups: None))
    clock = iter(range(0, 10**6, 1800))  # longer than the window each time
    monkeypatch.setattr("fxray.launch.fleet.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    return fleet


def lost_learner(message: str, remedy: str = "") -> LearnerLostError:
    return LearnerLostError(message, where="waiting for the learner's update", remedy=remedy)


def step(fleet: Any, policy_version: int) -> None:
    seconds = dict.fromkeys(("seconds", "seconds/generate", "seconds/wait", "seconds/idle"), 1.0)
    fleet.observe(seconds | {"policy_version": float(policy_version), "num_groups": 4.0})


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], ["hired", "answered", "started"]),
        (["rollout.sleep=true"], ["hired", "answered", "engines rest", "started"]),
        (["rollout.sleep=true", "rollout.num_workers=2"], ["answered", "engines rest", "hired", "started"]),
    ],
)
def test_ranks_that_share_the_gpus_of_several_engines_get_their_places_after_them(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], expected: list[str]
) -> None:
    fleet, order = fleet_of(monkeypatch), list[str]()
    shared = ["rollout.gpus_per_worker=0.6", "learner.gpus_per_rank=0.4", "rollout.num_workers=1"]
    run = SimpleNamespace(sft_adapter=None)
    fleet._session = SimpleNamespace(config=load_config("tiny", [*shared, *overrides]), model_path=None, run=run)
    fleet._has_learner_started = False
    fleet.pool = SimpleNamespace(rest=lambda: order.append("engines rest"))
    group = SimpleNamespace(start=lambda: order.append("started"))
    monkeypatch.setattr("fxray.launch.fleet.start.learner_group", lambda *_: order.append("hired") or group)
    fleet.hire_learner()
    order.append("answered")
    assert fleet.learner is fleet.learner is group
    assert order == expected


def test_steps_that_were_made_before_are_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, lost = fleet_of(monkeypatch), lost_learner("no answer within 1800 s", remedy="raise learner.step_deadline_s")
    step(fleet, 11)
    for _ in range(2):
        fleet.drop_learner(lost)
        step(fleet, 10)
        step(fleet, 11)
    with pytest.raises(WorkerDiedError, match=r"lost 3 times without a step beyond policy version 11") as caught:
        fleet.drop_learner(lost)
    assert caught.value.message.endswith("the last time: waiting for the learner's update: no answer within 1800 s")
    assert caught.value.remedy == "raise learner.step_deadline_s"


def test_learners_lost_too_often_are_one_error_with_one_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, lost = fleet_of(monkeypatch), lost_learner("no answer within 9 s", remedy="raise learner.step_deadline_s")
    fleet._learner_failures = FailureBudget("learners", max_restarts=1, window_s=3600, remedy="lower something")
    fleet.drop_learner(lost)
    with pytest.raises(WorkerDiedError) as caught:
        fleet.drop_learner(lost)
    assert str(caught.value).count("remedy: ") == 1
    assert caught.value.message.endswith("the last one: waiting for the learner's update: no answer within 9 s")


def test_a_step_further_begins_to_count_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = fleet_of(monkeypatch)
    for version in range(10):
        fleet.drop_learner(lost_learner("rank 0 died"))
        step(fleet, version + 1)
    assert fleet._learner_failures.num_failures == 10
    assert fleet._num_lost_here == 0


@pytest.mark.parametrize("config", ["{}", "[]", "3", '{"r": "8"}', '{"r": null}', "{"])
def test_an_adapter_without_a_rank_is_a_damaged_policy(tmp_path: Path, config: str) -> None:
    save_file({"base_model.model.q.lora_A.weight": np.ones((2, 2), np.float32)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(CheckpointError, match="the policy cannot be read"):
        read_policy(tmp_path, 1)
    (tmp_path / "adapter_config.json").write_text('{"r": 2}')
    assert read_policy(tmp_path, 1).num_modules == 1


@pytest.mark.parametrize(
    ("field", "value", "plain"),
    [
        ("rank_pattern", {"q": 4}, {}),
        ("alpha_pattern", {"q": 4}, {}),
        ("use_dora", True, False),
        ("modules_to_save", ["lm_head"], None),
        ("bias", "all", "none"),
        ("layer_replication", [[0, 2]], None),
        ("peft_type", "LOHA", "LORA"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_by_the_fields_name_and_what_to_do(
    tmp_path: Path, field: str, value: object, plain: object
) -> None:
    save_file({"base_model.model.q.lora_A.weight": np.ones((2, 2), np.float32)}, tmp_path / "adapter_model.safetensors")
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"r": 2, field: value}))
    for read in (lambda: read_policy(tmp_path, 1), lambda: open_adapter(tmp_path)):
        with pytest.raises(
            CheckpointError, match=f"an adapter with {field} = .* is not supported: LoRA with"
        ) as caught:
            read()
        assert caught.value.where == str(config)
        assert caught.value.remedy.startswith(f"train it without {field}; or merge it into its base")
    config.write_text(json.dumps({"r": 2, field: plain}))  # as PEFT writes it
    assert read_policy(tmp_path, 1).num_modules == 1


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 16])
def test_a_whole_model_that_is_cut_is_a_damaged_policy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="the policy cannot be read"):
        read_policy(tmp_path, 1)
