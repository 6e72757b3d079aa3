"""The order of calls that load and prove a policy, driven without an engine."""

import hashlib
from collections.abc import Generator
from dataclasses import replace

import numpy as np
import pytest

from fxray.engine.binding import MixedWeightsError, bind_policy
from fxray.errors import SyncError
from fxray.grpo.types import AdapterBlob, PolicyBlob, SyncProof, WeightsBlob
from fxray.tensor_file import join_pieces, pieces_sha256

OTHER_IDS = (7, 9)
CONTENT = b"weights"
BLOB = AdapterBlob(3, CONTENT, {"r": 8}, hashlib.sha256(CONTENT).hexdigest(), num_modules=5)


def bind(blob: PolicyBlob, lora_rank: int = 8) -> Generator:
    return bind_policy(blob, lora_rank=lora_rank, lora_id=2, previous_id=1, worker="w", other_ids=OTHER_IDS)


def drive(answers: dict, blob: AdapterBlob = BLOB) -> tuple[SyncProof | None, list[tuple[str, object]]]:
    """What comes out where each method answers as given, an exception by raising it; and the calls."""
    calls: list[tuple[str, object]] = []
    steps = bind(blob)
    try:
        method, arguments = next(steps)
        while True:
            calls.append((method, arguments[0]))
            answer = answers.get(method)
            method, arguments = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
    except StopIteration as end:
        return end.value, calls
    except SyncError as error:
        calls.append(("error", error.message))
        return None, calls


def test_an_adapter_is_checked_loaded_counted_and_takes_the_place_of_the_one_before():
    proof, calls = drive({"take_adapter": "", "count_bound_modules": (5, "")})
    assert proof == SyncProof("w", 3, BLOB.sha256, 5)
    assert calls == [
        ("take_adapter", {"r": 8}), ("load_adapter", 2), ("count_bound_modules", 2),
        ("keep_adapters", (2, *OTHER_IDS)),
    ]  # fmt: skip


def test_an_adapter_that_is_not_bound_whole_leaves_the_one_before():
    proof, calls = drive({"take_adapter": "", "count_bound_modules": (4, "q_proj")})
    assert proof is None
    assert calls[-2] == ("keep_adapters", (1, *OTHER_IDS))
    assert "4 LoRA modules are bound, 5 were published; missing q_proj" in calls[-1][1]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"take_adapter": "holds no weights"}, "the adapter holds no weights"),
        ({"take_adapter": "", "load_adapter": ValueError("rank 16")}, "vLLM refuses the adapter: rank 16"),
    ],
)
def test_what_is_refused_is_never_counted(answers, says):
    proof, calls = drive(answers)
    assert proof is None
    assert calls[-1] == ("error", says)
    assert "count_bound_modules" not in dict(calls)
    assert ("keep_adapters" in dict(calls)) == ("load_adapter" in dict(calls))  # nothing stays of what was refused


def test_damaged_bytes_reach_no_worker():
    proof, calls = drive({}, AdapterBlob(3, b"weight?", {"r": 8}, BLOB.sha256, 5))
    assert proof is None
    assert [name for name, _ in calls] == ["error"]


TENSORS = {"a": np.arange(8, dtype=np.uint8), "b": np.arange(12, dtype=np.uint8)}
PIECES = join_pieces(TENSORS, {"a": ("F32", (2,)), "b": ("F32", (3,))}, piece_bytes=12)
WEIGHTS = WeightsBlob(4, PIECES, pieces_sha256(PIECES), num_modules=2, num_bytes=sum(p.nbytes for p in PIECES))
SOUND = {"begin_weights": "", "take_piece": "", "count_used_tensors": (2, "")}


def drive_weights(answers: dict, blob: WeightsBlob = WEIGHTS) -> tuple[SyncProof | Exception, list[str]]:
    calls: list[str] = []
    steps = bind(blob, lora_rank=0)
    try:
        method, _ = next(steps)
        while True:
            calls.append(method)
            answer = answers.get(method)
            method, _ = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
    except StopIteration as end:
        return end.value, calls
    except SyncError as error:
        return error, calls


def test_whole_weights_are_checked_piece_by_piece_before_the_first_is_loaded():
    proof, calls = drive_weights(SOUND)
    assert proof == SyncProof("w", 4, WEIGHTS.sha256, 2)
    assert calls == ["begin_weights", "take_piece", "take_piece", "load_pieces", "count_used_tensors", "drop_pieces"]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"begin_weights": "lack 3 tensors"}, "the weights lack 3 tensors"),
        (SOUND | {"take_piece": "hold values that are not finite"}, "the weights hold values that are not finite"),
    ],
)
def test_weights_that_are_refused_leave_the_engine_as_it_was(answers, says):
    error, calls = drive_weights(answers)
    assert error.message == says
    assert not isinstance(error, MixedWeightsError)
    assert calls[-1] == "drop_pieces"
    assert "load_pieces" not in calls


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (SOUND | {"load_pieces": RuntimeError("no such module")}, "vLLM refuses the weights: no such module"),
        (SOUND | {"count_used_tensors": (1, "b")}, "computes with 1 of the 2 tensors that were published; not with b"),
    ],
)
def test_an_engine_that_may_be_mixed_is_told_apart(answers, says):
    error, _ = drive_weights(answers)
    assert isinstance(error, MixedWeightsError)
    assert says in error.message


@pytest.mark.parametrize(
    "pieces",
    [PIECES[:-1], (PIECES[0], PIECES[2], PIECES[1]), (*PIECES[:2], PIECES[2] + 1)],
    ids=["cut", "order", "bits"],
)
def test_damaged_weights_reach_no_worker(pieces):
    error, calls = drive_weights(SOUND, replace(WEIGHTS, pieces=pieces))
    assert "was published" in error.message
    assert calls == []


def test_a_policy_of_the_other_kind_is_refused():
    with pytest.raises(SyncError, match="an adapter cannot enter an engine for whole weights"):
        bind(BLOB, lora_rank=0)
    with pytest.raises(SyncError, match="whole weights cannot enter an engine for adapters"):
        bind(WEIGHTS)
