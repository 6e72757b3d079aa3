"""A figure as PNG and SVG: the same numbers give the same bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fxray.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_figure(folder: Path, name: str, size_in: tuple[float, float], draw: Callable[["Figure"], None]) -> None:
    """Writes NAME.png and NAME.svg.

    Args:
        folder: Where to.
        name: Of the files.
        size_in: Width and height in inches.
        draw: Fills the figure.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "fxray", "svg.fonttype": "none"}):
        figure = Figure(figsize=size_in, layout="constrained")
        draw(figure)
        for ending, undated in (("png", {"Software": None}), ("svg", {"Date": None})):
            with atomic_path(folder / f"{name}.{ending}") as aside:
                figure.savefig(aside, format=ending, dpi=150, metadata=undated)
