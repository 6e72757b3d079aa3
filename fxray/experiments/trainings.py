"""Which trainings stand behind the rows of an experiment, how long each is, and how far it has come."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fxray.baselines.ports import Size
from fxray.config.load import load_config
from fxray.config.schedule import Stage, load_stages
from fxray.config.tree import Config
from fxray.errors import ConfigError
from fxray.experiments.experiment import Experiment, Row
from fxray.files import distinct_slug, slug
from fxray.launch.phases import NO_FT, SFT, is_answered
from fxray.launch.run import RunDirectory, with_own_schedule

MAX_NAME_CHARACTERS = 120
PAPER_SCHEDULE = "paper"


@dataclass(frozen=True, slots=True)
class Setting:
    """What all experiments of one call share.

    Attributes:
        configure: The configuration with further overrides.
        out: Folder of data, trainings and tables.
        outside: Parquet files of outside data sets, by name.
        baseline_size: Of the networks among the baselines.
    """

    configure: Callable[[Sequence[str]], Config]
    out: Path
    outside: Mapping[str, Path]
    baseline_size: Size = "small"


@dataclass(frozen=True, slots=True)
class Training:
    """A training in a run directory of its own; rows, and experiments, with equal settings share it.

    Attributes:
        name: Its folder below runs/.
        overrides: Fields that differ from the configuration.
        fold: Fold that it trains on; empty for the splits of the configuration.
    """

    name: str
    overrides: tuple[str, ...]
    fold: str = ""

    def folder(self, out: Path) -> Path:
        """Its run directory."""
        return out / "runs" / self.name


def trainings_of(experiment: Experiment, folds: Sequence[str]) -> list[Training]:
    """The trainings of an experiment, each once, in the order of the rows or folds."""
    if experiment.split is not None:
        return [Training(f"{experiment.split.name}-{distinct_slug(fold)}", (), fold) for fold in folds]
    return list(dict.fromkeys(training_of(row) for row in experiment.rows if row.is_trained))


def training_of(row: Row) -> Training:
    """The training that a row is measured on."""
    fields = (override.partition("=") for override in row.set)
    return Training(name_of_values({field: text for field, _, text in fields}), row.overrides)


def name_of_values(texts: Mapping[str, str]) -> str:
    """A folder's name for values of fields, which no other values have; "base" without any."""
    name = "+".join(f"{slug(field)}-{distinct_slug(text)}" for field, text in texts.items()) or "base"
    if len(name) > MAX_NAME_CHARACTERS:
        name = f"{name[:MAX_NAME_CHARACTERS]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def config_of(folder: Path) -> Config | None:
    """The configuration of a run directory; None before it is begun."""
    file = folder / "config.yaml"
    return _read_config(file, file.stat().st_mtime_ns) if file.is_file() else None


@cache
def _read_config(file: Path, _written_ns: int) -> Config:
    """Tables are written after every training; a configuration that did not change is read once."""
    return load_config(file)


@cache
def stages_of(schedule: str) -> tuple[Stage, ...]:
    """The stages of a schedule, read once."""
    return load_stages(schedule)


def phases_of(config: Config) -> list[str]:
    """What of a training is measured, in order."""
    return [NO_FT, SFT, *(stage.name for stage in stages_of(config.grpo.schedule))]


def num_grpo_steps(config: Config, num_train: int | None, phase: str = "") -> int | None:
    """GRPO steps up to the end of a phase, by default of all.

    Args:
        config: Of the training.
        num_train: Its samples; None where they are not known yet.
        phase: no-ft, sft or a stage.

    Returns:
        None where it depends on the number of samples, and that is not known.
    """
    names, grpo = phases_of(config), config.grpo
    stages = stages_of(grpo.schedule)[: names.index(phase) - 1 if phase else None]
    if phase in (NO_FT, SFT):
        return 0
    if num_train is None and not grpo.steps_per_stage and not all(stage.steps for stage in stages):
        return None
    return sum(stage.num_steps(grpo.steps_per_stage, num_train or 0, grpo.prompts_per_step) for stage in stages)


def num_training_samples(config: Config) -> int | None:
    """Rows of the training split; None where the file is not there yet."""
    import pyarrow.parquet as pq

    if config.data.synth is not None:
        return config.data.synth.num_train
    path = config.data.train
    return pq.read_metadata(path).num_rows if path is not None and path.is_file() else None


def refuse_unequal_steps(experiment: Experiment, setting: Setting, overrides: Sequence[str]) -> None:
    """Sees to it that all trainings of an experiment that asks for it take equally many GRPO steps.

    Raises:
        ConfigError: Two differ.
    """
    if not experiment.equal_steps:
        return
    configs = {t.name: setting.configure([*overrides, *t.overrides]) for t in trainings_of(experiment, ())}
    steps = {name: num_grpo_steps(config, num_training_samples(config)) for name, config in configs.items()}
    if len(set(steps.values())) > 1:
        raise ConfigError(
            f"the trainings differ in their number of GRPO steps: {', '.join(f'{n} {s}' for n, s in steps.items())}",
            where=experiment.source,
            remedy="give schedules of equally many stages, or of equally many epochs with grpo.steps_per_stage=0",
        )


def refuse_unknown_phases(experiment: Experiment, setting: Setting) -> None:
    """Sees to it that a row's phase is one of its training, or of the paper's, whose lack the table tells.

    Raises:
        ConfigError: One is of neither.
    """
    of_the_paper = [stage.name for stage in stages_of(PAPER_SCHEDULE)]
    for row in experiment.rows:
        phases = phases_of(setting.configure(row.overrides)) if row.is_trained and row.phase else []
        if row.phase and phases and row.phase not in [*phases, *of_the_paper]:
            raise ConfigError(
                f"row {row.title!r} is about phase {row.phase}, which its training does not have",
                where=experiment.title,
                remedy=f"choose of {', '.join(phases)}, or leave `phase` out for the last",
            )


def is_finished(folder: Path) -> bool:
    """Whether a run directory holds a whole training, answers and report included."""
    config = config_of(folder)
    if config is None or not (folder / "report.html").is_file():
        return False
    return is_answered(RunDirectory(folder), stages_of(config.grpo.schedule))


def is_done(folder: Path, config: Config) -> bool:
    """Whether a run directory holds a whole training by a configuration."""
    return is_finished(folder) and config_of(folder) == with_own_schedule(folder, config)


def state_without(phase: str) -> str:
    """Of a row whose training goes by a schedule that lacks a phase."""
    return f"this training has no phase {phase}"


def state_of(training: Training, out: Path) -> str:
    """How far a training has come, in words."""
    folder = training.folder(out)
    config = config_of(folder)
    if config is None:
        return "not begun"
    if is_finished(folder):
        return "finished"
    done = [name for name in phases_of(config) if RunDirectory(folder).predictions(name).exists()]
    return f"answered after {', '.join(done)}" if done else "begun"


def before_grpo(config: Config) -> tuple[Hashable, ...]:
    """What decides the SFT and the answers before GRPO."""
    return (config.seed, config.model, config.data, config.sft, config.evaluate)


def are_equal_before_grpo(before: Config, now: Config) -> bool:
    """Whether two configurations come to the same SFT and the same answers before GRPO."""
    return before_grpo(before) == before_grpo(now)
