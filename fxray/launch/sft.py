"""The SFT phase of a run."""

from pathlib import Path

from fxray.config.tree import Config
from fxray.events import OnEvent, PhaseDone, Step
from fxray.launch.data import Splits
from fxray.launch.run import RunDirectory
from fxray.metrics import MetricsLog
from fxray.sft.job import PHASE, run_sft
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
        lora_rank=model.lora.rank,
        lora_alpha=model.lora.alpha,
        lora_dropout=model.lora.dropout,
        gradient_checkpointing=model.gradient_checkpointing,
        gpus_per_worker=config.learner.gpus_per_rank,
        threads=config.learner.threads,
        templates=config.data.templates,
        on_corrupt_image=config.data.on_corrupt_image,
        seed=config.seed,
        **sft.model_dump(),
    )


def train_sft(config: Config, run: RunDirectory, model_path: Path, splits: Splits, on_event: OnEvent) -> None:
    """Trains the SFT adapter, or goes on with it, or finds it done. Ray is up.

    Raises:
        FxrayError: As `run_sft` says.
    """
    if run.sft_adapter.is_dir():
        return
    log = MetricsLog(run.root)
    last_step = -1

    def record(event: object) -> None:
        nonlocal last_step
        if isinstance(event, Step):
            if event.step <= last_step or last_step < 0:
                log.rewind(PHASE, event.step - 1)
            log.log(PHASE, event.step, event.metrics)
            last_step = event.step
        on_event(event)  # type: ignore[arg-type]

    run_sft(sft_settings(config, model_path, splits.train), run_dir=run.root, on_event=record)
    on_event(PhaseDone(PHASE, 0.0, f"adapter in {run.sft_adapter}"))
