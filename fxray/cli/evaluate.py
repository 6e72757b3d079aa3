"""`fxray evaluate` and `fxray report`: from answers to numbers, and from a run to a page."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import SetOption, checked_config, within
from fxray.cli.tables import print_table, show_report

if TYPE_CHECKING:
    from fxray.config.tree import Config
    from fxray.evaluate.evaluation import Evaluation


def evaluate(
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="Parquet file with the truth.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Predictions to score, whoever wrote them: .parquet, .jsonl, .csv with label or score, .json of COCO "
            "results, or a folder of masks.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Other predictions of the same samples: also say what --predictions gains."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Score from which an image counts as generated, where a file has no verdicts.")
    ] = 0.5,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", metavar="FILE", help="Let this configuration's model answer first."),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Adapter in PEFT layout; without it the base model answers.")
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --predictions: what their detector was taught (full, no-bbox, no-caption, no-tags, label-only); "
            "without boxes IoU is left out.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the answers go, when --config makes them.")] = Path(
        "predictions.parquet"
    ),
    overrides: SetOption = None,
    num_bootstrap: Annotated[int, typer.Option(min=1, help="Resamples behind each 95 % interval.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
) -> None:
    """Score a detector from its predictions.

    Verdicts, probabilities, boxes, captions and tags against the truth, with 95 % intervals, by generator, group,
    category, tag and size of the flaws. Either from a predictions file, or by letting a trained adapter answer first.
    docs/evaluation.md says what each number is.

    \b
    Examples:
      fxray evaluate --predictions theirs.jsonl --data test.parquet
      fxray evaluate --predictions ours.parquet --against theirs.csv --data test.parquet
      fxray evaluate --predictions labels.jsonl --data test.parquet --view label-only
      fxray evaluate --config tiny --adapter runs/demo/sft/adapter --data test.parquet --out mine.parquet
    """
    if data is None or (predictions is None) == (config is None):
        raise typer.BadParameter("give --data, and either --predictions or --config")
    if view is not None and config is not None:
        raise typer.BadParameter("--view goes with --predictions; a configuration has its own: --set data.view=...")
    if not math.isfinite(threshold):
        raise typer.BadParameter(f"--threshold {threshold}: expected a finite number")
    has_boxes = _has_boxes(view or "full")
    if config is not None:
        tree = checked_config(config, overrides)
        predictions, has_boxes = out, _has_boxes(tree.data.view)
        _answer(tree, adapter, data, out)
    assert predictions is not None
    from fxray.evaluate.comparison import measure_gain

    score = partial(_score, data=data, has_boxes=has_boxes, threshold=threshold, num_bootstrap=num_bootstrap, seed=seed)
    evaluation = score(predictions)
    gain = measure_gain(score(against), evaluation) if against else None
    if as_json:
        import json

        numbers = evaluation.to_json() | ({"gain": gain.to_json()} if gain else {})
        typer.echo(json.dumps(numbers, indent=2))
        return
    from fxray.evaluate.captions import can_score_captions
    from fxray.evaluate.table import detail_table, gain_table, generator_table, probability_table

    print_table(generator_table(evaluation))
    print_table(detail_table(evaluation))
    if table := probability_table([evaluation]):
        print_table(table)
    if gain:
        print_table(gain_table(gain, is_synthetic=evaluation.is_synthetic))
    if not can_score_captions():
        typer.echo("captions are not scored: pip install 'fxray[captions]'", err=True)


def _score(
    predictions: Path, *, data: Path, has_boxes: bool, threshold: float, num_bootstrap: int, seed: int
) -> "Evaluation":
    """Scores a file of predictions, of whatever format."""
    from fxray.data.dataset import Dataset
    from fxray.evaluate.evaluation import evaluate as score
    from fxray.evaluate.foreign import read_any

    samples = Dataset.open(data).samples
    read = read_any(predictions, samples, threshold=threshold)
    return score(
        read.predictions,
        samples,
        num_bootstrap=num_bootstrap,
        seed=seed,
        name=predictions.stem,
        has_boxes=has_boxes and read.has_boxes,
    )


def _has_boxes(view: str) -> bool:
    """Whether a detector of that view points at places."""
    from fxray.grammar.views import VIEWS

    for name, parts in VIEWS.items():
        if name == view:
            return parts.has_regions
    raise typer.BadParameter(f"--view {view}: expected one of {', '.join(VIEWS)}")


def _answer(tree: "Config", adapter: Path | None, data: Path, out: Path) -> None:
    """Lets the model answer the samples of `data` into `out`."""
    from fxray import launch
    from fxray.cli.progress import show_progress

    with show_progress() as on_event:
        launch.evaluate_adapter(tree, adapter, data, out, on_event)


def report(run_dir: Annotated[str, typer.Argument(help="A run directory, finished or not.")]) -> None:
    """Write report.html and metrics.json of a run, and print its table of stages.

    \b
    Examples:
      fxray report runs/demo
      fxray report s3://bucket/runs/7b
    """
    from fxray.remote import local_folder
    from fxray.report import write_report

    with local_folder(run_dir) as folder:
        written = write_report(folder)
    show_report(written, within(run_dir, written.page, folder))
