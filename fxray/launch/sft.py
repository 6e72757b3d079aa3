"""The SFT phase of a run."""

import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from actors.placement import LEARNER, node_share
from fxray.config.tree import Config
from fxray.counts import counted
from fxray.events import Event, Note, Step
from fxray.grammar.prompts import template_warning
from fxray.launch.evaluation import rows_to_answer
from fxray.launch.session import Session
from fxray.metrics import MetricsLog
from fxray.sft.job import PHASE, clear_attempts, run_sft
from fxray.sft.settings import SftSettings


def sft_settings(config: Config, model_path: Path, train: Path) -> SftSettings:
    """The plain values of the SFT job."""
    model, sft = config.model, config.sft
    return SftSettings(
        model_path=str(model_path),
        dataset_path=str(train),
        dtype=model.dtype,
        min_pixels=model.min_pixels,
        max_pixels=model.max_pixels,
        lora_rank=model.lora_rank,
        lora_alpha=model.lora.alpha if model.lora else 0.0,
        lora_dropout=model.lora.dropout if model.lora else 0.0,
        gradient_checkpointing=model.gradient_checkpointing,
        gpus_per_worker=math.ceil(config.learner.gpus_per_rank),  # no engine runs beside it
        node_resources=node_share(LEARNER if config.ray.use_node_types else ""),
        threads=config.learner.threads,
        start_deadline_s=config.learner.start_deadline_s,
        step_deadline_s=config.learner.step_deadline_s,
        templates=config.data.templates,
        view=config.data.view,
        region_order=config.data.region_order,
        on_corrupt_image=config.data.on_corrupt_image,
        seed=config.seed,
        **sft.model_dump(),
    )


def train_sft(session: Session) -> None:
    """Trains the SFT adapter, or goes on with it, or finds it done.

    Raises:
        DataError: Answers cannot be learnt, said before anything is made.
        FxrayError: As `run_sft` says.
    """
    from fxray.sft.answers import refuse_unlearnable  # imports transformers

    run = session.run
    if run.sft_adapter.is_dir():
        clear_attempts(run.root)
        return
    if warning := template_warning(session.config.data.templates):
        session.on_event(Note(warning, is_warning=True))
    log, is_first = MetricsLog(run.root), True

    def record(event: Event) -> None:
        nonlocal is_first
        if isinstance(event, Step):
            if is_first:
                log.rewind(PHASE, event.step - 1)
            is_first = False
            log.log(PHASE, event.step, event.metrics)
        session.on_event(event)

    settings = sft_settings(session.config, session.model_path, session.splits.train)
    refuse_unlearnable(session.splits.open(session.splits.train), settings, session.on_event)
    settings = _with_validation(settings, session)
    with closing(log), session.phase(PHASE, str(run.sft_adapter)):
        run_sft(settings, run_dir=run.root, on_event=record)


def _with_validation(settings: SftSettings, session: Session) -> SftSettings:
    """The job with images of the validation split whose loss it measures on its way, if it is to."""
    from fxray.sft.answers import learnable_rows

    evaluate = session.config.evaluate
    if evaluate.validate_every_steps == 0:
        return settings
    path = session.splits.validation
    dataset = session.splits.open(path)
    rows = rows_to_answer(len(dataset), evaluate.validation_samples)
    kept = learnable_rows(dataset, rows, settings)
    if len(kept) < len(rows):
        lost = counted(len(rows) - len(kept), "sample", "samples")
        session.on_event(Note(f"validation on the way leaves out {lost} of {path.name} whose answers cannot be taught"))
    return replace(
        settings,
        validation_path=str(path),
        validation_rows=tuple(kept),
        validate_every_steps=evaluate.validate_every_steps,
    )
