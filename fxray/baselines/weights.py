"""Weights from files on this machine. Only safetensors are read: a pickle could run anything."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file

from fxray.counts import counted
from fxray.errors import ModelError

REFUSALS = (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError, StrictDataclassError)
"""What transformers has been seen to raise on folders of another kind."""
_FOLDER = "give the folder of a model of transformers and of this kind, config.json and model.safetensors in it"
_CONVERT = "convert a .pth that you trust with `safetensors.torch.save_file(state_dict, ...)`"


def load_weights(network: torch.nn.Module, path: Path, *, new: str) -> None:
    """Fills a network from a .safetensors file, in place; a prefix `module.` of all names is dropped.

    Batch norms' counts of batches may be missing, as torch allows: norms here have a momentum and do not need them.

    Args:
        network: To fill.
        path: The file.
        new: Name of the head, which keeps its random weights where the file has it in another shape, or lacks it.

    Raises:
        ModelError: The file cannot be read, or is of another architecture.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot be read as safetensors: {error}", where=str(path), remedy=_CONVERT) from error
    found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    wanted = network.state_dict()
    wrong = [
        name
        for name, tensor in wanted.items()
        if not name.startswith(new)
        and not name.endswith("num_batches_tracked")
        and (name not in found or found[name].shape != tensor.shape)
    ]
    if wrong:
        shape = tuple(found[wrong[0]].shape) if wrong[0] in found else "missing"
        raise ModelError(
            f"{counted(len(wrong), 'weight does', 'weights do')} not fit, such as {wrong[0]}: {shape}, expected "
            f"{tuple(wanted[wrong[0]].shape)}",
            where=str(path),
            remedy="give weights of this architecture and --size",
        )
    fitting = {n: t for n, t in found.items() if n in wanted and t.shape == wanted[n].shape}
    network.load_state_dict(fitting, strict=False)


def load_pretrained(
    kind: Any, path: Path, *, new: str | tuple[()], dtype: torch.dtype = torch.float32, **changes: Any
) -> tuple[Any, list[str]]:
    """A model of transformers from a folder: safetensors alone, no code of the folder, nothing fetched.

    Args:
        kind: A model's class.
        path: The folder.
        new: What the names of weights begin with that may be lacking, or of another shape; they start at random. () for
            none.
        dtype: Of its weights.
        **changes: Fields of its configuration to change.

    Returns:
        The model, and the names of weights that start at random.

    Raises:
        ModelError: It cannot be loaded, or lacks more than that.
    """
    try:
        model, report = kind.from_pretrained(
            path,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=dtype,
            **changes,
        )
    except REFUSALS as error:
        raise ModelError(f"cannot be loaded: {str(error).splitlines()[0]}", where=str(path), remedy=_FOLDER) from error
    lacking = [key if isinstance(key, str) else key[0] for key in (*report["missing_keys"], *report["mismatched_keys"])]
    if wrong := sorted(name for name in lacking if not name.startswith(new)):
        message = f"{counted(len(wrong), 'weight')} of {type(model).__name__} missing or misshapen, {wrong[0]} for one"
        raise ModelError(message, where=str(path), remedy=_FOLDER)
    return model, lacking
