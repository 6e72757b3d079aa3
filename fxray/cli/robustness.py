"""`fxray robustness`: what is left of a detector when images are recompressed, cropped, resized, blurred, re-shared."""

from typing import Annotated

import typer

from fxray.cli.arguments import FinishedRunOption, SetOption, StageOption, within


def robustness(
    run_dir: FinishedRunOption,
    stage: StageOption = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CHANGE", help="Only this change, such as jpeg-80. May be repeated.")
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Measure a detector on its test split under nineteen changes of the images.

    JPEG, random crop, downsampling, WebP, blur, noise, a screenshot, a picture shared twice: table and curves with 95 %
    intervals, as Markdown, LaTeX, CSV, HTML, PNG and SVG below robustness/ in the run. The same command again goes on
    with the changes that are missing.

    \b
    Examples:
      fxray robustness --run-dir runs/demo
      fxray robustness --run-dir runs/demo --only jpeg-80 --only crop-random
    """
    from fxray.data.changes import HARDSHIPS

    unknown = sorted(set(only or ()) - {change.name for change in HARDSHIPS})
    if unknown:
        known = ", ".join(change.name for change in HARDSHIPS)
        raise typer.BadParameter(f"--only {unknown[0]}: expected one of {known}")
    chosen = [change for change in HARDSHIPS if not only or change.name in only]
    from fxray.cli.progress import show_progress
    from fxray.launch.robustness import measure_robustness
    from fxray.remote import local_folder

    with show_progress() as on_event, local_folder(run_dir, on_event) as folder:
        report = measure_robustness(folder, stage, chosen, overrides or (), on_event)
    from rich.table import Table

    from fxray.cli.tables import print_table
    from fxray.report.paper_table import SYNTHETIC

    table = Table(title="Robustness", caption=SYNTHETIC if report.is_synthetic else None, title_justify="left")
    for column in ("change", "accuracy", "IoU", "change of accuracy", "change of IoU"):
        table.add_column(column)
    for row in report.rows:
        table.add_row(row.title, *row.cells)
    print_table(table)
    typer.echo(within(run_dir, report.folder / "robustness.html", folder))
