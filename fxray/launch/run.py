"""The run directory: what a run is, where each part of it lies, and who may write to it.

    config.yaml versions.json model.json data.json rewards.json data/ sft/ grpo/<stage>/ evaluation/<name>/
    metrics.jsonl tensorboard/ report.html metrics.json status.json timeline.json

One driver at a time holds its lease. A run is continued with the configuration that it was started with; only what
cannot change its result may differ. Until a phase has begun there is nothing to continue: it takes another one.
"""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fxray.asides import clear_all_abandoned
from fxray.config.load import dump_config, find_yaml, load_config, shipped_folder
from fxray.config.schedule import load_stages
from fxray.config.tree import Config, SftConfig
from fxray.errors import CheckpointError, ConfigError
from fxray.files import is_there, make_folder, write_atomically
from fxray.launch.contents import DATA_FILE, SPLITS, are_the_same
from fxray.launch.lease import LEASE_FILE, LOCK_FILE, Lease, hold
from fxray.metrics import METRICS_FILE, TENSORBOARD_DIR
from fxray.sft.checkpoint import ATTEMPTS, checkpoints
from fxray.sft.settings import MERELY_HOW
from fxray.status.record import STATUS_FILE
from fxray.timeline import OLD_TIMELINE_FILE, TIMELINE_FILE
from fxray.versions import versions

CONFIG_FILE, _SCHEDULE_FILE, _VERSIONS_FILE = "config.yaml", "schedule.yaml", "versions.json"
BASE_FILE, REWARDS_FILE = "model.json", "rewards.json"
_DATA_DIR = "data"
_OF_A_START = {CONFIG_FILE, _SCHEDULE_FILE, _VERSIONS_FILE, DATA_FILE, BASE_FILE, _DATA_DIR, LOCK_FILE, LEASE_FILE} | {
    REWARDS_FILE,
    STATUS_FILE,
    TIMELINE_FILE,
    OLD_TIMELINE_FILE,
}
"""What may lie in a folder before a phase begins."""
_OF_SFT = {"sft", METRICS_FILE, TENSORBOARD_DIR}
"""What SFT adds before its first checkpoint."""
_CONTINUE = "continue it with the configuration it was started with, or choose another --run-dir"
GO_ON = "go on with the configuration that it was begun with, or choose another --out"
Split = Literal["test", "validation"]
"""What the policies of a run answer."""
RESULT_SECTIONS = ("seed", "model", "data", "sft", "grpo")
_NUM_ANSWERS, _BASE = "evaluate.num_samples", "model.path"
_RESULT_FIELDS = {"reward.functions", _NUM_ANSWERS, "evaluate.max_new_tokens"}
"""Fields of other sections that decide what a run comes to."""
_FREE = {f"sft.{name}" for name in MERELY_HOW & SftConfig.model_fields.keys()} | {
    "model.gradient_checkpointing",
    "data.on_corrupt_image",  # what is there was made without such an image, or leaves it out
}
"""Fields of `RESULT_SECTIONS` that say in how many parts work is done, and what stops it; what comes out is the same
but for rounding."""
_DROP_OUT = {"sft.num_workers", "sft.max_tokens_per_micro_batch"}
"""Fields of them that decide, with model.lora.dropout, what drops out."""


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
        return self.root / _DATA_DIR / f"{split}.parquet"


@contextmanager
def open_run(root: Path, config: Config) -> Iterator[RunDirectory]:
    """Starts or continues a run and holds its lock.

    Raises:
        ConfigError: The run was started with another configuration, or the folder holds something else.
        FxrayError: Another process works on it.
        ResourceError: The folder cannot be made or written.
    """
    root = _place(root)
    make_folder(root)
    if not (root / CONFIG_FILE).exists() and not all(_is_of_a_start(entry, config) for entry in root.iterdir()):
        raise ConfigError(
            "the folder is not empty and is not a run directory", where=str(root), remedy="choose another --run-dir"
        )
    with hold(root) as lease:
        adopt_config(root, config, _CONTINUE)
        clear_all_abandoned(root)
        write_atomically(root / _VERSIONS_FILE, json.dumps(versions(), indent=2) + "\n")
        yield RunDirectory(root, lease)


def _place(root: Path) -> Path:
    """The absolute path of a run; one that the libraries of a training cannot take is refused before anything is made.

    Raises:
        ConfigError: Its name is no UTF-8, or leads through links in a circle.
    """
    try:
        place = root.resolve()
        str(place).encode()
        if any(each.is_symlink() for each in (place, *place.parents)):  # where Python 3.13 meets a loop
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except UnicodeEncodeError as error:
        raise ConfigError("has a name that is no UTF-8", where=str(root), remedy="choose another --run-dir") from error
    except (RuntimeError, OSError) as error:  # which of them a loop is depends on Python's version
        raise ConfigError(f"leads nowhere: {error}", where=str(root), remedy="choose another --run-dir") from error
    return place


def _is_of_a_start(entry: Path, config: Config) -> bool:
    """Whether a driver that was killed before it had written the configuration may have left this."""
    if entry.name == _SCHEDULE_FILE:
        schedule = Path(config.grpo.schedule)
        return entry.is_file() and schedule.is_file() and entry.read_bytes() == schedule.read_bytes()
    asides = (f".{_SCHEDULE_FILE}.", f".{CONFIG_FILE}.", f".{LEASE_FILE}.", f"{LEASE_FILE}.")
    return entry.name in (LOCK_FILE, LEASE_FILE) or (entry.name.startswith(asides) and entry.suffix == ".tmp")


def finished_phases(root: Path) -> dict[str, Path]:
    """Adapters of the phases that a run has finished, in the order of training; at least one.

    Raises:
        CheckpointError: It is no run directory, or nothing is finished in it.
    """
    config_file = root / CONFIG_FILE
    if not (is_there(config_file) and config_file.is_file()):
        raise CheckpointError("is not a run directory", where=str(root), remedy="give the --run-dir of `fxray train`")
    run, stages = RunDirectory(root), load_stages(load_config(config_file).grpo.schedule)
    adapters = {name: run.adapter(name) for name in ("sft", *(stage.name for stage in stages))}
    finished = {name: adapter for name, adapter in adapters.items() if adapter.is_dir()}
    if not finished:
        raise CheckpointError("no phase of this run is finished", where=str(root), remedy="let `fxray train` go on")
    return finished


@contextmanager
def open_finished(
    root: Path, overrides: Sequence[str], *, may_ask_fewer: bool = False
) -> Iterator[tuple[Config, dict[str, Path]]]:
    """Holds the lock of a run that has finished a phase, to ask or measure what it has trained.

    Args:
        root: The run directory.
        overrides: Fields of the configuration, as `--set` of the command line; none of those that decide answers.
        may_ask_fewer: Whether evaluate.num_samples may differ, for answers that are kept apart from the run's own.

    Yields:
        The configuration, and the adapters of the finished phases in the order of training.

    Raises:
        CheckpointError: It is no run directory, or nothing is finished in it, or its base model is another now.
        ConfigError: An override decides answers: those that are kept in the run would no longer be the policy's.
        FxrayError: Another process works on it.
    """
    from fxray.launch.base_model import refuse_other_base

    file, finished = root / CONFIG_FILE, finished_phases(root)
    before, config = load_config(file, []), load_config(file, overrides)
    changed = _changed_but_for_the_base(root, before, config)
    changed = [name for name in changed if not (may_ask_fewer and name == _NUM_ANSWERS)]
    _refuse_changes(changed, root, "leave them out; `fxray evaluate --config` answers with any settings")
    with hold(root):
        refuse_other_base(root, config.model.path)
        yield config, finished


def changed_fields(before: Config, now: Config) -> list[str]:
    """Fields that differ, of those that decide what a run comes to."""
    drops_out = any(config.model.lora is not None and config.model.lora.dropout > 0 for config in (before, now))
    free = _FREE - _DROP_OUT if drops_out else _FREE
    old, new = _flat(before, free), _flat(now, free)
    return [name for name in new if old[name] != new[name]]


def _changed_but_for_the_base(root: Path, before: Config, now: Config) -> list[str]:
    """`changed_fields` without the path of the base model where the weights that a run began with lie there now."""
    from fxray.launch.base_model import has_same_base

    changed = changed_fields(before, now)
    is_same = _BASE in changed and has_same_base(root, now.model.path)
    return [name for name in changed if not (name == _BASE and is_same)]


def refuse_changed(root: Path, config: Config, remedy: str) -> None:
    """Keeps what is in a folder from being taken for what another configuration comes to.

    A schedule in a file of one's own is compared with what the file held when the folder was begun, and so are files of
    data and a base model under another path, which may have been moved. Before a phase has kept anything only synthetic
    data can be there, so only what those were made with has to be equal.

    Raises:
        ConfigError: The folder was begun with a configuration that comes to something else, or there is no such file.
        DataError: The data has another path, and there is no dataset.
    """
    file, is_blank = root / CONFIG_FILE, _is_before_phases(root)
    if not file.exists() or (is_blank and not (root / _DATA_DIR).exists()):
        return
    changed = _changed_but_for_the_base(root, load_config(file, []), with_own_schedule(root, config))
    places = {f"data.{split}" for split in SPLITS}
    if places.intersection(changed) and are_the_same(root, config):
        changed = [name for name in changed if name not in places]
    _refuse_changes([name for name in changed if not is_blank or name == "data.synth"], root, remedy)


def _is_before_phases(root: Path) -> bool:
    """Whether no phase kept anything in a folder: no checkpoint, no answer, nothing that is not of a start."""
    run = RunDirectory(root)
    known = _OF_A_START if run.sft_adapter.exists() or checkpoints(run.sft_dir / ATTEMPTS) else _OF_A_START | _OF_SFT
    return all(
        entry.name in known or (entry.name.startswith(".") and entry.suffix == ".tmp")
        for entry in (root.iterdir() if root.is_dir() else ())
    )


def adopt_config(root: Path, config: Config, remedy: str) -> None:
    """Keeps the configuration that a folder is begun with; what is there is never mixed with what another comes to.

    The caller holds the folder. Where no phase has kept anything, what an earlier start found of data and base model is
    forgotten: they may have been put right since.

    Args:
        root: Of a run, or of several that share data.
        config: What it is to be worked on with.
        remedy: What to do where that comes to something else.

    Raises:
        ConfigError: It does.
    """
    refuse_changed(root, config, remedy)
    is_blank = _is_before_phases(root)
    for record in (DATA_FILE, BASE_FILE) if is_blank else ():
        (root / record).unlink(missing_ok=True)
    adopted = with_own_schedule(root, config, begins=is_blank)
    if adopted.grpo.schedule != config.grpo.schedule:  # kept, for a job's folder goes with the job
        write_atomically(root / _SCHEDULE_FILE, Path(config.grpo.schedule).read_bytes())
    if adopted.grpo.schedule == str(root.resolve() / _SCHEDULE_FILE):  # by its name alone: the folder may be moved
        adopted = _with_schedule(adopted, _SCHEDULE_FILE)
    write_atomically(root / CONFIG_FILE, dump_config(adopted))


def with_own_schedule(root: Path, config: Config, *, begins: bool = False) -> Config:
    """The configuration with the folder's own copy of a schedule, where it has, or is to have, an equal one.

    Args:
        root: The folder.
        config: Names the schedule.
        begins: Whether the folder is to have it, whatever it has now.

    Raises:
        ConfigError: There is no such file.
    """
    own, schedule = root.resolve() / _SCHEDULE_FILE, Path(config.grpo.schedule)
    if schedule.suffix not in (".yaml", ".yml"):
        return config
    find_yaml(schedule, shipped_folder() / "schedules", kind="schedule")  # says so where there is none
    if (
        not begins
        and (root / CONFIG_FILE).exists()
        and not (own.exists() and own.read_bytes() == schedule.read_bytes())
    ):
        return config
    return _with_schedule(config, str(own))


def _with_schedule(config: Config, schedule: str) -> Config:
    return config.model_copy(update={"grpo": config.grpo.model_copy(update={"schedule": schedule})})


def _flat(config: Config, free: set[str]) -> dict[str, Any]:
    """Values by name of the fields that decide what a run comes to."""
    sections = config.model_dump(mode="json")
    fields = {
        f"{section}.{key}" if isinstance(values, dict) else section: value
        for section, values in sections.items()
        for key, value in (values if isinstance(values, dict) else {"": values}).items()
    }
    wanted = {name for name in fields if name.partition(".")[0] in RESULT_SECTIONS} - free | _RESULT_FIELDS
    return {name: value for name, value in fields.items() if name in wanted}


def _refuse_changes(changed: Sequence[str], root: Path, remedy: str) -> None:
    if changed:
        message = f"what is here was made with other values of {', '.join(changed)}"
        raise ConfigError(message, where=str(root), remedy=remedy)
