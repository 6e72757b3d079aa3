"""`fxray detect`."""

from pathlib import Path
from typing import Annotated

import typer


def detect(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
) -> None:
    """Judge images with a trained detector.

    \b
    Example:
      fxray detect photo.jpg --run-dir runs/demo
    """
