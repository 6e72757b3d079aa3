"""`fxray model`: base models for measurements."""

import math
from pathlib import Path
from typing import Annotated

import typer

from fxray.cli.arguments import MAX_SEED

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write random models of real shapes.")


@app.callback()
def model() -> None:
    """Base models."""


@app.command()
def random(
    out: Annotated[Path, typer.Argument(help="Folder for the model; it replaces one that fxray wrote, nothing else.")],
    like: Annotated[str, typer.Option(help="qwen2.5-vl-3b, -7b or -32b; qwen3-vl-2b, -4b, -8b or -32b.")],
    layers: Annotated[
        int | None, typer.Option(min=1, help="At most so many layers of language model and vision tower.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the weights.")] = 0,
) -> None:
    """Write a model of real shape and random bfloat16 weights, to measure speed and memory without a download.

    It loads in transformers and vLLM; its answers are noise.

    \b
    Examples:
      fxray model random /tmp/3b --like qwen2.5-vl-3b
      fxray model random /tmp/32b-4 --like qwen2.5-vl-32b --layers 4
      fxray model random /tmp/8b --like qwen3-vl-8b
    """
    from fxray.cli.progress import show_progress
    from fxray.events import PhaseStarted, Step
    from fxray.model.random import write_random_model

    phase, mib = "MiB of weights", 2**20
    with show_progress() as on_event:

        def tell(done: int, total: int) -> None:
            all_of_it = math.ceil(total / mib)
            step = Step(phase, done // mib if done < total else all_of_it, all_of_it)
            on_event(step if done else PhaseStarted(phase))

        write_random_model(out, like, num_layers=layers, seed=seed, progress=tell)
    typer.echo(out)
