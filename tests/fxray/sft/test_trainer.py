"""What Ray Train is told by the environment."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

from fxray.errors import ResourceError
from fxray.sft.settings import SftSettings
from fxray.sft.trainer import TellOfRestart, fit, make_trainer


def test_each_job_of_a_process_has_its_own_start_deadline(
    settings: SftSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{}, {}])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for start_deadline_s in (600.0, 60.0):
        job = replace(settings, start_deadline_s=start_deadline_s)
        make_trainer(job, tmp_path / "attempt-0", start_from=None, mark="")
        assert float(os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"]) == start_deadline_s


def test_a_disk_that_is_full_before_ray_train_notes_a_checkpoint_is_said(tmp_path: Path) -> None:
    class Trainer:
        run_config = SimpleNamespace(storage_path=str(tmp_path / "attempts"))

        def fit(self) -> None:
            raise ControllerError(OSError(errno.ENOSPC, "Error writing bytes to file"))

    with pytest.raises(ResourceError, match=r"attempts: cannot be written: No space left .*MiB free"):
        fit(Trainer())


def test_what_ended_a_worker_is_told_before_what_its_end_did_to_others(tmp_path: Path) -> None:
    late = RuntimeError("Connection closed by peer\n  at 0x7f\n")
    died = WorkerHealthCheckFailedError("Worker 3 is dead.", ActorDiedError())
    hung = WorkerHealthCheckTimeoutError("A health check has been hanging for 60 seconds.")
    tell = TellOfRestart(tmp_path / "restarts")
    for errors in ({0: late, 3: died}, {1: hung, 0: late}, {1: ValueError("no"), 0: late}):
        tell.after_exception(None, errors)
    assert (tmp_path / "restarts").read_text().splitlines() == [
        "rank 3: The actor died unexpectedly before finishing this task.",
        "rank 1: A health check has been hanging for 60 seconds.",
        "rank 0: RuntimeError: Connection closed by peer",
    ]
