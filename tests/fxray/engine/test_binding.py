"""The order of calls that load and prove an adapter, driven without an engine."""

import hashlib

import pytest

from fxray.engine.binding import bind_adapter
from fxray.errors import SyncError
from fxray.grpo.types import AdapterBlob, SyncProof

CONTENT = b"weights"
BLOB = AdapterBlob(3, CONTENT, {"r": 8}, hashlib.sha256(CONTENT).hexdigest(), num_modules=5)


def drive(answers: dict, blob: AdapterBlob = BLOB) -> tuple[SyncProof | None, list[tuple[str, object]]]:
    """What comes out where each method answers as given, an exception by raising it; and the calls."""
    calls: list[tuple[str, object]] = []
    steps = bind_adapter(blob, lora_id=2, previous_id=1, worker="w")
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


def test_an_adapter_is_checked_loaded_counted_and_then_alone():
    proof, calls = drive({"find_adapter_problem": "", "count_bound_modules": (5, "")})
    assert proof == SyncProof("w", 3, BLOB.sha256, 5)
    assert calls == [
        ("find_adapter_problem", {"r": 8}), ("load_adapter", 2), ("count_bound_modules", 2), ("keep_only_adapter", 2),
    ]  # fmt: skip


def test_an_adapter_that_is_not_bound_whole_leaves_the_one_before():
    proof, calls = drive({"find_adapter_problem": "", "count_bound_modules": (4, "q_proj")})
    assert proof is None
    assert calls[-2] == ("keep_only_adapter", 1)
    assert "4 LoRA modules are bound, 5 were published; missing q_proj" in calls[-1][1]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"find_adapter_problem": "holds no weights"}, "the adapter holds no weights"),
        ({"find_adapter_problem": "", "load_adapter": ValueError("rank 16")}, "vLLM refuses the adapter: rank 16"),
    ],
)
def test_what_is_refused_is_never_counted(answers, says):
    proof, calls = drive(answers)
    assert proof is None
    assert calls[-1] == ("error", says)
    assert "count_bound_modules" not in dict(calls)


def test_damaged_bytes_reach_no_worker():
    proof, calls = drive({}, AdapterBlob(3, b"weight?", {"r": 8}, BLOB.sha256, 5))
    assert proof is None
    assert [name for name, _ in calls] == ["error"]
