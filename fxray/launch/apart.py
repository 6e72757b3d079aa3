"""A training in a process of its own: what ends it ends no other, and it ends when nobody waits for it any more."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fxray.errors import DeadlineError, WorkerDiedError
from fxray.files import make_folder

SILENCE_S = 600.0
"""A training whose status record is not renewed for so long hangs; a driver renews it every five seconds."""
LOOK_EVERY_S = 1.0
LEAVING_S = 60.0
"""For a training that is told to end to leave its run in order."""
LOG_TAIL_BYTES = 20_000
STDIN = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process needs to be the same wherever it is started from; Ray changes folder and environment.

    Attributes:
        folder: The working folder.
        names: Of the environment's variables; others were not there before Ray.
        values: Variables that are set.
    """

    folder: Path = field(default_factory=Path.cwd)
    names: frozenset[str] = field(default_factory=lambda: frozenset(os.environ))
    values: Mapping[str, str] = field(
        default_factory=lambda: {
            name: os.environ[name] for name in ("PATH", "PYTHONPATH", "RAY_ADDRESS") if name in os.environ
        }
    )

    @property
    def environment(self) -> dict[str, str]:
        """The variables as they were, with what is set."""
        return {name: value for name, value in os.environ.items() if name in self.names} | dict(self.values)


def run_process(
    arguments: list[str], run_dir: Path, log: Path, around: Surroundings, stop: threading.Event | None = None
) -> None:
    """Runs an `fxray` command to its end; what it says is added to a log.

    Args:
        arguments: Of the command line. It must end when its standard input does: see `end_with_parent`.
        run_dir: The run directory that it works on.
        log: File for its output.
        around: Folder and environment.
        stop: Another thread sets it to end the process.

    Raises:
        WorkerDiedError: It ended with another exit code than 0, or was told to stop.
        DeadlineError: It gave no sign of life for `SILENCE_S`.
    """
    make_folder(log.parent)
    start_bytes = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "fxray", *arguments],
            cwd=around.folder,
            env=around.environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait(process, run_dir / "status.json", log, stop or threading.Event())
        finally:
            _end(process)
    if process.returncode:
        raise WorkerDiedError(
            f"{_last_error(log, start_bytes)} (exit code {process.returncode})",
            where=str(log),
            remedy="the log says more; the same command goes on where it was",
        )


def end_with_parent() -> None:
    """Ends this process, as SIGTERM does, when its standard input does: the process that started it is gone."""

    def watch() -> None:
        while os.read(STDIN, 1):  # past Python's buffer, whose lock a thread may not hold when the process ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LEAVING_S)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _wait(process: "subprocess.Popen[bytes]", status: Path, log: Path, stop: threading.Event) -> None:
    """Counts silence by a clock that stands still while the machine sleeps: a file's time says only that it changed."""
    seen, alive_s = [_stamp(status), _stamp(log)], time.monotonic()
    while not stop.is_set():
        try:
            process.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            if (found := [_stamp(status), _stamp(log)]) != seen:
                seen, alive_s = found, time.monotonic()
            if (silent_s := time.monotonic() - alive_s) > SILENCE_S:
                raise DeadlineError(
                    f"gave no sign of life for {silent_s:.0f} s: neither {status.name} nor its log was written to",
                    where=str(log),
                    remedy="the same command goes on from the last checkpoint",
                ) from None
        else:
            return


def _stamp(file: Path) -> tuple[int, int] | None:
    """What differs once a file is written to again."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks a process that still runs to end, and ends it with all that it started."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(LEAVING_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(LEAVING_S)


def _last_error(log: Path, start_bytes: int) -> str:
    """What the command said last that is an error, or at all; what earlier ones said does not count."""
    tail = log.read_bytes()[start_bytes:][-LOG_TAIL_BYTES:].decode("utf-8", "replace")
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]
