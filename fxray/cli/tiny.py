"""`fxray tiny`: the small base model that ships with fxray."""

from pathlib import Path
from typing import Annotated

import typer

from fxray.cli.arguments import MAX_SEED

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Rebuild the tiny base model.")


@app.callback()
def tiny() -> None:
    """The tiny base model that ships with fxray."""


@app.command()
def build(
    out: Annotated[Path, typer.Argument(help="Folder for the model; it replaces one that fxray wrote, nothing else.")],
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of weights and scenes.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Processes of one thread each; 0 takes all processors.")] = 0,
) -> None:
    """Pretrain the tiny Qwen2.5-VL on generic grounding, from nothing (about 35 minutes on two cores).

    \b
    Example:
      fxray tiny build models/tiny
    """
    from fxray.cli.progress import show_progress
    from fxray.events import Step
    from fxray.model.tiny.build import Recipe
    from fxray.model.tiny.build import build as build_tiny
    from fxray.processors import num_processors

    with show_progress() as on_event:
        ability = build_tiny(
            out,
            Recipe(seed=seed),
            threads=threads or num_processors(),
            progress=lambda stage, done, total, loss: on_event(Step(stage, done, total, {"loss": loss})),
        )
    typer.echo(ability)
    typer.echo(out)
