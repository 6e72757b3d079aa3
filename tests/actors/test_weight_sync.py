import hashlib
import json
import struct
from dataclasses import replace

import pytest

from actors.weight_sync import PolicyPublisher, check_adapter, check_proof
from fxray.errors import SyncError
from fxray.grpo.types import AdapterBlob, SyncProof


def safetensors(*names: str) -> bytes:
    """A file of float32 scalars, written by hand."""
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)}
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * len(names))


def blob(content: bytes, num_modules: int) -> AdapterBlob:
    return AdapterBlob(3, content, {"r": 8}, hashlib.sha256(content).hexdigest(), num_modules)


TWO = safetensors("a.q.lora_A.weight", "a.q.lora_B.weight", "a.v.lora_A.weight", "a.v.lora_B.weight")
GOOD = blob(TWO, 2)
PROOF = SyncProof("rollout-2", 3, GOOD.sha256, 2)


class Workers:
    def __init__(self) -> None:
        self.adopted: list[AdapterBlob] = []

    def adopt(self, adapter: AdapterBlob) -> list[SyncProof]:
        self.adopted.append(adapter)
        return [PROOF]


def test_a_sound_adapter_reaches_the_workers_and_their_proofs_come_back() -> None:
    workers = Workers()
    assert PolicyPublisher(workers).publish(GOOD) == [PROOF]
    assert workers.adopted == [GOOD]


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        (replace(GOOD, safetensors=TWO[:-1] + b"\1"), "sha256 of the bytes is"),
        (replace(GOOD, safetensors=TWO[:-2]), "sha256 of the bytes is"),
        (blob(TWO[:-2], 2), f"has {len(TWO) - 2} bytes, its header announces {len(TWO)}"),
        (blob(TWO[:5], 2), "not a safetensors file"),
        (blob(TWO[:40], 2), "not a safetensors file"),
        (blob(b"", 2), "not a safetensors file"),
        (blob(b"\xff" * 64, 2), "not a safetensors file"),
        (blob(safetensors(), 0), "holds no LoRA module"),
        (blob(safetensors("lm_head.weight"), 1), "holds no LoRA module"),
        (blob(TWO, 3), "holds 2 LoRA modules, 3 were announced"),
    ],
)
def test_a_damaged_adapter_reaches_no_worker(adapter: AdapterBlob, reason: str) -> None:
    workers = Workers()
    with pytest.raises(SyncError, match=reason) as caught:
        PolicyPublisher(workers).publish(adapter)
    assert "policy version 3" in str(caught.value)
    assert "remedy" in str(caught.value)
    assert workers.adopted == []


@pytest.mark.parametrize(
    ("proof", "difference"),
    [
        (replace(PROOF, version=2), "policy version 2, expected 3"),
        (replace(PROOF, sha256="0" * 64), "sha256 0000"),
        (replace(PROOF, num_bound_modules=0), "bound modules 0, expected 2"),
    ],
)
def test_a_proof_that_differs_names_worker_and_difference(proof: SyncProof, difference: str) -> None:
    with pytest.raises(SyncError, match=difference) as caught:
        check_proof(GOOD, proof)
    assert str(caught.value).startswith("rollout-2: ")


def test_a_true_proof_passes() -> None:
    check_adapter(GOOD)
    check_proof(GOOD, PROOF)
