"""Tensors by name, held against the parameters that they are to fill."""

from collections.abc import Mapping

import torch

from fxray.errors import CheckpointError

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
        raise CheckpointError(f"{len(odd)} weights do not match: {odd[0]} {side}", where=where, remedy=_REMEDY)
    for name, parameter in parameters.items():
        expected = getattr(parameter, "ds_shape", parameter.shape)  # of a parameter that ZeRO-3 has spread
        if (got := tensors[name].shape) != expected:
            message = f"{name} has shape {tuple(got)}, expected {tuple(expected)}"
            raise CheckpointError(message, where=where, remedy=_REMEDY)
