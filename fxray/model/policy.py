"""What of a model is trained, and how it is kept and exchanged: an adapter on a frozen base, or all weights.

    parameters ─► tensors by file name ─► files of a folder (PEFT layout, or a whole Hugging Face model)
                                      └─► what is published to the engines

The two kinds differ here alone: ranks, checkpoints and the exchange between ranks see parameters and tensors by name.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load, save

from fxray.checkpoints import MODEL_CONFIG_FILE, MODEL_WEIGHTS_FILE
from fxray.errors import CheckpointError
from fxray.grpo.types import AdapterBlob, PolicyBlob, WeightsBlob
from fxray.model.adapter import (
    POLICY,
    REFERENCE,
    active_adapter,
    adapter_config,
    adapter_files,
    adapter_parameters,
    add_adapter,
    attach_adapter,
    lora_layers,
    parse_adapter,
)
from fxray.model.family import VisionLanguageModel
from fxray.model.load import DTYPES
from fxray.tensor_file import join_pieces, pieces_sha256

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}
TAKEN_OVER = re.compile(
    r"(generation_|tokenizer_|(video_)?(pre)?processor_)?config\.json|chat_template\.(json|jinja)|tokenizer\.json"
    r"|vocab\.json|merges\.txt|added_tokens\.json|special_tokens_map\.json|(LICENSE|NOTICE)[^/]*"
)
"""Files of a base model's folder that a trained one takes over; others may hold weights."""

LoadModel = Callable[[str], VisionLanguageModel]
"""Loads the base with its weights in a type, "float32" or "bfloat16"."""


class TrainedModel(Protocol):
    """What `fxray.model.packed.PackedPolicy` drives: a PEFT model, or `TwoModels`."""

    def get_base_model(self) -> VisionLanguageModel:
        """The model that speaks now."""
        ...


class Policy(Protocol):
    """What is trained, and what the KL term holds on to."""

    @property
    def base(self) -> VisionLanguageModel:
        """The model itself: its configuration, its device."""
        ...

    @property
    def model(self) -> Any:
        """What answers, a `TrainedModel` and a module."""
        ...

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, named as in files."""
        ...

    @property
    def reference(self) -> dict[str, torch.nn.Parameter]:
        """The frozen copy under the same names; empty where there is none."""
        ...

    def add_reference(self) -> None:
        """Makes room for the reference; call it once, before the optimizer is made."""
        ...

    def as_reference(self) -> AbstractContextManager[None]:
        """Lets the reference answer for a while."""
        ...

    def to_files(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
        """Values of the parameters as the files of a folder that others load as it is: content by name."""
        ...

    def from_files(self, files: Mapping[str, bytes], *, where: str) -> dict[str, torch.Tensor]:
        """What `to_files` was given.

        Raises:
            CheckpointError: A file is missing or damaged, or of another kind.
        """
        ...

    def publish(self, tensors: Mapping[str, torch.Tensor], version: int) -> tuple[PolicyBlob, object]:
        """Values of the parameters ready to travel, and apart from them the pieces of whole weights, else None."""
        ...


def make_policy(
    load_model: LoadModel,
    folder: Path,
    *,
    dtype: str,
    lora_rank: int,
    lora_alpha: float,
    lora_dropout: float,
    seed: int,
) -> Policy:
    """The policy that a configuration asks for, at the base model.

    Args:
        load_model: Loads the base.
        folder: Of the base.
        dtype: Type in which the model multiplies; what is trained is float32.
        lora_rank: Rank of the adapter; 0 trains all weights.
        lora_alpha: The adapter's update is scaled by alpha / rank.
        lora_dropout: On the adapter's input while training.
        seed: Of a fresh adapter's random half.
    """
    if lora_rank == 0:
        return WholePolicy(load_model, folder, dtype)
    base = load_model(dtype)
    return AdapterPolicy(attach_adapter(base, rank=lora_rank, alpha=lora_alpha, dropout=lora_dropout, seed=seed))


class AdapterPolicy:
    """A LoRA adapter on a frozen base; the reference is a second one.

    Args:
        model: Holds the adapter `policy`.
    """

    def __init__(self, model: PeftModel) -> None:
        self.model = model.train()
        self.parameters = adapter_parameters(model, POLICY)
        self.reference: dict[str, torch.nn.Parameter] = {}
        self._layers = lora_layers(model)

    @property
    def base(self) -> VisionLanguageModel:
        return self.model.get_base_model()

    def add_reference(self) -> None:
        add_adapter(self.model, REFERENCE)
        self.reference = adapter_parameters(self.model, REFERENCE)

    def as_reference(self) -> AbstractContextManager[None]:
        return active_adapter(self._layers, REFERENCE)

    def to_files(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
        return adapter_files(self.model, tensors)

    def from_files(self, files: Mapping[str, bytes], *, where: str) -> dict[str, torch.Tensor]:
        return parse_adapter(self.model, files, where=where)

    def publish(self, tensors: Mapping[str, torch.Tensor], version: int) -> tuple[PolicyBlob, object]:
        content = save(dict(tensors))
        sha256 = hashlib.sha256(content).hexdigest()
        return AdapterBlob(version, content, adapter_config(self.model, POLICY), sha256, len(tensors) // 2), None


class TwoModels(torch.nn.Module):
    """A model that is trained and, where it is wanted, a frozen one beside it; one of them speaks.

    Args:
        policy: The one that is trained.
    """

    def __init__(self, policy: VisionLanguageModel) -> None:
        super().__init__()
        self.policy = policy
        self.reference: VisionLanguageModel | None = None
        self.is_reference = False

    def get_base_model(self) -> VisionLanguageModel:
        return self.reference if self.is_reference and self.reference is not None else self.policy


class WholePolicy:
    """All weights of a model in float32; the reference is a frozen copy beside it.

    A type below float32 is the one in which the model multiplies, and in which it is published: small updates would be
    lost in weights that are kept in it.

    Args:
        load_model: Loads the base.
        folder: Of the base, whose tokenizer and processor go with the weights.
        dtype: Type in which the model multiplies.
    """

    def __init__(self, load_model: LoadModel, folder: Path, dtype: str) -> None:
        self._load_model, self._folder, self._dtype = load_model, folder, DTYPES[dtype]
        self.model = TwoModels(load_model("float32").requires_grad_(requires_grad=True)).train()
        self.parameters = dict(self.base.named_parameters())
        self.reference: dict[str, torch.nn.Parameter] = {}

    @property
    def base(self) -> VisionLanguageModel:
        return self.model.policy

    def add_reference(self) -> None:
        frozen = self._load_model("float32")
        self.model.reference = frozen
        self.reference = dict(frozen.named_parameters())

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        self.model.is_reference = True
        try:
            yield
        finally:
            self.model.is_reference = False

    def to_files(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
        files = {
            file.name: file.read_bytes()
            for file in sorted(self._folder.iterdir())
            if file.is_file() and TAKEN_OVER.fullmatch(file.name)
        }
        config = json.loads(files[MODEL_CONFIG_FILE]) | {"dtype": "float32"}
        config.pop("torch_dtype", None)
        files[MODEL_CONFIG_FILE] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
        return files | {MODEL_WEIGHTS_FILE: save(dict(tensors), {"format": "pt"})}

    def from_files(self, files: Mapping[str, bytes], *, where: str) -> dict[str, torch.Tensor]:
        try:
            tensors: dict[str, torch.Tensor] = load(files[MODEL_WEIGHTS_FILE])
        except KeyError as error:
            raise CheckpointError(f"{MODEL_WEIGHTS_FILE} is missing", where=where) from error
        except SafetensorError as error:
            raise CheckpointError(
                f"is not a safetensors file: {error}", where=f"{where}/{MODEL_WEIGHTS_FILE}"
            ) from error
        return tensors

    def publish(self, tensors: Mapping[str, torch.Tensor], version: int) -> tuple[PolicyBlob, object]:
        cast = {name: tensor.to(self._dtype).contiguous() for name, tensor in sorted(tensors.items())}
        kinds = {name: (DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in cast.items()}
        pieces = join_pieces({name: each.view(-1).view(torch.uint8).numpy() for name, each in cast.items()}, kinds)
        num_bytes = sum(piece.nbytes for piece in pieces)
        return WeightsBlob(version, None, pieces_sha256(pieces), len(cast), num_bytes), pieces
