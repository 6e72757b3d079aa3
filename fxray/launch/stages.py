"""The GRPO stages of a run: each starts from the one before, or from its own last checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fxray.checkpoints import CheckpointState, latest, read_state, retain, save_checkpoint, step_dir
from fxray.config.schedule import Stage
from fxray.errors import CheckpointError
from fxray.events import PhaseStarted, Step
from fxray.grpo.loop import Cursor, run_stage
from fxray.grpo.ports import Learner
from fxray.grpo.types import AdapterBlob
from fxray.launch.fleet import Fleet, read_adapter, write_adapter
from fxray.launch.plan import plan_stage
from fxray.launch.session import Session
from fxray.metrics import MetricsLog
from fxray.model.load import base_fingerprint

PAST = "past"
"""Folder of a checkpoint with older policies, each in PEFT layout below its version: see `grpo.max_staleness`."""


def train_stage(session: Session, fleet: Fleet, stage: Stage) -> None:
    """Trains one stage, or goes on with it, or finds it done.

    Raises:
        CheckpointError: The phase before it is not done, or a checkpoint is damaged or of another model.
        FxrayError: As `run_stage` and the actors say.
    """
    stage_dir = session.run.stage_dir(stage.name)
    if (stage_dir / "final").is_dir():
        return
    plan = plan_stage(session.config, stage, num_samples=len(fleet.training))
    cursor = _resume(session, fleet.learner, stage)
    log = MetricsLog(session.run.root)
    log.rewind(stage.name, cursor.step)
    session.on_event(PhaseStarted(stage.name, plan.num_steps, cursor.step))
    fingerprint = base_fingerprint(session.model_path)

    def checkpoint(path: Path, cursor: Cursor, past: Sequence[AdapterBlob] = ()) -> None:
        def write(folder: Path) -> None:
            fleet.learner.save(folder)
            for adapter in past:
                write_adapter(adapter, folder / PAST / str(adapter.version))

        save_checkpoint(path, CheckpointState(**asdict(cursor), base_fingerprint=fingerprint), write)

    def observe(cursor: Cursor, metrics: dict[str, float]) -> None:
        fleet.observe(metrics)
        metrics |= fleet.counters()
        log.log(stage.name, cursor.step, metrics)
        session.on_event(Step(stage.name, cursor.step, plan.num_steps, metrics))

    def save(cursor: Cursor, past: Sequence[AdapterBlob]) -> None:
        if cursor.step % session.config.checkpoint.every_steps == 0 and cursor.step < plan.num_steps:
            checkpoint(step_dir(stage_dir, cursor.step), cursor, past)
            retain(stage_dir, session.config.checkpoint.keep_last)

    with session.phase(stage.name, str(session.run.stage_adapter(stage.name))):
        cursor = run_stage(
            plan,
            cursor,
            fleet.ports,
            draw=lambda step: fleet.training_prompts.of_step(stage.name, step),
            observe=observe,
            save=save,
            past=_read_past(stage_dir),
        )
        checkpoint(stage_dir / "final", cursor)


def _read_past(stage_dir: Path) -> list[AdapterBlob]:
    """The older policies that the steps after the newest checkpoint are drawn from."""
    newest = latest(stage_dir)
    folders = (newest / PAST).iterdir() if newest is not None and (newest / PAST).is_dir() else []
    return sorted((read_adapter(folder, int(folder.name)) for folder in folders), key=lambda each: each.version)


def stage_version(session: Session, name: str) -> int:
    """Policy version of the adapter that a finished stage ended with."""
    path = session.run.stage_dir(name) / "final"
    return read_state(path, base_fingerprint(session.model_path)).policy_version


def _resume(session: Session, learner: Learner, stage: Stage) -> Cursor:
    """Brings the learner to where the stage goes on, or starts."""
    fingerprint = base_fingerprint(session.model_path)
    newest = latest(session.run.stage_dir(stage.name))
    if newest is not None:
        state = read_state(newest, fingerprint)
        learner.load(newest)
        return Cursor(stage.name, state.step, state.policy_version)
    index = session.stages.index(stage)
    if index == 0:
        return Cursor(stage.name, 0, 0)
    previous = session.run.stage_dir(session.stages[index - 1].name) / "final"
    if not previous.is_dir():
        raise CheckpointError(
            f"stage {stage.name} starts from stage {session.stages[index - 1].name}, which is not done",
            where=str(previous),
            remedy=f"run `fxray grpo --stage {session.stages[index - 1].name}` first, or `fxray train` for all",
        )
    state = read_state(previous, fingerprint)
    learner.load(previous)
    learner.reset_optimizer()
    if (stage.reference or session.config.grpo.reference) == "previous-stage":
        learner.set_reference()
    return Cursor(stage.name, 0, state.policy_version)
