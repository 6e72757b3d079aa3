"""`fxray calibrate`: from the model's own probabilities to ones that were held against the truth."""

from typing import Annotated

import typer

from fxray.cli.arguments import FinishedRunOption, JsonOption, SetOption, StageOption, within


def calibrate(
    run_dir: FinishedRunOption,
    stage: StageOption = None,
    max_fpr: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Largest share of real images that may count as generated."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Largest share of wrong verdicts on either side of the unsure band."),
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit probabilities, threshold and unsure band on the validation split.

    The answers to that split are drawn once and kept; another --max-fpr then takes seconds. What is fitted lies beside
    the adapter as calibration.json, where detect, serve and report find it. The test split is never fitted on, only
    reported.

    \b
    Examples:
      fxray calibrate --run-dir runs/demo
      fxray calibrate --run-dir runs/demo --max-fpr 0.01
    """
    from fxray.cli.progress import show_progress
    from fxray.launch import phases
    from fxray.remote import local_folder

    with show_progress() as on_event, local_folder(run_dir, on_event) as folder:
        name, calibration, report = phases.calibrate(
            folder, stage, overrides or (), max_fpr=max_fpr, max_error=max_error, on_event=on_event
        )
    for gap in calibration.never_said:
        typer.echo(f"warning: {gap}", err=True)
    found = next((evaluation for evaluation in report.comparison.evaluations if evaluation.name == name), None)
    scores = found.calibrated if found else None
    if as_json:
        import json

        told = {"stage": name, "calibration": calibration.model_dump(), "test": scores.to_json() if scores else None}
        typer.echo(json.dumps(told, indent=2))
        return
    from fxray.cli.tables import print_table
    from fxray.evaluate.table import decision_table, probability_table

    typer.echo(f"{name}: {calibration.sentence()}")
    if found is None or scores is None:
        typer.echo(
            "nothing is said about the test split: its answers hold no probabilities, or cannot be scored; delete "
            f"evaluation/{name}/predictions.parquet to have them drawn anew",
            err=True,
        )
        return
    if table := probability_table([found]):
        print_table(table)
    print_table(decision_table(scores, is_synthetic=found.is_synthetic))
    typer.echo(within(run_dir, report.page, folder))
