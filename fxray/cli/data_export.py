"""`fxray data export`: from a dataset to another tool's files."""

from pathlib import Path
from typing import Annotated

import typer

from fxray.counts import counted
from fxray.data.formats.catalogue import help_table

HELP = f"""Write a dataset in another tool's format.

`fxray data import` reads each of them back without loss. With --predictions, Label Studio gets what a detector said as
pre-annotations for people to correct, COCO gets it as results.json beside the truth (boxes alone, with the scores that
rank them, else 1), and the other formats get it in the place of the truth. The file has to speak of every sample. A
prediction without a verdict is written as real by none of them.

\b
Formats, what is written, the raster its boxes lie in, and what it carries:
{help_table(to_write=True)}

\b
Examples:
  fxray data export coco datasets/flaws/dataset.parquet export/coco
  fxray data export labelstudio test.parquet to-correct/ --predictions predictions.parquet
"""

LOSSES = {
    "coco": "results.json carries boxes and their image ids alone: no captions, tags or verdicts.",
    "swift": "raw answers, faults and times are not carried.",
    "labelstudio": "raw answers, faults and times are not carried.",
    "huggingface": "raw answers, faults and times are not carried.",
}
"""What is lost of predictions; of a dataset nothing is."""
UNREAD = {
    "coco": "results.json cannot tell that: without boxes they are as images that were found real.",
    "swift": "their rows are left out.",
    "labelstudio": "that choice is left to people.",
    "huggingface": "their label is null.",
}
"""What becomes of predictions without a verdict."""
CONTRADICTORY = {
    "coco": "results.json has them all the same.",
    "swift": "the boxes are left out.",
    "labelstudio": "people have to decide before it is imported.",
    "huggingface": "the boxes are left out.",
}
"""What becomes of predictions that say real and have boxes."""
BLANK = {
    "swift": "their rows are left out, since `fxray data import` needs a caption for each box.",
    "labelstudio": "the text area of each is left to people.",
    "huggingface": "each caption is blank, and `fxray data import` refuses the row until somebody has filled it in.",
}
"""What becomes of predicted boxes without captions; COCO's results have no place for any."""


def export(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="Name of a format.")],
    src: Annotated[Path, typer.Argument(metavar="SRC", help="Parquet file of a dataset.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="New folder.")],
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What a detector said, as `fxray evaluate` writes it.")
    ] = None,
) -> None:
    from fxray.cli.progress import show_progress
    from fxray.data.exported import Guess
    from fxray.data.exports import export_dataset
    from fxray.data.formats import catalogue

    found, guesses = catalogue.find(form, to_write=True), None
    if predictions is not None:
        from fxray.draw import plain_text
        from fxray.evaluate.predictions import read_predictions
        from fxray.schema import Verdict

        typer.echo(f"note: {LOSSES[found.name]}", err=True)
        guesses = {
            each.sample_id: Guess(each.verdict, each.regions, each.tags, box_scores=each.box_scores)
            for each in read_predictions(predictions)
        }
        if num_unread := sum(guess.verdict is None for guess in guesses.values()):
            typer.echo(f"note: {counted(num_unread, 'prediction')} without a verdict; {UNREAD[found.name]}", err=True)
        if (blank := [name for name, guess in guesses.items() if guess.lacks_captions]) and found.name in BLANK:
            told = f"{counted(len(blank), 'prediction has', 'predictions have')} boxes without captions"
            told += f", such as that of {plain_text(blank[0], 80)!r}"
            typer.echo(f"note: {told}; {BLANK[found.name]}", err=True)
        if num_torn := sum(guess.verdict is Verdict.REAL and bool(guess.regions) for guess in guesses.values()):
            typer.echo(
                f"note: {counted(num_torn, 'prediction says real and has', 'predictions say real and have')} boxes; "
                f"{CONTRADICTORY[found.name]}",
                err=True,
            )
    with show_progress() as on_event:
        export_dataset(found, src, dst, on_event=on_event, guesses=guesses)
    typer.echo(dst)
