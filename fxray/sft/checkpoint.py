"""Checkpoints of an SFT job: policy, optimizer and step. Order, templates and dropout follow from seed and step.

    sft/attempts/<attempt>/step-000100/{manifest.json, state.json, adapter/, optimizer.safetensors}

Every start of the driver makes an attempt of its own, so that what a killed one left in the making is never read.
"""

import json
import platform
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fxray.checkpoints import DamagedCheckpointError, newest_sound, write_manifest
from fxray.errors import CheckpointError, ResourceError
from fxray.files import write_atomically
from fxray.sft.settings import MERELY_HOW, SftSettings

ATTEMPTS = "attempts"
STATE_FILE = "state.json"
POLICY_DIR = "adapter"
OPTIMIZER_FILE = "optimizer.safetensors"
PROGRESS_FILE, RESTARTS_FILE = "progress.jsonl", "restarts"
MARK_FILE = "driver"


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
    """Writes what a checkpoint says of itself, and last of all the manifest."""
    content = {
        "step": state.step,
        "num_steps": state.num_steps,
        "corrupt_rows": state.corrupt_rows,
        "settings": settings.identity(),
    }
    (folder / STATE_FILE).write_text(json.dumps(content, indent=2) + "\n")
    write_manifest(folder)


def read_state(folder: Path, settings: SftSettings) -> SftState:
    """Reads where a checkpoint stands.

    Raises:
        DamagedCheckpointError: It cannot be read.
        CheckpointError: It is of a job with other settings.
    """
    try:
        content = json.loads((folder / STATE_FILE).read_text())
        corrupt_rows = {int(row): str(problem) for row, problem in content["corrupt_rows"].items()}
        state = SftState(int(content["step"]), int(content["num_steps"]), corrupt_rows)
        before = {"augment_share": 0.0} | dict(content["settings"])  # which checkpoints from before it lack
        before = {name: value for name, value in before.items() if name not in MERELY_HOW}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{STATE_FILE} cannot be read: {error!r}", where=str(folder)) from error
    now = json.loads(json.dumps(settings.identity()))
    if changed := sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name)):
        raise CheckpointError(
            f"belongs to an SFT job with other values of {', '.join(changed)}",
            where=str(folder),
            remedy="go on with the settings it was started with, or choose another run directory",
        )
    return state


def mark(attempt_dir: Path) -> str:
    """Leaves a mark in the folder of an attempt, by which workers know that they see the driver's; returns it."""
    text = uuid.uuid4().hex
    write_atomically(attempt_dir / MARK_FILE, text)
    return text


def check_mark(attempt_dir: Path, text: str, dataset: Path) -> None:
    """Returns where a worker sees what the driver sees: the attempt's folder, with its mark, and the dataset.

    Raises:
        ResourceError: It does not, for it runs on another node and the folder lies on no shared disk.
    """
    file = attempt_dir / MARK_FILE
    unseen = attempt_dir if not file.is_file() or file.read_text() != text else dataset
    if unseen == attempt_dir or not dataset.is_file():
        raise ResourceError(
            f"node {platform.node()} does not see this path of the driver's",
            where=str(unseen),
            remedy="SFT workers read the dataset and write checkpoints themselves: put both on a disk that every node "
            "with SFT workers mounts, or run the driver on the node that takes them all; GRPO needs no shared disk",
        )


def checkpoints(attempts_dir: Path) -> list[Path]:
    """The checkpoints of all attempts, those that reach furthest first."""
    found = [folder for folder in attempts_dir.glob("*/step-*") if re.fullmatch(r"step-\d{6,}", folder.name)]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("step-")), reverse=True)


def newest(
    attempts_dir: Path, settings: SftSettings, on_damaged: Callable[[str], None]
) -> tuple[Path, SftState] | None:
    """The checkpoint that reaches furthest over all attempts and is whole; None where there is none.

    Raises:
        CheckpointError: All are damaged, or one is of a job with other settings.
    """
    return newest_sound(checkpoints(attempts_dir), lambda folder: read_state(folder, settings), on_damaged)


def new_attempt(attempts_dir: Path, keep: Path | None) -> str:
    """Name of the attempt that starts now; of the earlier ones, the checkpoint `keep` and what is damaged stay."""
    earlier = [folder for folder in attempts_dir.glob("attempt-*") if folder.is_dir()]
    number = 1 + max((int(folder.name.removeprefix("attempt-")) for folder in earlier), default=-1)
    for folder in earlier:
        for entry in folder.iterdir():
            if entry != keep and not entry.name.startswith("damaged-"):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    return f"attempt-{number}"
