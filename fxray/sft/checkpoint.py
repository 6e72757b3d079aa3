"""Checkpoints of an SFT job: adapter, optimizer and step. Order, templates and dropout follow from seed and step.

    sft/attempts/<attempt>/step-000100/{state.json, adapter/, optimizer.safetensors}

Every start of the driver makes an attempt of its own, so that what a killed one left in the making is never read.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from fxray.errors import CheckpointError
from fxray.sft.settings import SftSettings

STATE_FILE = "state.json"
ADAPTER_DIR = "adapter"
OPTIMIZER_FILE = "optimizer.safetensors"
PROGRESS_FILE = "progress.jsonl"


@dataclass(frozen=True, slots=True)
class SftState:
    """Where an SFT job stands.

    Attributes:
        step: Updates that are done.
        num_steps: Updates in all.
        corrupt_rows: Rows without a readable image so far, and what is wrong with each.
    """

    step: int
    num_steps: int
    corrupt_rows: dict[int, str]


def write_state(folder: Path, state: SftState, settings: SftSettings) -> None:
    """Writes what a checkpoint says of itself."""
    content = {
        "step": state.step,
        "num_steps": state.num_steps,
        "corrupt_rows": state.corrupt_rows,
        "settings": settings.identity(),
    }
    (folder / STATE_FILE).write_text(json.dumps(content, indent=2) + "\n")


def read_state(folder: Path, settings: SftSettings) -> SftState:
    """Reads where a checkpoint stands.

    Raises:
        CheckpointError: It is damaged, or of a job with other settings.
    """
    try:
        content = json.loads((folder / STATE_FILE).read_text())
        corrupt_rows = {int(row): str(problem) for row, problem in content["corrupt_rows"].items()}
        state = SftState(int(content["step"]), int(content["num_steps"]), corrupt_rows)
        before = content["settings"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"cannot be read: {error!r}", where=str(folder), remedy="delete this folder to start SFT anew"
        ) from error
    now = json.loads(json.dumps(settings.identity()))
    if changed := sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name)):
        raise CheckpointError(
            f"belongs to an SFT job with other values of {', '.join(changed)}",
            where=str(folder),
            remedy="go on with the settings it was started with, or choose another run directory",
        )
    return state


def latest(attempts_dir: Path) -> Path | None:
    """The checkpoint that reaches furthest over all attempts, or None."""
    found = [folder for folder in attempts_dir.glob("*/step-*") if re.fullmatch(r"step-\d{6,}", folder.name)]
    return max(found, key=lambda folder: int(folder.name.removeprefix("step-")), default=None)


def new_attempt(attempts_dir: Path, keep: Path | None) -> str:
    """Name of the attempt that starts now; all of the earlier ones but the checkpoint `keep` is deleted."""
    earlier = [folder for folder in attempts_dir.glob("attempt-*") if folder.is_dir()]
    number = 1 + max((int(folder.name.removeprefix("attempt-")) for folder in earlier), default=-1)
    for folder in earlier:
        for entry in folder.iterdir():
            if entry != keep:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if keep is None or keep.parent != folder:
            folder.rmdir()
    return f"attempt-{number}"
