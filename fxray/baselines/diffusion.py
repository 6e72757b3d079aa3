"""Parts of diffusion models from folders as diffusers writes them: safetensors alone, nothing fetched, no code run."""

import json
from pathlib import Path
from typing import Any

import torch

from fxray.baselines.weights import REFUSALS
from fxray.counts import counted
from fxray.errors import ModelError, ResourceError


def load_part(kind: str, folder: Path | None, *, subfolder: str) -> Any:
    """A model of diffusers in evaluation mode, of a whole pipeline's folder or of its own.

    Args:
        kind: Its class.
        folder: The folder.
        subfolder: Where it lies in a pipeline's folder.

    Raises:
        ModelError: There is no folder, or it holds no such model, or not all of it.
        ResourceError: diffusers is not installed.
    """
    if folder is None:
        raise ModelError(f"no {kind} is given", where="--weights", remedy="give a folder; nothing is downloaded")
    options = {"use_safetensors": True, "torch_dtype": torch.float32, "low_cpu_mem_usage": False}
    model, report = open_part(kind, folder, subfolder=subfolder, output_loading_info=True, **options)
    if lacking := [*report["missing_keys"], *report["mismatched_keys"]]:
        raise ModelError(
            f"{counted(len(lacking), 'weight')} of {kind} missing or misshapen, {lacking[0]} for one",
            where=str(folder),
            remedy="give the folder as diffusers writes it",
        )
    return model.eval().requires_grad_(False)


def open_part(kind: str, folder: Path, *, subfolder: str, **options: Any) -> Any:
    """What diffusers opens from a folder with a configuration.

    Raises:
        ModelError: The folder holds no such thing.
        ResourceError: diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ResourceError(f"diffusers is not here: {error}", remedy="pip install 'fxray[diffusion]'") from error
    place = folder / subfolder if (folder / subfolder).is_dir() else folder
    remedy = f"give a folder with config.json and safetensors, or of a pipeline with {subfolder}/ in it"
    try:
        if (place / "config.json").is_file():
            found = json.loads((place / "config.json").read_text("utf-8")).get("_class_name")
            if found != kind:
                raise ModelError(f"holds no {kind}, but {found}", where=str(place), remedy=remedy)
        return getattr(diffusers, kind).from_pretrained(place, local_files_only=True, **options)
    except REFUSALS as error:
        if isinstance(error, ModelError):
            raise
        reason = str(error).splitlines()[0]
        raise ModelError(f"holds no {kind}: {reason}", where=str(place), remedy=remedy) from error
