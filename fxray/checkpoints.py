"""Checkpoints inside a stage and at its end: what a run needs to go on as if nothing had happened.

    grpo/<stage>/step-000040/{manifest.json, state.json, adapter/, ...}   kept: the last few
    grpo/<stage>/final/{manifest.json, state.json, adapter/, ...}         kept for good
    grpo/<stage>/damaged-step-000040/                                     put aside, for a look at what happened

What lies beside `state.json` belongs to the learner; `adapter/` is in PEFT layout, or a whole model where all weights
are trained. The manifest holds size and SHA-256 of every file, so that a disk that lost or changed something is found
out before the learner goes on with it.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from fxray.errors import CheckpointError
from fxray.files import atomic_dir, file_sha256

FORMAT = 2
MANIFEST_FILE, STATE_FILE = "manifest.json", "state.json"
ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""What PEFT calls the two files of an adapter."""
MODEL_CONFIG_FILE, MODEL_WEIGHTS_FILE = "config.json", "model.safetensors"
"""What Hugging Face calls the files of a whole model."""
CALIBRATION_FILE = "calibration.json"
"""Comes beside the adapter later, and may be fitted anew: no part of what was written."""

T = TypeVar("T")


class DamagedCheckpointError(CheckpointError):
    """A checkpoint of which something is missing or changed; the one before it may be whole."""


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """What a checkpoint says of itself.

    Attributes:
        stage: Name of the stage.
        step: Batches of the stage that are learnt: the order cursor, since draws depend on the step alone.
        policy_version: Version of the policy.
        base_fingerprint: Of the base model that the policy belongs to.
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
        (folder / STATE_FILE).write_text(json.dumps(asdict(state), indent=2) + "\n")
        write_manifest(folder)


def write_manifest(folder: Path) -> None:
    """Writes down size and checksum of every file of a checkpoint that is complete."""
    (folder / MANIFEST_FILE).write_text(json.dumps(_measure(folder), indent=2) + "\n")


def verify(folder: Path) -> None:
    """Compares a checkpoint with its manifest; files that somebody else put beside them, a model card, do not count.

    Raises:
        DamagedCheckpointError: A file is missing, cut short, changed, or cannot be read.
    """
    try:
        expected = json.loads((folder / MANIFEST_FILE).read_text())
        if not isinstance(expected, dict) or not expected:
            raise ValueError("it names no file")
        found = _measure(folder)
        odd = sorted(name for name in expected if expected[name] != found.get(name))
    except (OSError, ValueError, AttributeError) as error:
        message = f"cannot be compared with its {MANIFEST_FILE}: {error}"
        raise DamagedCheckpointError(message, where=str(folder)) from error
    if odd:
        what = "is missing" if odd[0] not in found else "is not what was written"
        raise DamagedCheckpointError(f"{odd[0]} {what}", where=str(folder))


def _measure(folder: Path) -> dict[str, dict[str, int | str]]:
    sums: dict[str, dict[str, int | str]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name not in (MANIFEST_FILE, CALIBRATION_FILE):
            sums[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
    return sums


def newest_sound(
    candidates: Sequence[Path], read: Callable[[Path], T], on_damaged: Callable[[str], None]
) -> tuple[Path, T] | None:
    """The checkpoint that reaches furthest and is whole. What is damaged is renamed, so that it is met only once.

    Args:
        candidates: Checkpoints, those that reach furthest first.
        read: Reads where a checkpoint stands.
        on_damaged: Told of each damaged one: what is wrong, and where it lies now.

    Returns:
        The checkpoint and what `read` gave; None where there are no candidates.

    Raises:
        CheckpointError: All are damaged, or one is of another format, model or job.
    """
    for folder in candidates:
        try:
            state = read(folder)
            verify(folder)
        except DamagedCheckpointError as error:
            aside = _free_name(folder)
            folder.rename(aside)
            on_damaged(f"checkpoint {folder} is damaged and left out: {error.message}; it lies in {aside.name} now")
        else:
            return folder, state
    if candidates:
        raise CheckpointError(
            f"no checkpoint is whole, {len(candidates)} are damaged and put aside",
            where=str(candidates[0].parent),
            remedy="look after the disk; the same command then starts this part of the run anew",
        )
    return None


def _free_name(folder: Path) -> Path:
    names = (folder.with_name(f"damaged-{folder.name}{suffix}") for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
    return next(name for name in names if not name.exists())


def read_state(path: Path, base_fingerprint: str) -> CheckpointState:
    """Reads where a checkpoint stands.

    Raises:
        DamagedCheckpointError: It cannot be read.
        CheckpointError: It is of another format, or of another base model.
    """
    try:
        state = CheckpointState(**json.loads((path / STATE_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DamagedCheckpointError(f"{STATE_FILE} cannot be read: {error}", where=str(path)) from error
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


def checkpoints(stage_dir: Path) -> list[Path]:
    """The checkpoints of a stage, those that reach furthest first."""
    final = [stage_dir / "final"] if (stage_dir / "final").is_dir() else []
    return [*final, *reversed(_steps(stage_dir))]


def latest(stage_dir: Path) -> Path | None:
    """The checkpoint of a stage that reaches furthest, or None."""
    return next(iter(checkpoints(stage_dir)), None)


def retain(stage_dir: Path, keep_last: int) -> None:
    """Deletes all but the last few checkpoints inside a stage; `final` stays."""
    steps = _steps(stage_dir)
    for folder in steps[: max(0, len(steps) - keep_last)]:
        shutil.rmtree(folder)


def step_dir(stage_dir: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` batches."""
    return stage_dir / f"step-{step:06d}"


def _steps(stage_dir: Path) -> list[Path]:
    if not stage_dir.is_dir():
        return []
    return sorted(folder for folder in stage_dir.iterdir() if re.fullmatch(r"step-\d{6,}", folder.name))
