"""The run directory: what a run is, where each part of it lies, and who may write to it.

    config.yaml versions.json data.json data/ sft/ grpo/<stage>/ evaluation/<name>/ metrics.jsonl tensorboard/
    report.html metrics.json status.json timeline.json

One driver at a time holds its lease. A run is continued with the configuration that it was started with; only what
cannot change its result may differ.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fxray.config.load import dump_config, load_config
from fxray.config.schedule import load_stages
from fxray.config.tree import Config, SftConfig
from fxray.errors import CheckpointError, ConfigError
from fxray.files import make_folder, write_atomically
from fxray.launch.lease import LEASE_FILE, LOCK_FILE, Lease, hold
from fxray.sft.settings import MERELY_HOW
from fxray.versions import versions

Split = Literal["test", "validation"]
"""What the policies of a run answer."""
RESULT_SECTIONS = ("seed", "model", "data", "sft", "grpo")
_FREE = {"model.gradient_checkpointing"} | {f"sft.{name}" for name in MERELY_HOW & SftConfig.model_fields.keys()}
"""Fields of these sections that say in how many parts the work is done; what comes out is the same but for rounding."""


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run. Nothing is created by asking for one."""

    root: Path
    lease: Lease | None = None
    """Of the driver that has it open."""

    @property
    def sft_dir(self) -> Path:
        return self.root / "sft"

    @property
    def sft_adapter(self) -> Path:
        """Adapter that SFT ends with, in PEFT layout."""
        return self.sft_dir / "adapter"

    def stage_dir(self, stage: str) -> Path:
        return self.root / "grpo" / stage

    def stage_adapter(self, stage: str) -> Path:
        """Adapter that a stage ends with, in PEFT layout."""
        return self.stage_dir(stage) / "final" / "adapter"

    def adapter(self, name: str) -> Path:
        """Adapter of "sft" or a stage."""
        return self.sft_adapter if name == "sft" else self.stage_adapter(name)

    def predictions(self, name: str, split: Split = "test") -> Path:
        """Answers of "no-ft", "sft" or a stage to a split."""
        file = "predictions.parquet" if split == "test" else "validation.parquet"
        return self.root / "evaluation" / name / file

    def data_file(self, split: str) -> Path:
        """Parquet file of a synthetic split."""
        return self.root / "data" / f"{split}.parquet"


@contextmanager
def open_run(root: Path, config: Config) -> Iterator[RunDirectory]:
    """Starts or continues a run and holds its lock.

    Raises:
        ConfigError: The run was started with another configuration, or the folder holds something else.
        FxrayError: Another process works on it.
        ResourceError: The folder cannot be made or written.
    """
    root = root.resolve()
    make_folder(root)
    with hold(root) as lease:
        _adopt_config(root, config)
        for leftover in list(root.rglob(".*.tmp")):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        write_atomically(root / "versions.json", json.dumps(versions(), indent=2) + "\n")
        yield RunDirectory(root, lease)


def finished_phases(root: Path) -> dict[str, Path]:
    """Adapters of the phases that a run has finished, in the order of training; at least one.

    Raises:
        CheckpointError: It is no run directory, or nothing is finished in it.
    """
    if not (root / "config.yaml").is_file():
        raise CheckpointError("is not a run directory", where=str(root), remedy="give the --run-dir of `fxray train`")
    run, stages = RunDirectory(root), load_stages(load_config(root / "config.yaml").grpo.schedule)
    adapters = {name: run.adapter(name) for name in ("sft", *(stage.name for stage in stages))}
    finished = {name: adapter for name, adapter in adapters.items() if adapter.is_dir()}
    if not finished:
        raise CheckpointError("no phase of this run is finished", where=str(root), remedy="let `fxray train` go on")
    return finished


@contextmanager
def open_finished(root: Path, overrides: Sequence[str]) -> Iterator[tuple[Config, dict[str, Path]]]:
    """Holds the lock of a run that has finished a phase, to ask or measure what it has trained.

    Args:
        root: The run directory.
        overrides: Fields of the configuration, as `--set` of the command line; none of those that decide answers.

    Yields:
        The configuration, and the adapters of the finished phases in the order of training.

    Raises:
        CheckpointError: It is no run directory, or nothing is finished in it.
        ConfigError: An override decides answers: those that are kept in the run would no longer be the policy's.
        FxrayError: Another process works on it.
    """
    file, finished = root / "config.yaml", finished_phases(root)
    before, config = load_config(file, []), load_config(file, overrides)
    changed = changed_fields(before, config)
    if before.evaluate.max_new_tokens != config.evaluate.max_new_tokens:
        changed.append("evaluate.max_new_tokens")
    _refuse_changes(changed, file, "leave them out; `fxray evaluate --config` answers with any settings")
    with hold(root):
        yield config, finished


def changed_fields(before: Config, now: Config) -> list[str]:
    """Fields that differ, of those that decide what a run comes to."""
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    changed = [
        f"{section}.{key}" if isinstance(new[section], dict) else section
        for section in RESULT_SECTIONS
        for key in (new[section] if isinstance(new[section], dict) else [""])
        if (old[section][key] != new[section][key] if key else old[section] != new[section])
    ]
    return [name for name in changed if name not in _FREE]


def _refuse_changes(changed: Sequence[str], file: Path, remedy: str) -> None:
    if changed:
        raise ConfigError(
            f"this run was started with other values of {', '.join(changed)}", where=str(file), remedy=remedy
        )


def _adopt_config(root: Path, config: Config) -> None:
    file, own_schedule = root / "config.yaml", root / "schedule.yaml"
    schedule = None
    if config.grpo.schedule.endswith((".yaml", ".yml")):  # kept in the run, for a job's folder goes with the job
        schedule = Path(config.grpo.schedule).read_text(encoding="utf-8")
        if not file.exists() or (own_schedule.exists() and own_schedule.read_text(encoding="utf-8") == schedule):
            config = config.model_copy(update={"grpo": config.grpo.model_copy(update={"schedule": str(own_schedule)})})
    if file.exists():
        _refuse_changes(
            changed_fields(load_config(file, []), config),
            file,
            "continue it with the configuration it was started with, or choose another --run-dir",
        )
    elif any(entry.name not in (LOCK_FILE, LEASE_FILE) for entry in root.iterdir()):
        raise ConfigError(
            "the folder is not empty and is not a run directory", where=str(root), remedy="choose another --run-dir"
        )
    if schedule is not None and config.grpo.schedule == str(own_schedule):
        write_atomically(own_schedule, schedule)
    write_atomically(file, dump_config(config))
