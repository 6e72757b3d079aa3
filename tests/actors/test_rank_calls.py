"""Waiting for ranks: over stubs of Ray's calls, and over Ray."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ObjectLostError, OutOfMemoryError

from actors.health import Health
from actors.learner import LearnerGroup
from actors.rank_calls import await_ranks, record_phases
from fxray import spans
from fxray.errors import DeadlineError, LearnerLostError


class Silent:
    """A rank of Ray's whose health thread gets no turn before its third call of `state` or `update` is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_looks, self.fetched = 0, []
        self.is_alive = SimpleNamespace(remote=lambda: "alive")
        self.call = SimpleNamespace(remote=lambda method, *_: method)
        monkeypatch.setattr(ray, "wait", self._wait)
        monkeypatch.setattr(ray, "get", self._get)

    def _wait(self, pending: list[str], **_: object) -> tuple[list[str], list[str]]:
        if pending == ["alive"]:
            return [], pending
        self.num_looks += 1
        return (pending, []) if self.num_looks >= 3 else ([], pending)

    def _get(self, reference: str, **_: object) -> dict[str, bytes]:
        self.fetched.append(reference)
        return {f"answer to {reference}": b""}


def group_of(rank: Silent, lora_rank: int) -> LearnerGroup:
    group = LearnerGroup.__new__(LearnerGroup)
    group._spec = SimpleNamespace(lora_rank=lora_rank)
    group._ranks, group._health, group._deadline_s = [rank], Health({"learner rank 0": rank}, -1.0), 60.0
    return group


def test_an_answer_of_a_rank_is_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = Silent(monkeypatch)
    assert await_ranks(["a", "b"], 10, "the learner's state") == [{"answer to a": b""}, {"answer to b": b""}]
    assert rank.fetched == ["a", "b"]


def test_a_rank_that_packs_a_whole_model_may_be_silent_and_one_that_learns_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for method, moves_files, lora_rank, is_lost in (
        ("state", True, 0, False),
        ("state", True, 8, True),
        ("update", False, 0, True),
    ):
        group = group_of(Silent(monkeypatch), lora_rank)
        if is_lost:
            with pytest.raises(LearnerLostError, match="learner rank 0 has not said"):
                group._all(method, moves_files=moves_files)
        else:
            assert group._all(method, moves_files=moves_files) == [{f"answer to {method}": b""}]


def test_what_a_rank_owed_from_before_a_checkpoint_is_no_silence_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = Silent(monkeypatch)
    group = group_of(rank, lora_rank=0)
    assert not group._health.find_hung()  # asked at the end of a step, not answered yet
    group._all("state", moves_files=True)
    assert not group._health.find_hung()
    assert group._health.find_hung() == "learner rank 0"


def test_whole_models_are_written_and_read_in_calls_whose_silence_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    group = group_of(Silent(monkeypatch), lora_rank=0)
    monkeypatch.setattr(ray, "put", lambda value: value)
    asked = []

    def await_nothing(calls: Any, deadline_s: float, what: str, name: str = "", health: Any = None) -> list[Any]:
        asked.append((what.rpartition(" ")[2], health is None))
        return [{}]

    monkeypatch.setattr("actors.learner.await_ranks", await_nothing)
    for folder in ("adapter", "reference"):
        (tmp_path / folder).mkdir()
    (tmp_path / "optimizer.safetensors").touch()
    group.save(tmp_path)
    group.load(tmp_path)
    group.set_reference(tmp_path / "adapter")
    group.reset_optimizer()
    assert asked == [*[("state", True)] * 3, *[("restore", True)] * 4, ("reset_optimizer", False)]


def test_phases_of_an_update_are_drawn_inside_its_span():
    heard = []
    span = spans.Span("learner-1", "update", "", 100.0, 102.0)
    with spans.listening(heard.append):
        record_phases(span, {"seconds/forward": 0.5, "loss": 9.0, "seconds/backward": 1.0, "seconds/step": 7.0})
        record_phases(span, b"an adapter")
    drawn = [(each.track, each.name, each.start_s, each.end_s, each.is_part) for each in heard]
    assert drawn == [
        ("learner-1", "forward", 100.0, 100.5, True),
        ("learner-1", "backward", 100.5, 101.5, True),
        ("learner-1", "step", 101.5, 102.0, True),
    ]


@pytest.mark.parametrize("loss", [ActorDiedError(), OutOfMemoryError("killed"), ObjectLostError("0" * 56, None, "")])
def test_a_rank_that_is_gone_in_whatever_way_is_a_lost_learner(
    monkeypatch: pytest.MonkeyPatch, loss: Exception
) -> None:
    monkeypatch.setattr(ray, "wait", lambda pending, **_: (pending, []))

    def get(*_: object, **__: object) -> None:
        raise loss

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(LearnerLostError, match="a learner rank died"):
        await_ranks(["answer"], 10, "the learner's update")


@pytest.mark.ray
def test_waits_end_at_their_deadline(cluster):
    @ray.remote(num_cpus=0)
    def sleep():
        import time

        time.sleep(30)

    call = sleep.remote()
    with pytest.raises(DeadlineError, match="waiting for the kettle: no answer within 0 s"):
        await_ranks([call], 0.2, "the kettle")
    ray.cancel(call, force=True)
