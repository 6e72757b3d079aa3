"""What runs inside vLLM's workers: adapters enter as bytes, and every module of theirs is checked where it is used.

vLLM drops weights whose names it does not know without a word, so a load is believed only after each module has been
found in the engine and its weights have been read back from the buffers that the forward pass uses.
"""

import os
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.lora.utils import parse_fine_tuned_lora_name

from fxray.counts import counted
from fxray.engine.lora_maths import SingleAdapterWrapper
from fxray.engine.versions import name_mapper

READ_BACK_TOLERANCE = 0.01
"""Relative; rounding to bfloat16 stays well below."""
OWNER_CHECK_S = 1.0


@dataclass(frozen=True, slots=True)
class _Arrival:
    """An adapter that reached this process: its tensors "A" and "B" by the engine's names of modules."""

    peft_config: dict[str, Any]
    blob: bytes
    modules: dict[str, dict[str, torch.Tensor]]


class AdapterExtension:
    """Methods that vLLM mixes into its worker class; each returns plain values, for they cross process boundaries."""

    model_runner: Any
    _came: "_Arrival"

    def use_single_adapter_maths(self) -> int:
        """Makes LoRA on a CPU fast for batches with one adapter; returns how many wrappers changed."""
        wrappers = [w for w in self._manager.punica_wrapper_mapping.values() if type(w) is PunicaWrapperCPU]
        for wrapper in wrappers:
            wrapper.__class__ = SingleAdapterWrapper
        return len(wrappers)

    def end_with(self, pid: int) -> int:
        """Ends this process when another one of this machine is gone, however that went; returns its id.

        vLLM's own engine core would outlive a killed owner, and keep its memory.
        """

        def watch() -> None:
            while Path(f"/proc/{pid}").exists():
                time.sleep(OWNER_CHECK_S)
            os._exit(1)

        threading.Thread(target=watch, name="end-with-owner", daemon=True).start()
        return pid

    def take_adapter(self, peft_config: dict[str, Any], blob: bytes) -> str:
        """Keeps an adapter that shall be loaded, until `keep_adapters`.

        Returns:
            Why it must not be loaded: unreadable, empty, not finite, of other names or shapes; "" if it may.
        """
        try:
            tensors = load(blob)
        except SafetensorError as error:
            return f"is not a safetensors file: {error}"
        if not tensors:
            return "holds no weights: the engine would go on with the base model"
        if odd := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
            return f"{counted(len(odd), 'tensor holds', 'tensors hold')} values that are not finite, {odd[0]} for one"
        try:
            modules = self._modules(tensors)
        except ValueError as error:
            return f"holds a weight that is no LoRA weight: {error}"
        if problem := self._problem(modules, peft_config["r"]):
            return problem
        self._came = _Arrival(peft_config, blob, modules)
        return ""

    def load_adapter(self, lora_id: int) -> None:
        """Binds the adapter that was taken."""
        worker_manager, manager, came = self.model_runner.lora_manager, self._manager, self._came
        helper = PEFTHelper.from_dict(came.peft_config)
        helper.validate_legal(worker_manager.lora_config)
        adapter = LoRAModel.from_lora_tensors(
            lora_id,
            load(came.blob),  # a copy of its own, which vLLM scales in place
            helper,
            device="cpu",
            dtype=worker_manager.lora_config.lora_dtype,
            model_vocab_size=worker_manager.vocab_size,
            weights_mapper=name_mapper(manager.model),
            skip_prefixes=getattr(manager.model, "lora_skip_prefixes", None),
        )
        manager.add_adapter(adapter)
        manager.activate_adapter(lora_id)

    def count_bound_modules(self, lora_id: int) -> tuple[int, str]:
        """Reads the adapter that was taken back from the buffers of the forward pass.

        Returns:
            How many of its modules are there with their own weights, and the name of one that is not, or "".
        """
        if lora_id not in self._manager.lora_index_to_id:
            return 0, "all of them: the adapter is not active"
        slot = self._manager.lora_index_to_id.index(lora_id)
        scaling = PEFTHelper.from_dict(self._came.peft_config).vllm_lora_scaling_factor
        num_bound, missing = 0, ""
        for name, parts in self._came.modules.items():
            if self._is_bound(name, parts, slot, scaling):
                num_bound += 1
            else:
                missing = name
        return num_bound, missing

    def keep_adapters(self, lora_ids: tuple[int, ...]) -> None:
        """Forgets every adapter but these, and what was taken."""
        for other in set(self._manager.list_adapters()).difference(lora_ids):
            self._manager.remove_adapter(other)
        del self._came

    @property
    def _manager(self) -> Any:
        return self.model_runner.lora_manager._adapter_manager

    def _modules(self, tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
        """Tensors "A" and "B" of each module, under the engine's name for it."""
        modules: dict[str, dict[str, torch.Tensor]] = {}
        mapper = name_mapper(self._manager.model)
        for tensor_name, tensor in tensors.items():
            if tensor_name not in self._names:
                self._names[tensor_name] = parse_fine_tuned_lora_name(tensor_name, mapper)
            name, is_a = self._names[tensor_name]
            modules.setdefault(name, {})["A" if is_a else "B"] = tensor
        return modules

    @cached_property
    def _names(self) -> dict[str, tuple[str, bool]]:
        """The engine's name of a tensor's module, and whether the tensor is its A; every sync brings the same names."""
        return {}

    def _problem(self, modules: dict[str, dict[str, torch.Tensor]], rank: int) -> str:
        for name, parts in modules.items():
            place = self._place(name)
            if place is None:
                return f"module {name} binds to nothing in the engine"
            if parts.keys() != {"A", "B"}:
                return f"module {name} lacks its lora_{'B' if 'A' in parts else 'A'} weight"
            layer, index = place
            inputs, outputs = layer.lora_a_stacked[index].shape[-1], layer.lora_b_stacked[index].shape[-2]
            a, b = _share(layer, index, parts["A"], parts["B"])
            got, expected = (tuple(a.shape), tuple(b.shape)), ((rank, inputs), (outputs, rank))
            if got != expected:
                return f"module {name} has shapes {got}, the engine needs {expected}"
        return ""

    def _place(self, name: str) -> tuple[Any, int] | None:
        """The layer that a module became part of, and its slice of that layer's output."""
        manager = self._manager
        if name in manager.modules:
            return manager.modules[name], 0
        for packed_name, names in manager.packed_modules.items():
            if name in names:
                return manager.modules[packed_name], names.index(name)
        return None

    def _is_bound(self, name: str, parts: dict[str, torch.Tensor], slot: int, scaling: float) -> bool:
        place = self._place(name)
        if place is None:
            return False
        layer, index = place
        expected_a, expected_b = _share(layer, index, parts["A"], parts["B"] * scaling)
        rank = parts["A"].shape[0]
        a = layer.lora_a_stacked[index][slot, 0, :rank]
        b = layer.lora_b_stacked[index][slot, 0, :, :rank]
        return _is_near(a, expected_a) and _is_near(b, expected_b)


def _share(layer: Any, index: int, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What of a module's weights belongs to this rank of a tensor-parallel engine, by the layer's own rule."""
    if layer.tp_size == 1:
        return a, b
    if layer.n_slices == 1:
        return layer.slice_lora_a(a), layer.slice_lora_b(b)
    alone_a, alone_b = ([tensor if i == index else None for i in range(layer.n_slices)] for tensor in (a, b))
    return layer.slice_lora_a(alone_a)[index], layer.slice_lora_b(alone_b)[index]


def _is_near(got: torch.Tensor, expected: torch.Tensor) -> bool:
    if got.dtype == expected.dtype and got.device == expected.device and torch.equal(got, expected):
        return True
    got, expected = got.float(), expected.to(got.device).float()
    return bool(torch.dist(got, expected, 1) <= READ_BACK_TOLERANCE * expected.norm(1))
