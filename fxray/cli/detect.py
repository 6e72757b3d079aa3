"""`fxray detect`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fxray.cli.arguments import SetOption, checked_config


def detect(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", "-d", metavar="DIR", help="A run; its last finished phase answers.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", metavar="FILE", help="In place of a run: model and engine.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Adapter in PEFT layout, in place of the run's last.")
    ] = None,
    overrides: SetOption = None,
    draw: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each image with its boxes and captions here.")
    ] = None,
    stability: Annotated[
        bool, typer.Option("--stability", help="Also try each image saved again, resized, cropped, off a screen.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per image and line.")] = False,
) -> None:
    """Judge images with a trained detector.

    A verdict is evidence, not proof. A file that cannot be read never stops the rest; the exit code is then 1.

    \b
    Examples:
      fxray detect photo.jpg --run-dir runs/demo
      fxray detect photo.jpg --run-dir runs/demo --stability
      fxray detect photos/ --run-dir runs/demo --draw found/ --json
      fxray detect photo.jpg --config tiny --adapter runs/demo/sft/adapter
    """
    if (run_dir is None) == (config is None):
        raise typer.BadParameter("give either --run-dir or --config")
    from fxray.detect.load import latest_adapter, open_detector
    from fxray.remote import local_copy

    if run_dir is not None:
        folder = local_copy(run_dir)
        adapter = adapter or latest_adapter(folder)
        config = str(folder / "config.yaml")
    assert config is not None
    if sys.stderr.isatty():
        typer.echo("starting the engine", err=True)
    detector = open_detector(checked_config(config, overrides), adapter)
    from fxray.detect.detection import open_picture
    from fxray.detect.files import drawing_path
    from fxray.detect.offline import detect_files
    from fxray.detect.stability import try_changes

    num_unanswered = 0
    taken: set[Path] = set()
    for finding in detect_files(detector, images):
        typer.echo(finding.as_json() if as_json else finding.as_text())
        if stability and finding.detection is not None:
            tried = try_changes(detector, open_picture(finding.file), finding.detection)
            typer.echo(tried.as_json(str(finding.file)) if as_json else tried.as_text())
        if draw is not None and finding.detection is not None:
            finding.draw(drawing_path(draw, finding.file, taken))
        num_unanswered += not finding.is_answered
    if num_unanswered:
        typer.echo(f"{num_unanswered} without a verdict", err=True)
        raise typer.Exit(1)
