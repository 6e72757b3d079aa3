"""A sweep from its file to its table: data, the SFTs that trials share, trials, results after each of them.

    DIR/config.yaml data/ configs/ trials/ logs/ failures/    see trials.py
    DIR/sweep.md .tex .csv .json .html best.yaml              see results.py

The same call goes on where it was. A trial that fails is told in the table, and the others go on.
"""

import statistics
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from fxray.config.load import dump_config
from fxray.errors import FxrayError
from fxray.events import Note, OnEvent, PhaseStarted, Step, ignore
from fxray.experiments.data import prepare_splits, split_overrides
from fxray.experiments.trainings import num_grpo_steps, num_training_samples
from fxray.experiments.work import take_over_sft
from fxray.files import make_folder, write_atomically
from fxray.launch.apart import LEAVING_S, Surroundings, run_process
from fxray.launch.calibration import refuse_test_images
from fxray.launch.demand import refuse_shared_machine
from fxray.launch.lease import await_leaving, hold
from fxray.launch.phases import SFT
from fxray.launch.run import GO_ON, adopt_config, refuse_changed
from fxray.sweep.engine import run_rounds
from fxray.sweep.file import Sweep, SweepFile
from fxray.sweep.measure import metric_after
from fxray.sweep.results import Base, Result, write_sweep
from fxray.sweep.trials import (
    Trial,
    failure_file,
    failure_of,
    read_stopped,
    reading,
    shared_sfts,
    state_of,
    told,
    trials_of,
    write_stopped,
)
from fxray.sweep.units import Halving, Listener, Round, Unit


class Train(Protocol):
    """The port to what trains; tests put fakes in. Called in processes of Ray's; what is there is not done again."""

    def __call__(self, trial: Trial, phase: str, out: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """A trial before it is worked on: how far it is, and its GRPO steps as far as they are known."""

    name: str
    title: str
    seed: int
    state: str
    num_steps: int | None


def plan(file: SweepFile, base: Base, on_event: OnEvent = ignore) -> list[PlannedTrial]:
    """What a sweep would do; nothing is written.

    Args:
        file: The sweep.
        base: Configuration and folder.
        on_event: Told of the progress.

    Raises:
        ConfigError: A trial cannot run, or the folder is of another configuration.
    """
    trials = trials_of(file, base.configure, on_event)
    refuse_changed(base.out, base.configure([], {}), GO_ON)
    stopped = _stopped(file.sweep, trials, base.out)
    return [
        PlannedTrial(
            trial.name,
            trial.setting.title,
            trial.seed,
            state_of(trial, base.out, stopped) or "finished",
            num_grpo_steps(trial.config, num_training_samples(trial.config), trial.phase),
        )
        for trial in trials
    ]


def sweep(
    file: SweepFile,
    base: Base,
    *,
    max_concurrent: int = 1,
    on_event: OnEvent = ignore,
    train: Train | None = None,
    run: Callable[..., None] = run_rounds,
) -> Result:
    """Trains what is missing of a sweep, and writes its table after every trial.

    Args:
        file: The sweep.
        base: Configuration and folder.
        max_concurrent: Trials at once; with ASHA settings, whose seeds follow each other.
        on_event: Told of the progress.
        train: What trains; by default `fxray trial`, in processes of their own.
        run: What runs the rounds: Ray Tune, or one after the other in a test.

    Raises:
        ConfigError: A trial cannot run, or not so many at once, or the folder is of another configuration.
        DataError: The data cannot be read or made, or the validation split shares images with the test split.
        FxrayError: Another process works on the folder.
        ResourceError: The disk is full or not writable, or Ray cannot be started.
    """
    config, out = base.configure([], {}), base.out
    trials = trials_of(file, base.configure, on_event)  # what is wrong with any is told before anything is made
    refuse_shared_machine(config, max_concurrent)
    train = train or partial(train_apart, surroundings=Surroundings())
    make_folder(out)
    with hold(out):
        adopt_config(out, config, GO_ON)
        splits = prepare_splits(config, out, on_event)
        refuse_test_images(splits.validation, splits.test)
        if shared := split_overrides(config, out):
            trials = reading(trials, base.configure(shared, {}).data)
        for trial in trials:
            refuse_changed(trial.run(out).root, trial.config, GO_ON)
        for trial in told(trials, "write configurations", on_event):
            write_atomically(out / "configs" / f"{trial.name}.yaml", dump_config(trial.config))
            failure_file(trial, out).unlink(missing_ok=True)
        stopped = _stopped(file.sweep, trials, out)

        def finish(unit: Unit, is_stopped: bool) -> None:
            if is_stopped and not all(trial.is_answered(out, trial.phase) for trial in unit.trials):
                stopped[unit.trials[0].setting.name] = _phase_of(unit, out)
                write_stopped(out, stopped)
            write_sweep(file, base, trials, stopped, has_figure=False)

        write_sweep(file, base, trials, stopped, has_figure=False)  # what lies there may be of another sweep
        with _leaving_in_order(trials, out, on_event):
            run(
                _rounds(file.sweep, trials, stopped, out, partial(_listener, file.sweep, out, finish, on_event)),
                partial(_advance, train=train, out=out),
                partial(_mean_after, metric=file.sweep.metric, out=out),
                max_concurrent=max_concurrent,
                ray_config=config.ray,
                folder=out / ".tune",
            )
        return write_sweep(file, base, trials, stopped, has_figure=True)


@contextmanager
def _leaving_in_order(trials: Sequence[Trial], out: Path, on_event: OnEvent) -> Iterator[None]:
    """Where the block ends before its trials do, as by a signal, these are given the time to say so in their runs."""
    try:
        yield
    except BaseException:
        for root in await_leaving([trial.run(out).root for trial in trials], LEAVING_S):
            on_event(Note(f"{root.name} has not ended within {LEAVING_S:.0f} s", is_warning=True))
        raise


def train_apart(trial: Trial, phase: str, out: Path, surroundings: Surroundings) -> None:
    """Brings a trial to a phase: by another trial's SFT, and by `fxray trial` in a process of its own.

    Raises:
        WorkerDiedError: It failed.
        DeadlineError: It hangs.
    """
    config, run_dir = out / "configs" / f"{trial.name}.yaml", trial.run(out).root
    take_over_sft(run_dir, trial.config, ignore)
    if trial.is_answered(out, phase):
        return
    command = ["trial", str(config.resolve()), str(run_dir.resolve()), phase]
    run_process(command, run_dir, out / "logs" / f"{trial.name}.log", surroundings)


def _rounds(
    sweep: Sweep,
    trials: Sequence[Trial],
    stopped: Mapping[str, str],
    out: Path,
    listen: Callable[[str, Sequence[Unit]], Listener],
) -> Iterator[Round]:
    """First the SFTs that several trials share, each once; then all trials that lack something."""
    sfts = tuple(Unit(trial.name, (trial,), (SFT,)) for trial in shared_sfts(trials, out))
    yield Round(sfts, listen("shared SFT", sfts))
    if sweep.scheduler == "none":
        units = [Unit(t.name, (t,), (t.phase,)) for t in trials if not t.is_answered(out, t.phase)]
        yield Round(tuple(units), listen("sweep", units))
        return
    by_setting: dict[str, list[Trial]] = {}
    for trial in trials:
        by_setting.setdefault(trial.setting.name, []).append(trial)
    units = []
    for name, own in by_setting.items():
        phases = own[0].phases
        known = phases[: phases.index(stopped[name]) + 1] if name in stopped else phases
        units.append(Unit(name, tuple(own), tuple(known)))
    if not all(trial.is_answered(out, unit.phases[-1]) for unit in units for trial in unit.trials):
        num_phases = max(len(trial.phases) for trial in trials)
        halving = Halving(sweep.mode, num_phases, sweep.min_phases, sweep.reduction_factor)
        yield Round(tuple(units), listen("sweep", units), halving)


def _listener(
    sweep: Sweep,
    out: Path,
    finish: Callable[[Unit, bool], None],
    on_event: OnEvent,
    phase: str,
    units: Sequence[Unit],
) -> Listener:
    """Tells of the units of a round: their values, their ends, and how many are left."""
    ended: list[str] = []
    if units:
        on_event(PhaseStarted(phase, len(units)))

    def end(unit: Unit, is_stopped: bool) -> None:
        finish(unit, is_stopped)
        ended.append(unit.name)
        on_event(Step(phase, len(ended), len(units)))

    def tell(unit: Unit, after: str, value: float) -> None:
        on_event(Note(f"{unit.name}: {sweep.metric} {value:.3f} after {after}, validation split"))

    def done(unit: Unit, is_stopped: bool) -> None:
        if is_stopped:
            on_event(Note(f"{unit.name}: stopped, others are further ahead"))
        end(unit, is_stopped)

    def fail(unit: Unit, reason: str) -> None:
        lacking = [trial for trial in unit.trials if not trial.is_answered(out, unit.phases[-1])]
        told = [trial for trial in lacking if failure_of(trial, out)]
        if lacking and not told:  # its process in Ray ended, so nobody was left to tell
            told = lacking[:1]
            write_atomically(failure_file(told[0], out), f"{' '.join(reason.split())[-200:]}\n{reason}")
        if not told:
            on_event(Note(f"{unit.name}: {' '.join(reason.split())[-200:]}", is_warning=True))
        for trial in told:
            reason, file = failure_of(trial, out), failure_file(trial, out)
            on_event(Note(f"{trial.name} failed: {reason} ({file})", is_warning=True))
        end(unit, False)

    return Listener(tell, done, fail)


def _advance(trial: Trial, phase: str, train: Train, out: Path) -> None:
    """Brings a trial to a phase, unless it is there; keeps the reason where it fails."""
    if trial.is_answered(out, phase):
        return
    try:
        train(trial, phase, out)
        if not trial.is_answered(out, phase):
            raise FxrayError(f"ended well, and has not answered after {phase}", where=trial.name)
    except Exception as error:
        message = error.message if isinstance(error, FxrayError) else f"{type(error).__name__}: {error}"
        text = "".join(traceback.format_exception(error))
        write_atomically(failure_file(trial, out), f"{' '.join(message.split())}\n{text}")
        raise
    failure_file(trial, out).unlink(missing_ok=True)


def _mean_after(unit: Unit, phase: str, metric: str, out: Path) -> float:
    return statistics.mean(metric_after(trial, out, phase, metric) for trial in unit.trials)


def _phase_of(unit: Unit, out: Path) -> str:
    """The last phase that all trials of a unit have answered after."""
    return [phase for phase in unit.phases if all(trial.is_answered(out, phase) for trial in unit.trials)][-1]


def _stopped(sweep: Sweep, trials: Sequence[Trial], out: Path) -> dict[str, str]:
    """What was stopped for good; without a scheduler, everything is trained."""
    return read_stopped(out, trials) if sweep.scheduler == "asha" else {}
