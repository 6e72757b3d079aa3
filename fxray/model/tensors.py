"""Tensors by name, held against the parameters that they are to fill; tensors on their way to a device."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open

from fxray.counts import counted
from fxray.errors import CheckpointError

T = TypeVar("T")

_REMEDY = "give what was trained from this base model, with the same model.lora"


def check_match(
    parameters: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, torch.Tensor], *, where: str
) -> None:
    """Returns where each parameter has a tensor of its shape, and there are no others.

    Raises:
        CheckpointError: Names or shapes differ.
    """
    if odd := sorted(parameters.keys() ^ tensors.keys()):
        side = "is missing" if odd[0] in parameters else "has no place in this model"
        raise CheckpointError(
            f"{counted(len(odd), 'weight does', 'weights do')} not match: {odd[0]} {side}", where=where, remedy=_REMEDY
        )
    for name, parameter in parameters.items():
        expected = getattr(parameter, "ds_shape", parameter.shape)  # of a parameter that ZeRO-3 has spread
        if (got := tensors[name].shape) != expected:
            message = f"{name} has shape {tuple(got)}, expected {tuple(expected)}"
            raise CheckpointError(message, where=where, remedy=_REMEDY)


@contextmanager
def opened_tensors(path: Path) -> Iterator[Mapping[str, torch.Tensor]]:
    """The tensors of a safetensors file by name, inside the block; each is read when it is asked for.

    Raises:
        SafetensorError: It is none.
    """
    with safe_open(path, "pt") as file:
        yield _Opened(file)


class _Opened(Mapping[str, torch.Tensor]):
    def __init__(self, file: Any) -> None:
        self._file, self._names = file, frozenset(file.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def moved(value: T, device: torch.device) -> T:
    """Tensors, and tuples, mappings and dataclasses of them, on a device; those that lie there stay as they are.

    A GPU copies them when it is done with what it was given before, and the host goes on meanwhile.
    """
    found: Any = value
    if isinstance(value, torch.Tensor):
        is_sent = device.type == "cuda" and value.device.type == "cpu"
        found = (value.pin_memory() if is_sent else value).to(device, non_blocking=True)
    elif isinstance(value, Mapping):
        found = {name: moved(each, device) for name, each in value.items()}
    elif isinstance(value, tuple):
        found = tuple(moved(each, device) for each in value)
    elif is_dataclass(value) and not isinstance(value, type):
        found = replace(value, **{field.name: moved(getattr(value, field.name), device) for field in fields(value)})
    return found
