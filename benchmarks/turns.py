"""Two systems take their steps in turn, so that what else the machine does falls on both alike.

    parent ─► "go" ─► side takes one step ─► JSON line with seconds and parts ─► parent ─► the other side's turn

Each side is a process of its own. What its libraries print goes to a log file, never between the parent's lines.
"""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STEP_DEADLINE_S = 900.0
END_DEADLINE_S = 60.0
LOG_LINES = 20
ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # both sides have the parent's priority; Ray would lower its workers'
    "RAY_raylet_start_wait_time_s": "120",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


class Turns:
    """The side's end. The first step is not waited for: it shows that the side is up."""

    def __init__(self) -> None:
        self._reports = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began_s = time.perf_counter()

    def end_step(self, report: dict[str, Any]) -> None:
        """Reports a step with its seconds, and waits for the next turn; ends the process when there is none."""
        seconds = time.perf_counter() - self._began_s
        self._reports.write(json.dumps(report | {"seconds": seconds}) + "\n")
        self._reports.flush()
        sys.stdin.readline()
        self._began_s = time.perf_counter()


class Side:
    """The parent's end: a process that takes steps when told.

    Args:
        name: Named in errors.
        script: What the process runs.
        job: Its argument.
        log: Where its output goes.
    """

    def __init__(self, name: str, script: Path, job: Path, log: Path) -> None:
        self.name = name
        self._log = log
        self.steps: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=os.environ | ENVIRONMENT,
        )
        self._receive()
        self.steps.clear()

    def step(self) -> None:
        """Lets the side take one step; what it reports is added to `steps`."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._receive()

    def close(self) -> None:
        """Lets the process end, or ends it."""
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self._process.stdin.close()
        try:
            self._process.wait(END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait(END_DEADLINE_S)

    def _receive(self) -> None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], STEP_DEADLINE_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            reason = "ended early" if ready else f"took more than {STEP_DEADLINE_S:.0f} s for a step"
            raise SystemExit(f"{self.name} {reason}; the end of its output:\n{tail}")
        self.steps.append(json.loads(line))
