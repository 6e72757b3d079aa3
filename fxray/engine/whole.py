"""What runs inside vLLM's workers when all weights of the model are replaced: read, checked, loaded, and tried out.

vLLM repacks weights for its kernels and on a CPU throws the originals away, so that they cannot be read back. Each
linear layer is therefore tried on a random input: what comes out must be what the published weights give. Everything
else is compared as it is.

Legend: I inputs, O outputs of a layer.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.utils import get_packed_modules_mapping

from fxray.config.model_shape import ModelShape, read_shape
from fxray.counts import counted
from fxray.engine.extension import AdapterExtension
from fxray.engine.versions import name_mapper
from fxray.tensor_file import Entry, cut, read_entries, read_header

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TRIAL_TOLERANCE = {torch.float32: 2e-5, torch.float16: 0.01, torch.bfloat16: 0.03}
"""Largest relative error of what comes out of a layer, by the type of its weights."""
TRIAL_ROWS = 4
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


class WeightsExtension:
    """Methods that vLLM mixes into its worker class; each returns plain values, for they cross process boundaries."""

    model_runner: Any
    model_config: Any
    _coming: list[list[Entry]]
    _arrived: list[memoryview]

    def begin_weights(self, header: bytes) -> str:
        """Why weights with this header must not be loaded: other names or shapes than the model's; "" if they may."""
        self._arrived = []
        try:
            entries = read_header(bytes(header))
        except ValueError as error:
            return f"have no sound header: {error}"
        self._coming = list(cut(entries))
        if odd := [each for each in entries if each.dtype not in DTYPES]:
            return f"hold a tensor of type {odd[0].dtype}: {odd[0].name}"
        got = self._shapes(entries)
        expected = self._shapes(read_entries(Path(self.model_config.model)))
        if missing := sorted(expected.keys() - got.keys()):
            return f"lack {counted(len(missing), 'tensor')} of the model, {missing[0]} for one"
        if strange := sorted(got.keys() - expected.keys()):
            found = counted(len(strange), "tensor that binds", "tensors that bind")
            return f"hold {found} to nothing in the engine, {strange[0]} for one"
        if odd_shapes := [name for name, shape in got.items() if shape != expected[name]]:
            name = odd_shapes[0]
            return f"hold {name} with shape {got[name]}, the engine needs {expected[name]}"
        return ""

    def take_piece(self, piece: Any) -> str:
        """Keeps the next piece until all are there; says what is wrong with it, or ""."""
        view = memoryview(piece).cast("B")
        if len(self._arrived) == len(self._coming):
            return "have more pieces than their header announces"
        run = self._coming[len(self._arrived)]
        if len(view) != run[-1].end - run[0].start:
            return f"are cut: the piece with {run[0].name} has {len(view)} bytes of {run[-1].end - run[0].start}"
        for each in run:
            if not torch.isfinite(_tensor(view, each, run[0].start)).all():
                return f"hold values that are not finite, in {each.name} for one"
        self._arrived.append(view)
        return ""

    def load_pieces(self) -> None:
        """Overwrites the model's weights by vLLM's own loader, in place; call only when all pieces are there."""
        if len(self._arrived) != len(self._coming):
            raise ValueError(f"{len(self._arrived)} of {len(self._coming)} pieces are there")
        self.reload_weights(weights_iterator=self._tensors())  # type: ignore[attr-defined]  # of vLLM's worker
        if self._is_tied:  # the loader passes over a head that shares the embedding, and it stays packed as it was
            head = self.model_runner.get_model().get_submodule(self._engine_name(HEAD).removesuffix(".weight"))
            head.quant_method.process_weights_after_loading(head)

    def count_used_tensors(self) -> tuple[int, str]:
        """How many of the tensors that were loaded the model computes with, and the name of one that it does not."""
        model, announced = self.model_runner.get_model(), {each.name for run in self._coming for each in run}
        waiting: dict[tuple[str, str], dict[int, torch.Tensor]] = {}
        num_used, unused = 0, ""
        for name, tensor in self._tensors():
            path, _, kind = self._engine_name(name).rpartition(".")
            layer_path, index, num_parts = _place(model, path)
            parts = waiting.setdefault((layer_path, kind), {})
            parts[index] = tensor
            if len(parts) < num_parts:
                continue
            layer, stacked = model.get_submodule(layer_path), [parts[i] for i in range(num_parts)]
            del waiting[layer_path, kind]
            is_copy = name not in announced
            if not _is_used(layer, kind, stacked, is_head=name == HEAD):
                num_used, unused = max(0, num_used - is_copy), name
            elif not is_copy:
                num_used += num_parts
        return num_used, unused

    def drop_pieces(self) -> None:
        """Forgets what was kept."""
        self._arrived, self._coming = [], []

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors, and a copy of the embedding as the head that it is: loaders that hold two need both."""
        embedding, has_head = None, False
        for run, view in zip(self._coming, self._arrived, strict=True):
            for each in run:
                tensor = _tensor(view, each, run[0].start)
                embedding = tensor if each.name.endswith(EMBEDDING) else embedding
                has_head = has_head or each.name == HEAD
                yield each.name, tensor
        if self._is_tied and not has_head and embedding is not None:
            yield HEAD, embedding.clone()

    @property
    def _is_tied(self) -> bool:
        """By the model's own config.json: vLLM changes its copy where the file holds a head of its own."""
        shape = read_shape(self.model_config.model)
        return isinstance(shape, ModelShape) and shape.tie_word_embeddings

    def _shapes(self, entries: list[Entry]) -> dict[str, tuple[int, ...]]:
        """Shapes by the engine's names, without a head that is a copy of the embedding, which may be there or not."""
        return {
            self._engine_name(each.name): each.shape for each in entries if not (self._is_tied and each.name == HEAD)
        }

    def _engine_name(self, name: str) -> str:
        mapper = name_mapper(self.model_runner.get_model())
        mapped: list[str] = mapper.apply_list([name])
        return mapped[0]


class WorkerExtension(AdapterExtension, WeightsExtension):
    """What vLLM's workers of fxray can do besides."""


def _tensor(view: memoryview, entry: Entry, start: int) -> torch.Tensor:
    """A tensor in the bytes of its piece, which begins at `start`; nothing is copied, nothing may be written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it may not be written
        flat = torch.frombuffer(view[entry.start - start : entry.end - start], dtype=DTYPES[entry.dtype])
    return flat.reshape(entry.shape)


def _place(model: Any, path: str) -> tuple[str, int, int]:
    """The layer that a module of the checkpoint became part of, its index in it, and how many parts that has."""
    parent, _, leaf = path.rpartition(".")
    for packed, leaves in get_packed_modules_mapping(model).items():
        if leaf in leaves and len(leaves) > 1 and hasattr(model.get_submodule(parent), packed):
            return f"{parent}.{packed}", leaves.index(leaf), len(leaves)
    return path, 0, 1


def _is_used(layer: Any, kind: str, parts: list[torch.Tensor], *, is_head: bool) -> bool:
    """Whether a layer of this rank computes with these parts of its weight or bias."""
    expected = _share(layer, kind, parts)
    kept = getattr(layer, kind)
    if kind == "weight" and (is_head or isinstance(layer, LinearBase)):
        weight_OI = expected.to(kept)
        trial_NI = torch.randn(TRIAL_ROWS, weight_OI.shape[1], generator=torch.Generator().manual_seed(0)).to(kept)
        with torch.inference_mode():
            got_NO = layer.quant_method.apply(layer, trial_NI, None)[:, : len(weight_OI)]
        return _is_near(got_NO, trial_NI.float() @ weight_OI.float().T, TRIAL_TOLERANCE[kept.dtype])
    return _is_near(kept[: len(expected)], expected.to(kept), TRIAL_TOLERANCE[kept.dtype])


def _share(layer: Any, kind: str, parts: list[torch.Tensor]) -> torch.Tensor:
    """What of a layer's weight or bias belongs to this rank of a tensor-parallel engine, its parts stacked."""
    if isinstance(layer, VocabParallelEmbedding):
        indices = layer.shard_indices
        return parts[0][indices.org_vocab_start_index : indices.org_vocab_end_index]
    if getattr(layer, "tp_size", 1) == 1:
        return torch.cat(parts)
    if isinstance(layer, RowParallelLinear):
        return parts[0].chunk(layer.tp_size, 1)[layer.tp_rank] if kind == "weight" else parts[0]
    if not isinstance(layer, ColumnParallelLinear):
        return torch.cat(parts)
    if not isinstance(layer, QKVParallelLinear):
        return torch.cat([part.chunk(layer.tp_size)[layer.tp_rank] for part in parts])
    keys = layer.total_num_kv_heads
    if len(parts) == 1:
        parts = list(parts[0].split([number * layer.head_size for number in (layer.total_num_heads, keys, keys)]))
    of_keys = layer.tp_size // layer.num_kv_head_replicas, layer.tp_rank // layer.num_kv_head_replicas
    shares = [(layer.tp_size, layer.tp_rank), of_keys, of_keys]
    return torch.cat([part.chunk(size)[rank] for part, (size, rank) in zip(parts, shares, strict=True)])


def _is_near(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    got, expected = got.float(), expected.to(got.device).float()
    return bool((got - expected).norm() <= tolerance * expected.norm())
