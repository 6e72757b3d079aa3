"""The whole way of a run, and its parts one by one; every part finds out what is done already.

data ─► SFT ─► [No-FT, SFT answer] ─► alpha ─► [answers] ─► beta ─► [answers] ─► gamma ─► [answers] ─► calibration
─► report
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from fxray.checkpoints import CALIBRATION_FILE
from fxray.config.limits import check
from fxray.config.problem import refuse
from fxray.config.schedule import Stage
from fxray.config.tree import Config
from fxray.data.dataset import Dataset
from fxray.errors import CheckpointError, ConfigError, DataError
from fxray.evaluate.calibration import Calibration, open_calibration
from fxray.evaluate.fitting import refuse_too_few, verdict_counts
from fxray.evaluate.predictions import write_predictions
from fxray.events import Note, OnEvent, ignore
from fxray.grammar.views import VIEWS
from fxray.launch.calibration import calibrate_phase, chosen_phase, refuse_test_images, splits_of_finished
from fxray.launch.cluster import ray_cluster
from fxray.launch.data import refuse_missing_images
from fxray.launch.evaluation import answer_split, rows_to_answer
from fxray.launch.fleet import Fleet, open_fleet, open_policies, read_policy
from fxray.launch.plan import greedy
from fxray.launch.prompts import PromptSource
from fxray.launch.run import RunDirectory, Split, open_finished
from fxray.launch.session import Session, num_cpus, open_session
from fxray.launch.sft import train_sft
from fxray.launch.stages import check_stage_before, stage_version, train_stage
from fxray.launch.start import image_fetcher, leave_out
from fxray.model.folder import resolve_model_path
from fxray.report.page import Report, write_report

NO_FT, SFT = "no-ft", "sft"


def train(config: Config, run_dir: Path, on_event: OnEvent = ignore) -> Report:
    """Trains, evaluates and reports; on an existing run directory, what is missing of it.

    Raises:
        FxrayError: What stopped it; the same call goes on from the last checkpoint.
    """
    with open_session(config, run_dir, on_event) as session:
        train_sft(session)
        if not is_answered(session.run, session.stages):
            with open_fleet(session, session.splits.test) as fleet:
                if not all(session.run.stage_adapter(stage.name).is_dir() for stage in session.stages):
                    fleet.hire_learner()
                _answer(session, fleet, NO_FT)
                _answer(session, fleet, SFT)
                for stage in session.stages:
                    train_stage(session, fleet, stage)
                    _answer(session, fleet, stage.name)
                _answer(session, fleet, session.stages[-1].name, "validation")
        _calibrate(session, session.stages[-1].name)
        return write_report(session.run.root)


def train_until(config: Config, run_dir: Path, phase: str, on_event: OnEvent = ignore) -> None:
    """Trains up to a phase, and lets SFT and each stage answer the validation split; the test split stays unasked.

    For choosing settings, which must not be done on the images that the chosen one is reported on. `train` on the same
    run directory does the rest, with the answers to the test split.

    Args:
        config: Of the run.
        run_dir: What is there of it is not done again.
        phase: "sft" or a stage.
        on_event: Told of the progress.

    Raises:
        ConfigError: The schedule has no such stage.
        DataError: The validation split shares images with the test split.
        FxrayError: What stopped it; the same call goes on from the last checkpoint.
    """
    with open_session(config, run_dir, on_event) as session:
        names = [SFT, *(stage.name for stage in session.stages)]
        if phase not in names:
            raise ConfigError(f"there is no phase {phase!r}", where="schedule", remedy=f"choose of {', '.join(names)}")
        refuse_test_images(session.splits.validation, session.splits.test)
        train_sft(session)
        stages = session.stages[: names.index(phase)]
        if all(session.run.predictions(name, "validation").exists() for name in [SFT, *(s.name for s in stages)]):
            return
        with open_fleet(session, session.splits.validation) as fleet:
            if not all(session.run.stage_adapter(stage.name).is_dir() for stage in stages):
                fleet.hire_learner()
            _answer(session, fleet, SFT, "validation")
            for stage in stages:
                train_stage(session, fleet, stage)
                _answer(session, fleet, stage.name, "validation")


def run_sft_phase(config: Config, run_dir: Path, on_event: OnEvent = ignore) -> Path:
    """SFT alone.

    Returns:
        Folder of the adapter, in PEFT layout.
    """
    with open_session(config, run_dir, on_event) as session:
        train_sft(session)
        return session.run.sft_adapter


def run_grpo_stage(config: Config, run_dir: Path, stage_name: str, on_event: OnEvent = ignore) -> Path:
    """One GRPO stage alone, and the answers of the policy that it ends with.

    Returns:
        Folder of the adapter, in PEFT layout.

    Raises:
        ConfigError: The schedule has no such stage.
        CheckpointError: The phase before it is not done.
    """
    with open_session(config, run_dir, on_event) as session:
        stages = {stage.name: stage for stage in session.stages}
        if stage_name not in stages:
            raise ConfigError(
                f"the schedule has no stage {stage_name!r}",
                where="--stage",
                remedy=f"choose one of {', '.join(stages)}",
            )
        check_stage_before(session, stages[stage_name])
        with open_fleet(session, session.splits.test) as fleet:
            fleet.hire_learner()
            train_stage(session, fleet, stages[stage_name])
            _answer(session, fleet, stage_name)
        return session.run.stage_adapter(stage_name)


def evaluate_adapter(config: Config, adapter: Path | None, data: Path, out: Path, on_event: OnEvent = ignore) -> Path:
    """Lets the base model, or an adapter on it, answer a dataset. Needs no run directory.

    Args:
        config: For model, engine and evaluation.
        adapter: Folder in PEFT layout; None for the base model.
        data: Parquet file with the samples.
        out: Predictions file to write.
        on_event: Told of the progress.

    Returns:
        `out`.

    Raises:
        FxrayError: Configuration, data, model or adapter cannot be used, said before anything starts; or why it ended.
    """
    refuse(check(config), where="configuration")
    dataset, model_path = Dataset.open(data), resolve_model_path(config.model.path)
    policy = None if adapter is None else read_policy(adapter, 0)
    rows = rows_to_answer(len(dataset), config.evaluate.num_samples)
    if config.data.on_corrupt_image != "skip":
        refuse_missing_images(dataset, rows, on_event)

    on_bad = partial(leave_out, config=config, on_event=on_event)
    with (
        ray_cluster(config.ray, min_cpus=num_cpus(config)),
        open_policies(config, model_path, on_event) as policies,
    ):
        if policy is not None:
            policies.publisher.publish(policy)
        fetch = image_fetcher(config, data, model_path, on_bad, on_event)
        prompts = PromptSource(dataset, fetch, config, model_path)
        predictions = answer_split(
            policies.generator,
            prompts,
            rows,
            greedy(config),
            batch_size=policies.batch_size,
            view=config.data.view,
            phase="evaluate",
            on_event=on_event,
        )
    write_predictions(predictions, out, has_boxes=VIEWS[config.data.view].has_regions)
    return out


def calibrate(
    run_dir: Path,
    stage: str | None,
    overrides: Sequence[str],
    *,
    max_fpr: float | None,
    max_error: float | None,
    on_event: OnEvent = ignore,
) -> tuple[str, Calibration, Report]:
    """Calibrates a finished phase of a run, and writes its report anew.

    Args:
        run_dir: The run; its validation and test splits are answered first, unless they have been.
        stage: "sft" or a stage; None for the last that is finished.
        overrides: Fields of the configuration, as `--set` of the command line.
        max_fpr: Largest share of real images that may count as generated; None as the configuration says.
        max_error: Largest share of wrong verdicts on either side of the unsure band; likewise.
        on_event: Told of the progress.

    Returns:
        The phase, its calibration, and the report.

    Raises:
        CheckpointError: The phase is not finished.
        ConfigError: An override decides answers.
        FxrayError: Another process works on the run.
        DataError: One of the splits is not there, or the validation split shares images with the test split, or has
            too few.
    """
    splits = splits_of_finished(run_dir, "validation", "test")
    with open_finished(run_dir, overrides) as (config, finished):
        name, run = chosen_phase(list(finished), stage, run_dir), RunDirectory(run_dir)
        validation = refuse_test_images(splits.validation, splits.test)
        max_fpr = config.evaluate.max_fpr if max_fpr is None else max_fpr
        if not run.predictions(name, "validation").exists():
            counts = verdict_counts(validation.samples, rows_to_answer(len(validation), config.evaluate.num_samples))
            refuse_too_few(*counts, max_fpr, splits.validation.name)
        files: dict[Split, Path] = {"validation": splits.validation, "test": splits.test}
        for split, data in files.items():
            answers = run.predictions(name, split)
            if not answers.exists():
                evaluate_adapter(config, finished[name], data, answers, on_event)
        _tell_of_fewer(config, splits.validation, on_event)
        calibration = calibrate_phase(
            config,
            run,
            name,
            splits,
            max_fpr=max_fpr,
            max_error=config.evaluate.max_error if max_error is None else max_error,
        )
        return name, calibration, write_report(run_dir)


def is_answered(run: RunDirectory, stages: Sequence[Stage]) -> bool:
    """Whether every phase of a run has answered the splits that it has to answer."""
    names = [NO_FT, SFT, *(stage.name for stage in stages)]
    answers = [run.predictions(name) for name in names]
    return all(path.exists() for path in [*answers, run.predictions(names[-1], "validation")])


def _calibrate(session: Session, name: str) -> None:
    """Calibrates the last stage, unless it is; too few images are told, for all else of the run is done."""
    if (session.run.adapter(name) / CALIBRATION_FILE).exists():
        with suppress(CheckpointError):  # the report tells of a damaged one
            _warn_of_other_bounds(session, name)
        return
    evaluation = session.config.evaluate
    _tell_of_fewer(session.config, session.splits.validation, session.on_event)
    try:
        fitted = calibrate_phase(
            session.config,
            session.run,
            name,
            session.splits,
            max_fpr=evaluation.max_fpr,
            max_error=evaluation.max_error,
        )
    except DataError as error:
        session.on_event(Note(f"not calibrated: {error.message} ({error.where})", is_warning=True))
        return
    for gap in fitted.never_said:
        remedy = "train longer, or set other bounds with `fxray calibrate`"
        session.on_event(Note(f"{gap}; {remedy}", is_warning=True))


def _tell_of_fewer(config: Config, validation: Path, on_event: OnEvent) -> None:
    """Says so where the configuration has a calibration made on a part of the validation split."""
    num_rows = len(Dataset.open(validation))
    if (num_asked := len(rows_to_answer(num_rows, config.evaluate.num_samples))) < num_rows:
        text = f"calibration sees {num_asked} of the {num_rows} images of the validation split: evaluate.num_samples is"
        on_event(Note(f"{text} {config.evaluate.num_samples}; a run with 0 calibrates on all", is_warning=True))


def _warn_of_other_bounds(session: Session, name: str) -> None:
    """Tells of a calibration that the configuration's bounds have left behind; `fxray calibrate` may have set its own.

    Raises:
        CheckpointError: It cannot be read.
    """
    evaluation, found = session.config.evaluate, open_calibration(session.run.adapter(name))
    if found is not None and (found.max_fpr, found.max_error) != (evaluation.max_fpr, evaluation.max_error):
        text = (
            f"{name} stays calibrated for max_fpr {found.max_fpr:g} and max_error {found.max_error:g}, the "
            f"configuration says {evaluation.max_fpr:g} and {evaluation.max_error:g}; `fxray calibrate` fits anew"
        )
        session.on_event(Note(text, is_warning=True))


def _answer(session: Session, fleet: Fleet, name: str, split: Split = "test") -> None:
    """Lets the policy of a phase answer a split, unless it has."""
    path = session.run.predictions(name, split)
    if path.exists():
        return
    if name == NO_FT:
        fleet.use_base_model()
    elif name == SFT:
        fleet.use_policy(session.run.sft_adapter, 0)
    else:
        fleet.use_policy(session.run.stage_adapter(name), stage_version(session, name))
    prompts = fleet.prompts_of(session.splits.test if split == "test" else session.splits.validation)
    phase = f"evaluate {name}" + (" on validation" if split == "validation" else "")
    with session.phase(phase, str(path)):
        predictions = answer_split(
            fleet.generator,
            prompts,
            rows_to_answer(len(prompts), session.config.evaluate.num_samples),
            greedy(session.config),
            batch_size=fleet.batch_size,
            view=session.config.data.view,
            phase=phase,
            on_event=session.on_event,
        )
        write_predictions(predictions, path, has_boxes=VIEWS[session.config.data.view].has_regions)
