"""Policies reach the rollout workers through the object store, and nobody believes it without a proof.

    learner ─► AdapterBlob ─► checked here ─► ray.put once ─► each worker pulls ─► SyncProof ─► checked here
    learner ─► pieces of all weights, put once on its node ─► each worker reads them in shared memory ─► SyncProof

A proof says which version a worker took over, the sha256 of the bytes that reached it, and how many LoRA modules, or
tensors of whole weights, its engine computes with. An engine that acknowledges and still samples from something else is
caught by the loop's probe.
"""

import hashlib
import json
import struct
from typing import Protocol

from fxray.errors import SyncError
from fxray.grpo.types import AdapterBlob, PolicyBlob, SyncProof


class PolicyTarget(Protocol):
    """Workers that take over a policy."""

    def adopt(self, policy: PolicyBlob) -> list[SyncProof]:
        """Hands the policy to every worker, present or to come; returns checked proofs of those present."""
        ...


class PolicyPublisher:
    """The `Publisher` of the GRPO loop.

    Args:
        workers: The pool that samples.
    """

    def __init__(self, workers: PolicyTarget) -> None:
        self._workers = workers

    def publish(self, policy: PolicyBlob) -> list[SyncProof]:
        """Returns one proof per worker.

        Raises:
            SyncError: The policy is damaged, empty, or not what a worker samples with.
        """
        if isinstance(policy, AdapterBlob):  # whole weights are looked at where they arrive: too much for the driver
            check_adapter(policy)
        return self._workers.adopt(policy)


def check_adapter(adapter: AdapterBlob) -> None:
    """Refuses an adapter that cannot be what the learner meant, before any worker sees it.

    Raises:
        SyncError: The bytes differ from their checksum, are cut, or hold other modules than announced.
    """
    where = f"policy version {adapter.version}"
    remedy = "the learner's export is damaged; continue from the last checkpoint"
    if (got := hashlib.sha256(adapter.safetensors).hexdigest()) != adapter.sha256:
        raise SyncError(
            f"sha256 of the bytes is {got[:12]}, expected {adapter.sha256[:12]}", where=where, remedy=remedy
        )
    num_modules = _count_modules(adapter.safetensors, where)
    if num_modules == 0:
        raise SyncError("holds no LoRA module: workers would sample from the base model", where=where, remedy=remedy)
    if num_modules != adapter.num_modules:
        message = f"holds {num_modules} LoRA modules, {adapter.num_modules} were announced"
        raise SyncError(message, where=where, remedy=remedy)


def check_proof(policy: PolicyBlob, proof: SyncProof) -> None:
    """Compares what a worker acknowledges with what was published.

    Raises:
        SyncError: Version, checksum or number of bound modules differ.
    """
    for what, got, expected in (
        ("policy version", proof.version, policy.version),
        ("sha256", proof.sha256, policy.sha256),
        ("bound modules", proof.num_bound_modules, policy.num_modules),
    ):
        if got != expected:
            raise SyncError(
                f"acknowledges {what} {got}, expected {expected}",
                where=proof.worker,
                remedy="the worker does not sample from the published policy; continue from the last checkpoint",
            )


def _count_modules(safetensors: bytes, where: str) -> int:
    """LoRA modules in a safetensors file, from its header alone."""
    remedy = "the learner's export is damaged; continue from the last checkpoint"
    try:
        (num_header_bytes,) = struct.unpack("<Q", safetensors[:8])
        header = json.loads(safetensors[8 : 8 + num_header_bytes])
        tensors = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        num_bytes = 8 + num_header_bytes + max((end for _, end in tensors.values()), default=0)
    except (struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SyncError(f"is not a safetensors file: {error}", where=where, remedy=remedy) from error
    if num_bytes != len(safetensors):
        message = f"has {len(safetensors)} bytes, its header announces {num_bytes}"
        raise SyncError(message, where=where, remedy=remedy)
    return len({name.partition(".lora_")[0] for name in tensors if ".lora_" in name})
