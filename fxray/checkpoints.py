"""Checkpoints inside a stage and at its end: what a run needs to go on as if nothing had happened.

    grpo/<stage>/step-000040/{state.json, adapter/, ...}   kept: the last few
    grpo/<stage>/final/{state.json, adapter/, ...}         kept for good

What lies beside `state.json` belongs to the learner; `adapter/` is in PEFT layout.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from fxray.errors import CheckpointError
from fxray.files import atomic_dir

FORMAT = 1


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """What a checkpoint says of itself.

    Attributes:
        stage: Name of the stage.
        step: Batches of the stage that are learnt: the order cursor, since draws depend on the step alone.
        policy_version: Version of the adapter.
        base_fingerprint: Of the base model that the adapter belongs to.
    """

    stage: str
    step: int
    policy_version: int
    base_fingerprint: str
    format: int = FORMAT


def save_checkpoint(path: Path, state: CheckpointState, save: Callable[[Path], None]) -> None:
    """Writes a checkpoint that appears whole or not at all.

    Args:
        path: The folder.
        state: Where the run stands.
        save: Writes the learner's part below the folder that it is given.
    """
    with atomic_dir(path) as folder:
        save(folder)
        (folder / "state.json").write_text(json.dumps(asdict(state), indent=2) + "\n")


def read_state(path: Path, base_fingerprint: str) -> CheckpointState:
    """Reads where a checkpoint stands.

    Raises:
        CheckpointError: It is damaged, of another format, or of another base model.
    """
    try:
        state = CheckpointState(**json.loads((path / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"cannot be read: {error}", where=str(path), remedy="delete this folder to go on from the one before it"
        ) from error
    if state.format != FORMAT:
        raise CheckpointError(f"has format {state.format}, this fxray reads {FORMAT}", where=str(path))
    if state.base_fingerprint != base_fingerprint:
        raise CheckpointError(
            f"belongs to another base model ({state.base_fingerprint[:12]}, the configuration's is "
            f"{base_fingerprint[:12]})",
            where=str(path),
            remedy="set model.path to the model that this run was started with, or choose another run directory",
        )
    return state


def latest(stage_dir: Path) -> Path | None:
    """The checkpoint of a stage that reaches furthest, or None."""
    if (stage_dir / "final").is_dir():
        return stage_dir / "final"
    steps = _steps(stage_dir)
    return steps[-1] if steps else None


def retain(stage_dir: Path, keep_last: int) -> None:
    """Deletes all but the last few checkpoints inside a stage; `final` stays."""
    for folder in _steps(stage_dir)[:-keep_last]:
        shutil.rmtree(folder)


def step_dir(stage_dir: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` batches."""
    return stage_dir / f"step-{step:06d}"


def _steps(stage_dir: Path) -> list[Path]:
    if not stage_dir.is_dir():
        return []
    return sorted(folder for folder in stage_dir.iterdir() if re.fullmatch(r"step-\d{6,}", folder.name))
