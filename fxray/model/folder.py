"""Base models as folders on this machine: found, checked, identified. Nothing here reaches the network."""

import glob
import hashlib
import json
import os
import re
import struct
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

import fxray
from fxray.config.families import FAMILIES, KNOWN
from fxray.errors import ConfigError, ModelError
from fxray.files import refuse_working_folder
from fxray.tensor_file import read_whole_header

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_WRITTEN = re.compile(
    r"README\.md|(generation_)?config\.json|chat_template\.jinja|tokenizer(_config)?\.json"
    r"|((video_)?pre)?processor_config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
)
"""What `fxray tiny build` and `fxray model random` write; a model with anything beside it is somebody's own."""
_SAMPLE_BYTES = 2**16
_NUM_PLACES, _PLACE_BYTES = 32, 4096
_REMEDY = f"give the folder of a complete {KNOWN} model, `tiny`, or a model fetched before with `hf download NAME`"


def resolve_model_path(path: str) -> Path:
    """The folder of a base model.

    Args:
        path: `tiny` for the model that ships with fxray, a folder, or a name in the local Hugging Face cache.

    Raises:
        ModelError: There is no such folder, or it does not hold a complete model of a family that fxray drives.
    """
    folder = find_model_folder(path)
    if folder is None:
        raise ModelError("is neither a folder nor a model in the local cache", where=path, remedy=_REMEDY)
    check_model_folder(folder)
    return folder


def find_model_folder(path: str) -> Path | None:
    """The folder of a base model, whatever it holds; None where it is not on this machine.

    Args:
        path: As for `resolve_model_path`.
    """
    folder = Path(fxray.__file__).parent / "assets" / "tiny" if path == "tiny" else Path(path).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(path, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
        return None


def check_model_folder(folder: Path) -> None:
    """Returns when a folder holds a complete model of a family that fxray drives; of its weights it reads the headers.

    Raises:
        ModelError: It does not, or no engine finds it there.
    """
    if glob.has_magic(str(folder.absolute())):
        message = "has *, ? or [ in its path, which vLLM takes for a pattern and finds no weights by"
        raise ModelError(message, where=str(folder), remedy="rename the folder that has it, or move the model")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"config.json cannot be read: {error.strerror}", where=str(folder), remedy=_REMEDY) from error
    except ValueError as error:
        raise ModelError(f"config.json is not JSON: {error}", where=str(folder), remedy=_REMEDY) from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type not in FAMILIES:
        expected = " or ".join(map(repr, FAMILIES))
        raise ModelError(f"model_type is {model_type!r}, expected {expected}", where=str(folder), remedy=_REMEDY)
    if config.get("quantization_config"):
        raise ModelError(
            "holds quantised weights (quantization_config in its config.json), expected bfloat16 or float32",
            where=str(folder),
            remedy="give the model that it was quantised from",
        )
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values()) if index.exists() else {"model.safetensors"}
        weights = sorted(folder / name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index.name} is no list of weight files", where=str(folder), remedy=_REMEDY) from error
    missing = [file.name for file in (*weights, folder / "tokenizer.json") if not file.exists()]
    if not any((folder / name).exists() for name in _PROCESSOR_FILES):
        missing.append(_PROCESSOR_FILES[0])
    if missing:
        raise ModelError(f"lacks {', '.join(missing)}", where=str(folder), remedy=_REMEDY)
    for file in filter(Path.exists, (folder / name for name in ("tokenizer.json", *_PROCESSOR_FILES))):
        try:
            json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise ModelError(
                f"is not readable JSON: {error}", where=str(file), remedy="fetch the model again"
            ) from error
    for file in weights:
        _refuse_damaged(file)


def _refuse_damaged(file: Path) -> None:
    """Keeps weights whose copy was cut off from being found out when the other shards have been loaded."""
    try:
        read_whole_header(file)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(file), remedy=_REMEDY) from error
    except ValueError as error:
        message = f"is cut off, or no safetensors file: {error}"
        raise ModelError(message, where=str(file), remedy="fetch the model again") from error


def refuse_unless_model(path: Path) -> None:
    """Keeps a model from taking the place of anything but an empty folder or a model as fxray writes it.

    Raises:
        ConfigError: Something else is there, or it is the folder in which the command runs.
    """
    refuse_working_folder(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        check_model_folder(path)
        reason = next((f"holds {file.name}" for file in path.iterdir() if not _WRITTEN.fullmatch(file.name)), None)
        if reason is None and not _has_tiny_tokenizer(path):
            reason = "its tokenizer is another"
    except ModelError as error:
        reason = error.message
    if reason is not None:
        raise ConfigError(
            f"is there already, and is no model that fxray wrote: {reason}",
            where=str(path),
            remedy="name a new or an empty folder; nothing was changed",
        )


def _has_tiny_tokenizer(folder: Path) -> bool:
    """What fxray writes carries the tiny model's; a model that was trained on from a published one, that one's."""
    tiny = Path(fxray.__file__).parent / "assets" / "tiny"
    try:
        ours, theirs = (json.loads((each / "tokenizer.json").read_bytes()) for each in (tiny, folder))
    except (OSError, ValueError):
        return False
    return bool(ours == theirs)


def base_fingerprint(path: Path) -> str:
    """What identifies a base model: sha256 over its configuration and the sizes, headers and ends of its weight files.

    Cheap whatever the model's size: of the weights only the first and last 64 KiB of each file are read. Two merged
    adapters may leave both as they were; `weights_fingerprint` looks in between.

    Args:
        path: Folder of the model.

    Raises:
        ModelError: A weight file is not a safetensors file.
    """
    digest = hashlib.sha256((path / "config.json").read_bytes())
    for file in sorted(path.glob("*.safetensors")):
        with file.open("rb") as opened:
            prefix = opened.read(8)
            num_header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= num_header_bytes <= file.stat().st_size - 8:
                raise ModelError("is not a safetensors file", where=str(file), remedy="fetch the model again")
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            digest.update(opened.read(num_header_bytes + _SAMPLE_BYTES))
            opened.seek(-min(_SAMPLE_BYTES, file.stat().st_size), os.SEEK_END)
            digest.update(opened.read())
    return digest.hexdigest()


def weights_fingerprint(path: Path) -> str:
    """What tells the weights of two base models apart: `base_fingerprint` and places all over each weight file.

    Cheap whatever the model's size: 32 places of 4 KiB per file. The first and the last tensors, embeddings and the
    patches of the vision tower, are the same in all that was merged with adapters of the layers between them.

    Args:
        path: Folder of the model.

    Raises:
        ModelError: A weight file cannot be read, or is not a safetensors file.
    """
    try:
        digest = hashlib.sha256(base_fingerprint(path).encode())
        for file in sorted(path.glob("*.safetensors")):
            with file.open("rb") as opened:
                for place in range(_NUM_PLACES):
                    opened.seek(place * file.stat().st_size // _NUM_PLACES)
                    digest.update(opened.read(_PLACE_BYTES))
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(error.filename or path)) from error
    return digest.hexdigest()
