"""`fxray status`: what a run is doing."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

EXIT_CODES = {"running": 0, "finished": 0, "failed": 3, "stopped": 3, "dead": 4, "unknown": 4}


def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run directory, a copy of it, or s3://bucket/run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with --watch one line each time.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again and again, until the run is over.")] = False,
    every_s: Annotated[float, typer.Option("--every", min=0.2, metavar="SECONDS", help="Pause of --watch.")] = 2.0,
) -> None:
    """Say where a run stands: phase, step, time left, who waits for whom, workers, faults, checkpoint, last error.

    It reads the run's files alone, on any machine that sees them, and needs no Ray. Exit code 0: running or finished;
    3: it gave up (failed, or stopped from outside); 4: its driver is gone without a word, or left no record; 1: no run.

    \b
    Examples:
      fxray status runs/demo
      fxray status runs/demo --watch
      fxray status /shared/runs/7b --json | jq .left_s
    """
    from fxray.status.summary import read_remote_status, read_status
    from fxray.status.words import as_json as to_json
    from fxray.status.words import as_lines

    is_block = watch and not as_json and sys.stdout.isatty()
    while True:
        found = read_remote_status(run) if "://" in run else read_status(Path(run))
        if as_json:
            typer.echo(json.dumps(to_json(found), indent=None if watch else 2))
        else:
            typer.echo(("\x1b[H\x1b[2J" if is_block else "") + "\n".join(as_lines(found)))
        if not watch or found.state != "running":
            raise typer.Exit(EXIT_CODES[found.state])
        time.sleep(every_s)
