"""`fxray data`: datasets."""

from pathlib import Path
from typing import Annotated

import typer

from fxray.cli import (
    data_agreement,
    data_check,
    data_export,
    data_import,
    data_quality,
    data_select,
    data_show,
    data_split,
    data_stats,
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, check, split, judge and show datasets.")
app.command("import", help=data_import.HELP)(data_import.import_)
app.command("export", help=data_export.HELP)(data_export.export)


@app.callback()
def data() -> None:
    """Make, check, split, judge and show datasets."""


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder for train.parquet, validation.parquet and test.parquet.")],
    num_train: Annotated[int, typer.Option(min=1, help="Rows of the training split.")] = 2048,
    num_validation: Annotated[int, typer.Option(min=1, help="Rows of the validation split.")] = 256,
    num_test: Annotated[int, typer.Option(min=1, help="Rows of the test split, of unseen photographs.")] = 512,
    size_px: Annotated[int, typer.Option(min=56, max=2048, help="Side of the square images.")] = 168,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same bytes.")] = 0,
) -> None:
    """Make synthetic data: crops of real photographs, half of them with planted defects.

    Boxes, captions and tags are known because the defects are planted. Photographs come with the installed packages.

    \b
    Example:
      fxray data synth datasets/synthetic --num-train 4096 --seed 1
    """
    from fxray.cli.progress import show_progress
    from fxray.data.synth.write import synthesise
    from fxray.errors import DataError
    from fxray.events import Step

    if there := [name for name in ("train", "validation", "test") if (out / f"{name}.parquet").exists()]:
        raise DataError(f"holds {there[0]}.parquet already", where=str(out), remedy="name another folder, or delete it")
    with show_progress() as on_event:
        synthesise(
            out,
            num_train=num_train,
            num_validation=num_validation,
            num_test=num_test,
            size_px=size_px,
            seed=seed,
            progress=lambda split, done, total: on_event(Step(split, done, total)),
        )
    typer.echo(out)


app.command("check")(data_check.check)
app.command("split")(data_split.split)
app.command("take")(data_split.take)
app.command("quality")(data_quality.quality)
app.command("agreement")(data_agreement.agreement)
app.command("select")(data_select.select)
app.command("stats")(data_stats.stats)
app.command("tokens")(data_stats.tokens)
app.command("show")(data_show.show)
