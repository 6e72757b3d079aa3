"""The SFT job as its caller sees it: started, watched, continued where an earlier one was killed.

driver ──► Ray Train controller ──► workers (one per rank)
   ▲                                   │ rank 0 writes a line per step
   └──────── progress.jsonl ◄──────────┘ and, all ranks together, checkpoints
"""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fxray.counts import counted
from fxray.errors import CheckpointError, DeadlineError
from fxray.events import Note, OnEvent, PhaseStarted, Step
from fxray.files import atomic_dir
from fxray.sft import checkpoint
from fxray.sft.settings import SftSettings

PHASE = "sft"
POLL_S = 0.2


def run_sft(settings: SftSettings, *, run_dir: Path, on_event: OnEvent) -> Path:
    """Trains the SFT policy, or finishes what an earlier, interrupted call began. Ray is up.

    Args:
        settings: The job.
        run_dir: Everything goes below `run_dir/sft`, which every node must reach.
        on_event: Told of the start, of every step once, of skipped images and of workers that died.

    Returns:
        `run_dir/sft/adapter`, there whole or not at all: an adapter in PEFT layout, or a whole model.

    Raises:
        CheckpointError: All checkpoints are damaged, or the one to go on from belongs to other settings.
        DataError: A sample that cannot be learnt.
        DeadlineError: The workers do not come up, or no step is done for long.
        WorkerDiedError: Workers died more often than `max_failures`.
    """
    sft_dir = run_dir.resolve() / "sft"
    adapter_dir, attempts_dir = sft_dir / "adapter", sft_dir / checkpoint.ATTEMPTS
    if adapter_dir.is_dir():
        clear_attempts(run_dir)
        return adapter_dir

    def warn(text: str) -> None:
        on_event(Note(text, is_warning=True))

    newest = checkpoint.newest(attempts_dir, settings, warn)
    if newest:  # its last steps may have been done after the driver that should have told of them was killed
        folder, state = newest
        _Watch(folder.parent / checkpoint.PROGRESS_FILE, settings, on_event).tell(last_step=state.step)
    if newest is None or newest[1].step < newest[1].num_steps:
        start_from = newest[0] if newest else None
        attempt_dir = attempts_dir / checkpoint.new_attempt(attempts_dir, keep=start_from)
        on_event(Note(f"{counted(settings.num_workers, 'SFT worker')} coming up"))
        _train(settings, attempt_dir, start_from=start_from, on_event=on_event)
        newest = checkpoint.newest(attempts_dir, settings, warn)
        if newest is None:
            raise CheckpointError("the job ended without a checkpoint", where=str(attempt_dir))
    folder, state = newest
    for problem in state.corrupt_rows.values():
        warn(f"left out of SFT: {problem}")
    with atomic_dir(adapter_dir) as aside:
        shutil.copytree(folder / checkpoint.POLICY_DIR, aside, dirs_exist_ok=True)
    shutil.rmtree(attempts_dir)
    return adapter_dir


def clear_attempts(run_dir: Path) -> None:
    """Deletes what a driver leaves that is killed after the adapter is there: whole training states."""
    shutil.rmtree(run_dir / "sft" / checkpoint.ATTEMPTS, ignore_errors=True)


def _train(settings: SftSettings, attempt_dir: Path, *, start_from: Path | None, on_event: OnEvent) -> None:
    """Runs one Ray Train job to its end, in a thread, so that this one can tell of its steps and be interrupted."""
    from fxray.sft import trainer  # imports torch

    job = trainer.make_trainer(settings, attempt_dir, start_from=start_from, mark=checkpoint.mark(attempt_dir))
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit(job)
        except BaseException as error:  # noqa: BLE001  carried over to the waiting thread
            failure.append(error)

    thread = threading.Thread(target=fit, name="sft-job", daemon=True)
    thread.start()
    watch = _Watch(attempt_dir / checkpoint.PROGRESS_FILE, settings, on_event)
    while thread.is_alive():
        thread.join(POLL_S)
        watch.tell()
    watch.tell()
    if failure:
        raise failure[0]


class _Watch:
    """Reads what rank 0 writes, and tells each step once, also when a worker that died takes it again.

    Args:
        path: The progress file; it may not be there yet.
        settings: Of the job: how long it may take.
        on_event: Told.
    """

    def __init__(self, path: Path, settings: SftSettings, on_event: OnEvent) -> None:
        self._path, self._settings, self._on_event = path, settings, on_event
        self._num_read_bytes = 0
        self._last_step = -1
        self._num_failures = 0
        self._await_start()

    def tell(self, last_step: int | None = None) -> None:
        """Tells what is new, up to a step.

        Raises:
            DeadlineError: Nothing has been new for too long.
        """
        for record in self._new_records():
            self._has_started = True
            self._deadline_s = time.monotonic() + self._settings.step_deadline_s
            num_steps = record["num_steps"]
            if "step" in record:
                if self._last_step < record["step"] <= (last_step or num_steps):
                    self._last_step = record["step"]
                    self._on_event(Step(PHASE, record["step"], num_steps, record["metrics"]))
            elif self._last_step < 0:
                self._last_step = record["first_step"]
                self._on_event(PhaseStarted(PHASE, num_steps, record["first_step"]))
            else:
                self._on_event(Note(f"SFT goes on from step {record['first_step']}"))
        for failure in self._new_failures():
            self._on_event(Note(f"an SFT worker failed: {failure}", is_warning=True))
            self._await_start()
        if time.monotonic() > self._deadline_s:
            raise DeadlineError(
                f"no SFT step was done for {self._settings.step_deadline_s:g} s (learner.step_deadline_s)"
                if self._has_started
                else "the SFT workers did not come up within "
                f"{self._settings.start_deadline_s:g} s (learner.start_deadline_s)",
                where="SFT",
                remedy="see whether the workers hang"
                if self._has_started
                else "check that the cluster has room for them",
            )

    def _await_start(self) -> None:
        """From now on the workers have the time that it takes to find a place and to load the model."""
        self._has_started = False
        self._deadline_s = time.monotonic() + self._settings.start_deadline_s

    def _new_failures(self) -> list[str]:
        """Lines of the file that grows whenever workers have failed; they are started again, or the job gives up."""
        file = self._path.with_name(checkpoint.RESTARTS_FILE)
        lines = file.read_text("utf-8", "replace").splitlines() if file.exists() else []
        new, self._num_failures = lines[self._num_failures :], len(lines)
        return new

    def _new_records(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._num_read_bytes)
            for line in file:
                if line.endswith(b"\n"):
                    self._num_read_bytes += len(line)
                    if (record := _as_record(line)) is not None:
                        yield record


def _as_record(line: bytes) -> dict[str, Any] | None:
    """A line of the progress file; None where the death of a worker tore it."""
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return record
