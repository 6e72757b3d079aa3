"""The base model of a run, `model.json`: written down when the run begins, compared whenever it goes on or answers.

All phases rest on it, SFT's adapter before any checkpoint of a stage says so; and a name in a cache, or a folder, may
hold another model the next time, one that was merged anew for one.
"""

import json
from pathlib import Path

from fxray.errors import CheckpointError, ModelError
from fxray.files import write_atomically
from fxray.launch.run import BASE_FILE, RunDirectory
from fxray.model.folder import check_model_folder, find_model_folder, resolve_model_path, weights_fingerprint


def look_at_base(path: str) -> str:
    """Sees to it, before anything starts, that a base model which is here is whole.

    Args:
        path: `model.path`.

    Returns:
        That it is not here, as a note: the machine that trains may be another. Empty where it is.

    Raises:
        ModelError: It does not hold a complete model of a family that fxray drives.
    """
    folder = find_model_folder(path)
    if folder is None:
        return f"model.path {path} is not on this machine"
    check_model_folder(folder)
    return ""


def keep_base(run: RunDirectory, model_path: Path) -> None:
    """Writes down what a run rests on; one of an earlier version, which does not say it, says it from now on.

    Args:
        run: The run.
        model_path: Folder of the base model.

    Raises:
        CheckpointError: The run was begun with other weights.
        FxrayError: Another driver took the run over meanwhile.
        ModelError: The weights cannot be read.
    """
    found = weights_fingerprint(model_path)
    if _recorded(run.root) not in ("", found):
        raise _other_base(run.root, str(model_path))
    if run.lease is not None:
        run.lease.check()
    write_atomically(run.root / BASE_FILE, json.dumps({"weights_fingerprint": found}) + "\n")


def has_other_base(root: Path, path: str) -> bool:
    """Whether a run was begun with other weights; False where it does not say, or they are not on this machine.

    Args:
        root: Of the run.
        path: `model.path`.
    """
    found, recorded = _fingerprint(path), _recorded(root)
    return "" not in (found, recorded) and found != recorded


def has_same_base(root: Path, path: str) -> bool:
    """Whether a run was begun with the weights of a folder; False where one of them is not known.

    Args:
        root: Of the run.
        path: `model.path`.
    """
    return _fingerprint(path) == _recorded(root) != ""


def refuse_other_base(root: Path, path: str) -> None:
    """Keeps a run's policy from answering on another base model; as `has_other_base`.

    Raises:
        CheckpointError: The run was begun with other weights.
    """
    if has_other_base(root, path):
        raise _other_base(root, path)


def _other_base(root: Path, path: str) -> CheckpointError:
    return CheckpointError(
        "its weights or its config.json are not those that the run was begun with",
        where=f"model.path {path}",
        remedy=f"put the former model back, or choose another run directory than {root}",
    )


def _fingerprint(path: str) -> str:
    """What identifies the weights of a base model; empty where it is not on this machine."""
    try:
        return weights_fingerprint(resolve_model_path(path))
    except ModelError:
        return ""


def _recorded(root: Path) -> str:
    """What identifies the weights that a run was begun with; empty where it does not say."""
    try:
        return str(json.loads((root / BASE_FILE).read_bytes())["weights_fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
