"""How an adapter enters an engine, and how that is proved: one order of calls for engines of every kind.

The steps are a generator, so that an engine that answers at once and one that is awaited drive the same proof.
"""

import hashlib
from collections.abc import Generator
from typing import Any

from fxray.errors import SyncError
from fxray.grpo.types import AdapterBlob, SyncProof

Call = tuple[str, tuple[object, ...]]
"""Method of `AdapterExtension` and its arguments; what every worker answers is sent back into the generator."""


def bind_adapter(blob: AdapterBlob, *, lora_id: int, previous_id: int, worker: str) -> Generator[Call, Any, SyncProof]:
    """The calls that load an adapter and prove that it is in use.

    Args:
        blob: The adapter.
        lora_id: Id that it gets in the engine, new for each load.
        previous_id: Id of the adapter in use so far, which stays where the new one is refused; 0 for none.
        worker: Named in the proof and in errors.

    Returns:
        The proof.

    Raises:
        SyncError: The bytes are not what was published, or not every module of theirs is bound.
    """
    where = f"{worker}, policy version {blob.version}"
    sha256 = hashlib.sha256(blob.safetensors).hexdigest()
    if sha256 != blob.sha256:
        raise SyncError(
            f"{len(blob.safetensors)} bytes with sha256 {sha256[:12]} arrived, {blob.sha256[:12]} was published",
            where=where,
            remedy="the adapter was damaged or cut on its way: check the object store's memory and disks",
        )
    if problem := (yield "find_adapter_problem", (blob.peft_config, blob.safetensors)):
        raise SyncError(f"the adapter {problem}", where=where, remedy="publish an adapter of this base model")
    try:
        yield "load_adapter", (lora_id, blob.peft_config, blob.safetensors)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise SyncError(f"vLLM refuses the adapter: {error}", where=where) from error
    num_bound, missing = yield "count_bound_modules", (lora_id, blob.peft_config, blob.safetensors)
    if num_bound != blob.num_modules:
        yield "keep_only_adapter", (previous_id,)
        raise SyncError(
            f"{num_bound} LoRA modules are bound, {blob.num_modules} were published"
            + (f"; missing {missing}" if missing else ""),
            where=where,
            remedy="sampler and learner must hold the same base model and adapter layers",
        )
    yield "keep_only_adapter", (lora_id,)
    return SyncProof(worker, blob.version, sha256, num_bound)
