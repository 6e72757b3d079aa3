"""`fxray`: the commands together, and the one place where errors become messages and exit codes."""

import codecs
import io
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from fxray import __version__
from fxray.cli import (
    baseline,
    calibrate,
    config,
    data,
    detect,
    doctor,
    evaluate,
    job,
    model,
    plan,
    prefer,
    reproduce,
    robustness,
    serve,
    status,
    sweep,
    tiny,
    train,
)
from fxray.errors import FxrayError, ResourceError

_ANY_NAME = "fxray_any_name"
app = typer.Typer(
    name="fxray",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("sft")(train.sft)
app.command("grpo")(train.grpo)
app.command("submit")(job.submit)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("robustness")(robustness.robustness)
app.command("reproduce")(reproduce.reproduce)
app.command("sweep")(sweep.sweep)
app.command("trial", hidden=True)(sweep.trial)
app.command("report")(evaluate.report)
app.command("status")(status.status)
app.command("detect")(detect.detect)
app.command("serve")(serve.serve)
app.command("key")(serve.key)
app.command("plan")(plan.plan)
app.command("doctor")(doctor.doctor)
app.add_typer(data.app, name="data")
app.add_typer(baseline.app, name="baseline")
app.add_typer(config.app, name="config")
app.add_typer(job.app, name="job")
app.add_typer(tiny.app, name="tiny")
app.add_typer(model.app, name="model")
app.add_typer(prefer.app, name="prefer")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"fxray {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or set FXRAY_DEBUG=1).")
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train, evaluate and use a detector that says whether, where and why an image looks generated.

    \b
    Examples:
      fxray train --config tiny --run-dir runs/demo    the whole way, on two CPU cores
      fxray detect photo.jpg --run-dir runs/demo       what the trained detector sees
      fxray serve --run-dir runs/demo                  the same as a page and an interface
      fxray doctor                                     what is wrong with this machine
    """
    if debug:
        os.environ["FXRAY_DEBUG"] = "1"


def main() -> NoReturn:
    """Runs the command line and exits."""
    signal.signal(signal.SIGTERM, _leave)
    sys.unraisablehook = _pass_over_stops
    # Ray would print on stdout that a worker died, which fxray tells in its own words. It reads this when imported.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ANY_NAME)
    try:
        app()
    except FxrayError as error:
        sys.exit(report_error(error))
    except OSError as error:  # of a name that no file can have, or of a folder that this user may not enter, for one
        sys.exit(report_error(_as_refusal(error)))
    sys.exit(0)


def _as_refusal(error: OSError) -> FxrayError:
    """What a disk refused at a place that no writer watches over.

    Raises:
        OSError: It is another error.
    """
    from fxray.files import as_refusal

    if "No usable temporary directory" in str(error):  # Python's words where every disk is full
        remedy = "free some space in one of them, or set TMPDIR to a folder with room"
        return ResourceError(str(error.strerror), remedy=remedy)
    try:
        Path.cwd()
    except OSError:
        remedy = "go to a folder that is there, and give the command again"
        return ResourceError("the folder in which the command runs was deleted", remedy=remedy)
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    refused = as_refusal(error, path, "read or written")
    if refused is None:
        raise error
    refused.__cause__ = error
    return refused


def _any_name(error: UnicodeError) -> tuple[str | bytes, int]:
    """Names of files are bytes, whatever the locale says; letters that its encoding lacks are written as escapes."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeEncodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(_ANY_NAME, _any_name)


def report_error(error: FxrayError) -> int:
    """Says what went wrong on stderr; returns the exit code.

    Args:
        error: What was raised; an error that crossed from a Ray worker carries the original as its cause.
    """
    if os.environ.get("FXRAY_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    cause = getattr(error, "cause", None)
    original = cause if isinstance(cause, FxrayError) else error
    sys.stderr.write(f"error: {original}\n")
    return original.exit_code


def _leave(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    """Lets a terminated command clean up: Ray, locks, temporary files."""
    sys.exit(128 + signum)


def _pass_over_stops(unraisable: "sys.UnraisableHookArgs") -> None:
    """Prints what Python cannot raise; but no traceback of who is stopped again while Ray shuts down at its exit."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt | SystemExit):
        sys.__unraisablehook__(unraisable)
