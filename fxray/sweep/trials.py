"""Which trainings a sweep consists of, whether each can run, and how far each has come.

DIR/config.yaml data/                 what all trials share
DIR/configs/<trial>.yaml              the whole configuration of a trial
DIR/trials/<trial>/                   its run directory
DIR/logs/<trial>.log                  what it says while it works
DIR/failures/<trial>.txt stopped.json why it has no result
"""

import itertools
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from fxray.config.document import Document
from fxray.config.limits import check
from fxray.config.problem import refuse
from fxray.config.tree import Config, DataConfig
from fxray.errors import CheckpointError, ConfigError, ModelError
from fxray.evaluate.captions import can_score_captions
from fxray.evaluate.scores import METRICS
from fxray.events import Note, OnEvent, PhaseStarted, Step, ignore
from fxray.experiments.data import NAMES
from fxray.experiments.trainings import before_grpo, phases_of
from fxray.files import write_atomically
from fxray.grammar.views import VIEWS
from fxray.launch.base_model import look_at_base
from fxray.launch.phases import NO_FT, SFT
from fxray.launch.run import RunDirectory
from fxray.sweep.file import Setting, SweepFile, settings_of
from rewards.custom import load_reward

Configure = Callable[[Sequence[str], Document], Config]
"""The configuration with further overrides, and fields of a file above them."""
NEEDS = {
    "boxes": (
        *("iou", "matched_iou", "boxes_per_image", "hallucination", "boxes_per_real_image"),
        *(metric for metric in METRICS if metric.startswith("box_ap")),
    ),
    "captions": ("bleu", "rouge_l"),
    "tags": ("tag_f1",),
}
"""Metrics by the part of an answer that they are about; the others are about its verdict or its form."""
STOPPED = "stopped.json"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trial:
    """A setting with a seed: one run directory.

    Attributes:
        name: Of its folder.
        setting: Values of the fields.
        seed: Of the run.
        config: The whole configuration.
        phase: After which it is measured.
    """

    name: str
    setting: Setting
    seed: int
    config: Config
    phase: str

    @property
    def phases(self) -> list[str]:
        """SFT and the stages, up to the one that is measured."""
        names = [phase for phase in phases_of(self.config) if phase != NO_FT]
        return names[: names.index(self.phase) + 1]

    def run(self, out: Path) -> RunDirectory:
        """Its run directory."""
        return RunDirectory(out / "trials" / self.name)

    def is_answered(self, out: Path, phase: str) -> bool:
        """Whether all phases up to one have answered the validation split."""
        names = self.phases[: self.phases.index(phase) + 1]
        return all(self.run(out).predictions(name, "validation").exists() for name in names)


def trials_of(file: SweepFile, configure: Configure, on_event: OnEvent = ignore) -> list[Trial]:
    """Every trial of a sweep, checked as `fxray config check` does.

    Args:
        file: The sweep.
        configure: Makes configurations.
        on_event: Told of the progress.

    Raises:
        ConfigError: One cannot run, has not what is looked at, or is another one once more; it names the trial.
    """
    trials, names, notes = [], dict[str, str](), dict[str, str]()
    for setting, seed in told(list(itertools.product(settings_of(file), file.sweep.seeds)), "check", on_event):
        name = f"{setting.name}+seed-{seed}"
        where = f"{file.path}, trial {name}"
        try:
            config = configure([f"seed={seed}"], setting.document)
            refuse(check(config), where=where)
            for function in config.reward.functions:
                load_reward(function.path)
            if config.model.path not in notes:
                notes[config.model.path] = look_at_base(config.model.path)
            phases = [phase for phase in phases_of(config) if phase != NO_FT]
        except ModelError as error:
            raise ConfigError(f"model.path {error.where}: {error.message}", where=where, remedy=error.remedy) from error
        except ConfigError as error:
            what = f"{error.where}: {error.message}" if error.where else error.message
            raise ConfigError(what, where=where, remedy=error.remedy) from error
        if (same := names.setdefault(config.model_dump_json(), name)) != name:
            raise ConfigError(f"comes to the same as {same}", where=where, remedy="leave one of the values out")
        phase = file.sweep.phase or phases[-1]
        _refuse_what_is_not_measured(file, config, phase, phases, where)
        trials.append(Trial(name, setting, seed, config, phase))
    for note in filter(None, notes.values()):
        on_event(Note(note))
    return trials


def told(items: Sequence[T], phase: str, on_event: OnEvent) -> Iterator[T]:
    """The items, each a step of a phase once whoever takes it is done with it."""
    on_event(PhaseStarted(phase, len(items)))
    for number, item in enumerate(items, start=1):
        yield item
        on_event(Step(phase, number, len(items)))


def reading(trials: Sequence[Trial], splits: DataConfig) -> list[Trial]:
    """The trials, each with its own settings of the data and the files of the splits that all share."""
    files = {name: getattr(splits, name) for name in ("synth", *NAMES)}
    data = [trial.config.data.model_copy(update=files) for trial in trials]
    return [
        replace(trial, config=trial.config.model_copy(update={"data": own}))
        for trial, own in zip(trials, data, strict=True)
    ]


def shared_sfts(trials: Sequence[Trial], out: Path) -> list[Trial]:
    """One trial for each SFT that several share and none has done: it goes first, and the others take its SFT over."""
    groups: dict[Hashable, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(before_grpo(trial.config), []).append(trial)
    lacking = [g for g in groups.values() if len(g) > 1 and not any(trial.is_answered(out, SFT) for trial in g)]
    return [next((trial for trial in g if trial.run(out).root.is_dir()), g[0]) for g in lacking]


def state_of(trial: Trial, out: Path, stopped: Mapping[str, str]) -> str:
    """How far a trial has come, in words; empty where all is there.

    Args:
        trial: The trial.
        out: Folder of the sweep.
        stopped: Phases after which settings were stopped, by their names.
    """
    if trial.is_answered(out, trial.phase):
        return ""
    if reason := failure_of(trial, out):
        return f"failed: {reason}"
    if trial.setting.name in stopped:
        return f"stopped after {stopped[trial.setting.name]}"
    done = [phase for phase in trial.phases if trial.is_answered(out, phase)]
    if done:
        return f"answered after {', '.join(done)}"
    return "begun" if trial.run(out).root.is_dir() else "not begun"


def failure_file(trial: Trial, out: Path) -> Path:
    """Where the reason lies why a trial failed."""
    return out / "failures" / f"{trial.name}.txt"


def failure_of(trial: Trial, out: Path) -> str:
    """Why a trial failed, in one line; empty where it did not."""
    file = failure_file(trial, out)
    return file.read_text("utf-8").partition("\n")[0][:200] if file.is_file() else ""


def read_stopped(out: Path, trials: Sequence[Trial]) -> dict[str, str]:
    """Phases after which settings were stopped for good, by their names; those of other sweeps are left out.

    Raises:
        CheckpointError: The file is damaged.
    """
    file = out / STOPPED
    try:
        found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        if not isinstance(found, dict):
            raise ValueError(f"expected an object, got {type(found).__name__}")
    except ValueError as error:
        remedy = "delete it: what it says is decided anew, from the trials as they are"
        raise CheckpointError(f"is damaged: {error}", where=str(file), remedy=remedy) from error
    phases = {trial.setting.name: trial.phases for trial in trials}
    return {name: phase for name, phase in found.items() if phase in phases.get(name, [])}


def write_stopped(out: Path, stopped: Mapping[str, str]) -> None:
    """Keeps what was decided: the same call later does not decide again."""
    write_atomically(out / STOPPED, json.dumps(dict(stopped), indent=2) + "\n")


def _refuse_what_is_not_measured(
    file: SweepFile, config: Config, phase: str, phases: Sequence[str], where: str
) -> None:
    metric = file.sweep.metric
    if phase not in phases:
        raise ConfigError(
            f"`phase` is {phase}, and this trial has none of that name",
            where=where,
            remedy=f"choose of {', '.join(phases)}, or leave `phase` out for the last",
        )
    view = VIEWS[config.data.view]
    has = {"boxes": view.has_regions, "captions": view.has_regions and view.has_captions, "tags": view.has_tags}
    cannot = {
        each: f"answers have no {part} with data.view = {config.data.view}"
        for part, metrics in NEEDS.items()
        for each in metrics
        if not has[part]
    }
    if not can_score_captions():
        cannot |= dict.fromkeys(NEEDS["captions"], "captions are scored with `pip install 'fxray[captions]'`")
    if metric in cannot:
        raise ConfigError(
            f"`metric` is {metric}, and {cannot[metric]}",
            where=where,
            remedy=f"look at one of {', '.join(name for name in METRICS if name not in cannot)}",
        )
