"""The Ray Train side of the SFT job: its trainer, its quiet, and how its failures read."""

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2.api.config import LoggingConfig

from fxray.errors import DeadlineError, FxrayError, ResourceError, WorkerDiedError
from fxray.files import append_line, as_refusal
from fxray.large_imports import large_imports
from fxray.ray_words import words_of
from fxray.sft.checkpoint import RESTARTS_FILE
from fxray.sft.settings import SftSettings

CONTROLLER_POLL_S = 0.2
WORKER_HANG_S = 60
"""For a worker to answer in a thread beside its work; one that does not counts as dead."""
EXCHANGE_S = 1800
"""For the ranks to meet, and for any exchange between them."""

_listener: socket.socket | None = None
"""In rank 0's process: where the others meet it."""


class OwnAddressConfig(TorchConfig):
    """Ray Train's process group, met at rank 0's own address and not on all of them."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _OwnAddressBackend


class _OwnAddressBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:  # noqa: ARG002
        """Lets the ranks meet."""
        world_size = len(worker_group)
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo"
        address, port = worker_group.execute_single(0, _open_meeting) if world_size > 1 else ("", 0)
        worker_group.execute(_set_torch_distributed_env_vars)
        joining = [
            worker_group.execute_single_async(rank, _join, backend, rank, world_size, address, port)
            for rank in range(world_size)
        ]
        try:
            ray.get(joining, timeout=EXCHANGE_S)
        except GetTimeoutError as error:
            raise DeadlineError(
                f"{world_size} ranks did not meet within {EXCHANGE_S} s",
                where=f"SFT, rank 0 at {address}:{port}",
                remedy="check that the nodes reach each other at this address",
            ) from error


class StopAtRefusal(UserCallback):
    """Ends the job at an error that a restart cannot heal; only deaths are worth another try."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Raises, in the controller, what a worker refused."""
        for error in worker_exceptions.values():
            if isinstance(error, FxrayError):
                raise error


class TellOfRestart(UserCallback):
    """Adds a line to a file when workers have failed, so that the driver knows why they are started again."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Tells which rank failed, and of what; a full disk is the next checkpoint's affair."""
        with suppress(ResourceError):
            append_line(self._file, _first_failure(worker_exceptions))


def _first_failure(errors: dict[int, Exception]) -> str:
    """What one rank failed of, in one line: one whose process is gone, of which the others failed, before them."""
    rank, error = min(errors.items(), key=lambda each: (not isinstance(each[1], RayTrainError), each[0]))
    failure = getattr(error, "health_check_failure", error)
    kind = "" if isinstance(failure, RayError | RayTrainError) else f"{type(failure).__name__}: "
    return f"rank {rank}: {kind}{words_of(failure)}"


def make_trainer(settings: SftSettings, attempt_dir: Path, *, start_from: Path | None, mark: str) -> TorchTrainer:
    """The job, not yet started.

    Args:
        settings: What to train.
        attempt_dir: Ray Train's storage for this attempt, and ours.
        start_from: Checkpoint of an earlier attempt.
        mark: What workers must find in that storage.
    """
    _quieten(settings.start_deadline_s)
    resources = {"CPU": 1.0} | ({"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {})
    resources |= settings.node_resources
    return TorchTrainer(
        _run_rank,
        train_loop_config={
            "settings": settings,
            "attempt_dir": attempt_dir,
            "start_from": start_from,
            "mark": mark,
        },
        torch_config=OwnAddressConfig(),
        scaling_config=ScalingConfig(
            num_workers=settings.num_workers, use_gpu=settings.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=attempt_dir.name,
            storage_path=str(attempt_dir.parent),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),  # the second is for a disk that damages the first
            callbacks=[StopAtRefusal(), TellOfRestart(attempt_dir / RESTARTS_FILE)],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def fit(trainer: TorchTrainer) -> None:
    """Runs a job to its end.

    Raises:
        FxrayError: What a worker refused.
        ResourceError: The disk takes no more of what Ray Train itself writes.
        WorkerDiedError: Workers died more often than allowed, or the job failed in another way.
    """
    try:
        trainer.fit()
    except TrainingFailedError as error:
        cause = error.controller_failure if isinstance(error, ControllerError) else None
        if isinstance(cause, FxrayError):
            raise cause from None
        if isinstance(cause, OSError) and (refused := as_refusal(cause, Path(trainer.run_config.storage_path))):
            raise refused from error
        raise WorkerDiedError(
            f"the job failed: {error}",
            where="SFT",
            remedy="see the workers' logs in Ray's session folder; the same command goes on from the last checkpoint",
        ) from error


def _open_meeting() -> tuple[str, int]:
    from fxray.model.ranks import open_meeting

    global _listener  # noqa: PLW0603 (two calls into one process, with nothing else between them)
    address = ray.util.get_node_ip_address()
    _listener = open_meeting(address)
    return address, _listener.getsockname()[1]


def _join(backend: str, rank: int, world_size: int, address: str, port: int) -> None:
    from fxray.model.ranks import meet

    listener = _listener if rank == 0 else None
    meet(
        backend=backend,
        rank=rank,
        world_size=world_size,
        address=address,
        port=port,
        listener=listener,
        timeout_s=EXCHANGE_S,
    )


def _run_rank(config: dict[str, Any]) -> None:
    with large_imports():
        from fxray.sft.worker import run_rank  # heavy, and wanted in the workers alone

    run_rank(**config)


def _quieten(start_deadline_s: float) -> None:
    """Ray Train reads these when its controller starts. The deadline is the job's, whatever one before it had."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(CONTROLLER_POLL_S))
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(WORKER_HANG_S))
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(start_deadline_s)
    if len(ray.nodes()) == 1:  # nobody reclaims the machine that the driver runs on, and a process costs seconds
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    logging.getLogger("ray.train").setLevel(logging.ERROR)
