"""The GRPO stages of a run: each starts from the one before, or from its own last checkpoint.

A learner that is lost is started again and goes on from there too: what a step draws is a function of (seed, stage,
step) alone, so the steps that are taken again end where they ended the first time.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import get_args

from fxray.checkpoints import (
    CheckpointState,
    checkpoints,
    latest,
    newest_sound,
    read_state,
    retain,
    save_checkpoint,
    step_dir,
)
from fxray.config.schedule import Stage
from fxray.errors import CheckpointError, LearnerLostError
from fxray.events import Note, PhaseStarted, Step
from fxray.grpo.collapse import CollapseWatch
from fxray.grpo.loop import Cursor, run_stage
from fxray.grpo.ports import Learner
from fxray.grpo.types import PolicyBlob, Validation
from fxray.launch.evaluation import rows_to_answer
from fxray.launch.fleet import Fleet, read_policy, write_policy
from fxray.launch.plan import greedy, plan_stage
from fxray.launch.run import Split
from fxray.launch.session import Session
from fxray.metrics import MetricsLog
from fxray.model.folder import base_fingerprint

PAST = "past"
"""Folder of a checkpoint with older policies, each below its version: see `grpo.max_staleness`."""


def train_stage(session: Session, fleet: Fleet, stage: Stage) -> None:
    """Trains one stage, or goes on with it, or finds it done.

    Raises:
        CheckpointError: The phase before it is not done, or no checkpoint is whole, or one is of another model.
        WorkerDiedError: The learner was lost more often than the failure budget allows.
        FxrayError: As `run_stage` and the actors say.
    """
    stage_dir = session.run.stage_dir(stage.name)
    newest = _newest(session, stage.name)
    if newest is None or newest[0] != stage_dir / "final":
        _train(session, fleet, stage)
    if session.config.model.lora is None:  # sixteen bytes a weight, each
        retain(stage_dir, 0)


def _train(session: Session, fleet: Fleet, stage: Stage) -> None:
    stage_dir, adapter = session.run.stage_dir(stage.name), str(session.run.stage_adapter(stage.name))
    with closing(MetricsLog(session.run.root)) as log, session.phase(stage.name, adapter):
        while not (stage_dir / "final").is_dir():
            try:
                _go_on(session, fleet, stage, log)
            except LearnerLostError as error:
                fleet.drop_learner(error)
                session.on_event(Note(f"the learner is started again: {error}", is_warning=True))


def _go_on(session: Session, fleet: Fleet, stage: Stage, log: MetricsLog) -> None:
    """Trains a stage from its newest checkpoint to its end.

    Raises:
        LearnerLostError: A rank died or hangs.
    """
    stage_dir = session.run.stage_dir(stage.name)
    plan = plan_stage(session.config, stage, num_samples=len(fleet.training_prompts))
    cursor = _resume(session, fleet.learner, stage)
    log.rewind(stage.name, cursor.step)
    session.on_event(PhaseStarted(stage.name, plan.num_steps, cursor.step))
    fingerprint, watch = base_fingerprint(session.model_path), CollapseWatch()

    def checkpoint(path: Path, cursor: Cursor, past: Sequence[PolicyBlob] = ()) -> None:
        def write(folder: Path) -> None:
            fleet.learner.save(folder)
            for policy in past:
                write_policy(policy, folder / PAST / str(policy.version))

        save_checkpoint(path, CheckpointState(**asdict(cursor), base_fingerprint=fingerprint), write)

    def observe(cursor: Cursor, metrics: dict[str, float]) -> None:
        fleet.observe(metrics)
        metrics |= fleet.counters()
        log.log(stage.name, cursor.step, metrics)
        session.on_event(Step(stage.name, cursor.step, plan.num_steps, metrics))
        for text in watch.look(metrics):
            session.on_event(Note(f"{stage.name}, step {cursor.step}: {text}", is_warning=True))

    def save(cursor: Cursor, past: Sequence[PolicyBlob]) -> None:
        if cursor.step % session.config.checkpoint.every_steps == 0 and cursor.step < plan.num_steps:
            checkpoint(step_dir(stage_dir, cursor.step), cursor, past)
            retain(stage_dir, session.config.checkpoint.keep_last)

    cursor = run_stage(
        plan,
        cursor,
        fleet.ports,
        draw=lambda step: fleet.training_prompts.of_step(stage.name, step),
        observe=observe,
        save=save,
        past=_read_past(stage_dir),
        validation=_validation(session, fleet),
    )
    if (eta := session.config.grpo.liti_eta) < 1:
        fleet.learner.interpolate(eta)
        cursor = replace(cursor, policy_version=cursor.policy_version + 1)
    for split in get_args(Split):  # of a former end of this stage, which was damaged
        session.run.predictions(stage.name, split).unlink(missing_ok=True)
    checkpoint(stage_dir / "final", cursor)


def _validation(session: Session, fleet: Fleet) -> Validation | None:
    """The images of the validation split that stages answer on their way, if they are to."""
    evaluate = session.config.evaluate
    if evaluate.validate_every_steps == 0:
        return None
    prompts, size = fleet.prompts_of(session.splits.validation), fleet.batch_size
    rows = rows_to_answer(len(prompts), evaluate.validation_samples)
    return Validation(
        evaluate.validate_every_steps,
        replace(greedy(session.config), asks_probability=False),
        lambda: (prompts.of_rows(rows[start : start + size]) for start in range(0, len(rows), size)),
    )


def check_stage_before(session: Session, stage: Stage) -> None:
    """Returns when a stage has something to start from, as far as folders tell.

    Raises:
        CheckpointError: The phase before it is not done.
    """
    if not session.run.sft_adapter.is_dir():
        raise CheckpointError("SFT is not done", where=str(session.run.sft_dir), remedy="run `fxray sft` first")
    index = session.stages.index(stage)
    if index == 0 or latest(session.run.stage_dir(stage.name)) is not None:
        return
    name = session.stages[index - 1].name
    if not (session.run.stage_dir(name) / "final").is_dir():
        raise _not_done(session, stage, name)


def _not_done(session: Session, stage: Stage, name: str) -> CheckpointError:
    return CheckpointError(
        f"stage {stage.name} starts from stage {name}, which is not done",
        where=str(session.run.stage_dir(name) / "final"),
        remedy=f"run `fxray grpo --stage {name}` first, or `fxray train` for all",
    )


def _read_past(stage_dir: Path) -> list[PolicyBlob]:
    """The older policies that the steps after the newest checkpoint are drawn from."""
    newest = latest(stage_dir)
    folders = (newest / PAST).iterdir() if newest is not None and (newest / PAST).is_dir() else []
    return sorted((read_policy(folder, int(folder.name)) for folder in folders), key=lambda each: each.version)


def stage_version(session: Session, name: str) -> int:
    """Version of the policy that a finished stage ended with."""
    path = session.run.stage_dir(name) / "final"
    return read_state(path, base_fingerprint(session.model_path)).policy_version


def _newest(session: Session, name: str) -> tuple[Path, CheckpointState] | None:
    """The furthest whole checkpoint of a stage; damaged ones are told of and put aside."""
    return newest_sound(
        checkpoints(session.run.stage_dir(name)),
        partial(read_state, base_fingerprint=base_fingerprint(session.model_path)),
        lambda text: session.on_event(Note(text, is_warning=True)),
    )


def _resume(session: Session, learner: Learner, stage: Stage) -> Cursor:
    """Brings the learner to where the stage goes on, or starts."""
    newest = _newest(session, stage.name)
    if newest is not None:
        folder, state = newest
        learner.load(folder)
        return Cursor(stage.name, state.step, state.policy_version)
    index = session.stages.index(stage)
    if index == 0:
        return Cursor(stage.name, 0, 0)
    name = session.stages[index - 1].name
    previous = _newest(session, name)
    if previous is None or previous[0].name != "final":
        raise _not_done(session, stage, name)
    folder, state = previous
    learner.load(folder)  # with the reference of the stage before
    learner.reset_optimizer()
    is_sft = (stage.reference or session.config.grpo.reference) == "sft"
    learner.set_reference(session.run.sft_adapter if is_sft else None)
    return Cursor(stage.name, 0, state.policy_version)
