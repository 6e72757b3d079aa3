"""How a policy enters an engine, and how that is proved: one order of calls for engines of every kind.

The steps are a generator, so that an engine that answers at once and one that is awaited drive the same proof.
"""

import hashlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from fxray.errors import SyncError
from fxray.grpo.types import AdapterBlob, PolicyBlob, SyncProof, WeightsBlob
from fxray.tensor_file import Bytes, pieces_sha256, read_header, read_pieces

Call = tuple[str, tuple[object, ...]]
"""Method of `WorkerExtension` and its arguments; what every worker answers is sent back into the generator."""
REFUSALS = (ValueError, RuntimeError, AssertionError, AttributeError, KeyError)
"""What vLLM's loaders raise."""


def read_weights(folder: Path, version: int) -> WeightsBlob:
    """The weights in the folder of a whole model, ready to publish.

    Raises:
        OSError: A file cannot be read.
        ValueError: There is none, or one is damaged.
    """
    pieces = read_pieces(folder)
    num_bytes, num_tensors = sum(piece.nbytes for piece in pieces), len(read_header(pieces[0].tobytes()))
    return WeightsBlob(version, pieces, pieces_sha256(pieces), num_tensors, num_bytes)


class MixedWeightsError(SyncError):
    """An engine's weights are partly old and partly new, or unproved: it must not answer any more."""


def bind_policy(
    blob: PolicyBlob, *, lora_rank: int, lora_id: int, previous_id: int, worker: str, other_ids: tuple[int, ...] = ()
) -> Generator[Call, Any, SyncProof]:
    """The calls that bring a policy into an engine, and prove that it is in use.

    Args:
        blob: The policy.
        lora_rank: That the engine was started with; 0 takes whole weights.
        lora_id: As for `bind_adapter`.
        previous_id: As for `bind_adapter`.
        worker: Named in the proof and in errors.
        other_ids: As for `bind_adapter`.

    Raises:
        SyncError: As `bind_adapter` and `bind_weights` say, or the engine was started for the other kind.
    """
    is_whole = isinstance(blob, WeightsBlob)
    if is_whole != (lora_rank == 0):
        raise SyncError(
            "whole weights cannot enter an engine for adapters"
            if is_whole
            else "an adapter cannot enter an engine for whole weights",
            where=f"{worker}, policy version {blob.version}",
            remedy="give what model.lora says: an adapter, or with model.lora=null the folder of a whole model",
        )
    if isinstance(blob, WeightsBlob):
        return bind_weights(blob, worker=worker)
    return bind_adapter(blob, lora_id=lora_id, previous_id=previous_id, worker=worker, other_ids=other_ids)


def bind_weights(blob: WeightsBlob, *, worker: str) -> Generator[Call, Any, SyncProof]:
    """The calls that overwrite all weights of an engine, and prove that it computes with them.

    Args:
        blob: The weights; its pieces are here.
        worker: Named in the proof and in errors.

    Returns:
        The proof.

    Raises:
        SyncError: The bytes are not what was published, or not of this model; the engine is as it was.
        MixedWeightsError: The engine took them and does not compute with all of them.
    """
    where = f"{worker}, policy version {blob.version}"
    pieces: tuple[Bytes, ...] = blob.pieces  # type: ignore[assignment]
    if (sha256 := pieces_sha256(pieces)) != blob.sha256:
        raise SyncError(
            f"{sum(piece.nbytes for piece in pieces)} bytes of weights with sha256 {sha256[:12]} arrived, "
            f"{blob.sha256[:12]} was published",
            where=where,
            remedy="the weights were damaged or cut on their way: check the object store's memory and disks",
        )
    problem = yield "begin_weights", (pieces[0].tobytes(),)
    for piece in pieces[1:]:
        problem = problem or (yield "take_piece", (piece,))
    if problem:
        yield "drop_pieces", ()
        raise SyncError(f"the weights {problem}", where=where, remedy="publish weights of this base model")
    try:
        yield "load_pieces", ()
    except REFUSALS as error:
        raise MixedWeightsError(f"vLLM refuses the weights: {error}", where=where) from error
    num_used, unused = yield "count_used_tensors", ()
    yield "drop_pieces", ()
    if num_used != blob.num_modules:
        raise MixedWeightsError(
            f"the engine computes with {num_used} of the {blob.num_modules} tensors that were published"
            + (f"; not with {unused}" if unused else ""),
            where=where,
            remedy="this vLLM does not take over whole weights of this model: train an adapter (model.lora)",
        )
    return SyncProof(worker, blob.version, sha256, num_used)


def bind_adapter(
    blob: AdapterBlob, *, lora_id: int, previous_id: int, worker: str, other_ids: tuple[int, ...] = ()
) -> Generator[Call, Any, SyncProof]:
    """The calls that load an adapter and prove that it is in use.

    Args:
        blob: The adapter.
        lora_id: Id that it gets in the engine, new for each load.
        previous_id: Id of the adapter that it replaces, which stays where the new one is refused; 0 for none.
        worker: Named in the proof and in errors.
        other_ids: Ids of adapters that stay beside it.

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
    if problem := (yield "take_adapter", (blob.peft_config, blob.safetensors)):
        raise SyncError(f"the adapter {problem}", where=where, remedy="publish an adapter of this base model")
    try:
        yield "load_adapter", (lora_id,)
    except (ValueError, RuntimeError, AssertionError) as error:
        yield "keep_adapters", ((previous_id, *other_ids),)
        raise SyncError(f"vLLM refuses the adapter: {error}", where=where) from error
    num_bound, missing = yield "count_bound_modules", (lora_id,)
    if num_bound != blob.num_modules:
        yield "keep_adapters", ((previous_id, *other_ids),)
        raise SyncError(
            f"{num_bound} LoRA modules are bound, {blob.num_modules} were published"
            + (f"; missing {missing}" if missing else ""),
            where=where,
            remedy="sampler and learner must hold the same base model and adapter layers",
        )
    yield "keep_adapters", ((lora_id, *other_ids),)
    return SyncProof(worker, blob.version, sha256, num_bound)
