"""LoRA adapters side by side on one frozen base: made, switched, and exchanged in PEFT's own layout."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load, save

from fxray.checkpoints import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from fxray.config.families import FAMILIES
from fxray.errors import CheckpointError
from fxray.files import write_atomically
from fxray.model.family import VisionLanguageModel
from fxray.model.tensors import check_match

POLICY = "policy"
REFERENCE = "reference"
LANGUAGE_LAYERS = r"model\.language_model\.layers\..*_proj"
"""Names of the linear layers of a language model."""


def attach_adapter(model: VisionLanguageModel, *, rank: int, alpha: float, dropout: float, seed: int) -> PeftModel:
    """The model with a trainable adapter `policy` that changes nothing yet.

    It sits on every linear layer of vision tower, projector and language model (section 4: leaving out one of the
    first two spoils the result), but not on the output head; on the language model alone where the family's engine
    takes no more. Its weights are float32 whatever the base is.

    Args:
        model: The base.
        rank: Rank of each update.
        alpha: Each update is scaled by alpha / rank.
        dropout: Dropout on the adapter's input while training.
        seed: Of the random half of the weights.
    """
    layers = "all-linear" if FAMILIES[model.config.model_type].adapts_vision else LANGUAGE_LAYERS
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=layers, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config, adapter_name=POLICY)


def add_adapter(peft_model: PeftModel, name: str) -> None:
    """Adds a second, frozen adapter that is a copy of the policy and not active."""
    peft_model.add_adapter(name, LoraConfig(**_plain_config(peft_model, POLICY)))
    load_tensors(peft_model, adapter_tensors(peft_model, POLICY), name, where="policy")
    for parameter_name, parameter in peft_model.named_parameters():
        if f".{name}." in parameter_name:
            parameter.requires_grad_(requires_grad=False)


def lora_layers(peft_model: PeftModel) -> list[LoraLayer]:
    """The layers that adapters sit on."""
    return [module for module in peft_model.modules() if isinstance(module, LoraLayer)]


@contextmanager
def active_adapter(layers: Sequence[LoraLayer], name: str) -> Iterator[None]:
    """Lets another adapter speak for a while.

    PEFT's own `set_adapter` would also switch `requires_grad`, which an optimizer that has already taken hold of the
    parameters must not see.

    Args:
        layers: As `lora_layers` gives them.
        name: Of the adapter.
    """
    before = [layer._active_adapter for layer in layers]
    try:
        for layer in layers:
            layer._active_adapter = [name]
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active


def adapter_parameters(peft_model: PeftModel, name: str) -> dict[str, torch.nn.Parameter]:
    """The parameters of an adapter under the names that PEFT gives them in files."""
    return {
        parameter_name.replace(f".{name}.", "."): parameter
        for parameter_name, parameter in peft_model.named_parameters()
        if f".{name}." in parameter_name
    }


def adapter_tensors(peft_model: PeftModel, name: str) -> dict[str, torch.Tensor]:
    """Copies of an adapter's weights on the CPU, named as in files."""
    return {
        file_name: parameter.detach().to("cpu", copy=True).contiguous()
        for file_name, parameter in adapter_parameters(peft_model, name).items()
    }


def load_tensors(peft_model: PeftModel, tensors: Mapping[str, torch.Tensor], name: str, *, where: str) -> None:
    """Overwrites an adapter's weights in place.

    Raises:
        CheckpointError: Names or shapes differ from those of the adapter.
    """
    parameters = adapter_parameters(peft_model, name)
    check_match(parameters, tensors, where=where)
    with torch.no_grad():
        for file_name, parameter in parameters.items():
            parameter.copy_(tensors[file_name])


def adapter_bytes(peft_model: PeftModel, name: str) -> tuple[bytes, dict[str, object]]:
    """An adapter as the content of `adapter_model.safetensors` and of `adapter_config.json`."""
    return save(adapter_tensors(peft_model, name)), adapter_config(peft_model, name)


def adapter_files(peft_model: PeftModel, tensors: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    """Values of the policy's adapter as the files of a folder that PEFT and vLLM load as it is: content by name."""
    config = adapter_config(peft_model, POLICY)
    return {
        ADAPTER_CONFIG_FILE: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        ADAPTER_WEIGHTS_FILE: save(dict(tensors)),
    }


def parse_adapter(peft_model: PeftModel, files: Mapping[str, bytes], *, where: str) -> dict[str, torch.Tensor]:
    """The tensors in files in PEFT's layout.

    Args:
        peft_model: Holds the adapter that they are for.
        files: Content by name, as `adapter_files` gives it.
        where: Named in errors: the folder of the files.

    Raises:
        CheckpointError: A file is missing or damaged, or the adapter has another rank or scale.
    """
    if missing := {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE} - files.keys():
        raise CheckpointError(f"{min(missing)} is missing", where=where)
    try:
        config = json.loads(files[ADAPTER_CONFIG_FILE])
    except ValueError as error:
        raise CheckpointError(f"is not JSON: {error}", where=f"{where}/{ADAPTER_CONFIG_FILE}") from error
    mine = peft_model.peft_config[POLICY]
    got, expected = (config.get("r"), config.get("lora_alpha")), (mine.r, mine.lora_alpha)
    if got != expected:
        raise CheckpointError(
            f"rank and alpha are {got}, expected {expected}",
            where=f"{where}/{ADAPTER_CONFIG_FILE}",
            remedy="set model.lora.rank and model.lora.alpha to the adapter's, or train the adapter anew",
        )
    try:
        tensors: dict[str, torch.Tensor] = load(files[ADAPTER_WEIGHTS_FILE])
    except SafetensorError as error:
        raise CheckpointError(f"is not a safetensors file: {error}", where=f"{where}/{ADAPTER_WEIGHTS_FILE}") from error
    return tensors


def save_adapter(peft_model: PeftModel, directory: Path, name: str = POLICY) -> None:
    """Writes an adapter into a folder that PEFT and vLLM load as it is."""
    for file_name, content in adapter_files(peft_model, adapter_tensors(peft_model, name)).items():
        write_atomically(directory / file_name, content)


def adapter_config(peft_model: PeftModel, name: str) -> dict[str, object]:
    """The content of an adapter's `adapter_config.json`."""
    return {**_plain_config(peft_model, name), "inference_mode": True}


def _plain_config(peft_model: PeftModel, name: str) -> dict[str, Any]:
    config: dict[str, Any] = peft_model.peft_config[name].to_dict()
    return {key: _plain(value) for key, value in config.items()}


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    return sorted(value) if isinstance(value, set) else value
