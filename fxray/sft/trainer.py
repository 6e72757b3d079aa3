"""The Ray Train side of the SFT job: its trainer, its quiet, and how its failures read."""

import logging
import os
from pathlib import Path
from typing import Any

import ray
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import LoggingConfig

from fxray.errors import FxrayError, WorkerDiedError
from fxray.sft.settings import SftSettings

CONTROLLER_POLL_S = 0.2
WORKER_START_S = 300


class StopAtRefusal(UserCallback):
    """Ends the job at an error that a restart cannot heal; only deaths are worth another try."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Raises, in the controller, what a worker refused."""
        for error in worker_exceptions.values():
            if isinstance(error, FxrayError):
                raise error


def make_trainer(settings: SftSettings, attempt_dir: Path, *, start_from: Path | None) -> TorchTrainer:
    """The job, not yet started.

    Args:
        settings: What to train.
        attempt_dir: Ray Train's storage for this attempt, and ours.
        start_from: Checkpoint of an earlier attempt.
    """
    _quieten()
    resources = {"CPU": 1.0} | ({"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {})
    return TorchTrainer(
        _run_rank,
        train_loop_config={"settings": settings, "attempt_dir": attempt_dir, "start_from": start_from},
        scaling_config=ScalingConfig(
            num_workers=settings.num_workers, use_gpu=settings.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=attempt_dir.name,
            storage_path=str(attempt_dir.parent),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[StopAtRefusal()],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def fit(trainer: TorchTrainer) -> None:
    """Runs a job to its end.

    Raises:
        FxrayError: What a worker refused.
        WorkerDiedError: Workers died more often than allowed, or the job failed in another way.
    """
    try:
        trainer.fit()
    except TrainingFailedError as error:
        cause = error.controller_failure if isinstance(error, ControllerError) else None
        if isinstance(cause, FxrayError):
            raise cause from None
        raise WorkerDiedError(
            f"the job failed: {error}",
            where="SFT",
            remedy="see the workers' logs in Ray's session folder; the same command goes on from the last checkpoint",
        ) from error


def _run_rank(config: dict[str, Any]) -> None:
    from fxray.sft.worker import run_rank  # heavy, and wanted in the workers alone

    run_rank(**config)


def _quieten() -> None:
    """Ray Train reads these when its controller starts."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(CONTROLLER_POLL_S))
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(WORKER_START_S))
    if len(ray.nodes()) == 1:  # nobody reclaims the machine that the driver runs on, and a process costs seconds
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    logging.getLogger("ray.train").setLevel(logging.ERROR)
