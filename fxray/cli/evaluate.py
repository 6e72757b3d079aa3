"""`fxray evaluate` and `fxray report`: from answers to numbers, and from a run to a page."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import JsonOption, SetOption, checked_config, within
from fxray.cli.tables import print_table, show_report

if TYPE_CHECKING:
    from fxray.config.tree import Config
    from fxray.evaluate.comparison import Gain
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
        float | None,
        typer.Option(
            help="Score from which an image counts as generated, where a file has no verdicts. [default: 0.5]"
        ),
    ] = None,
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
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the answers go, when --config makes them: .parquet or .jsonl. [default: predictions.parquet]",
        ),
    ] = None,
    overrides: SetOption = None,
    num_bootstrap: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**6, help="Resamples behind each 95 % interval. [default: the configuration's, else 1000]"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the resamples. [default: the configuration's, else 0]")
    ] = None,
    as_json: JsonOption = False,
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
    if threshold is not None:
        _check_threshold(threshold, predictions, against)
    if config is None and (idle := _given(adapter=adapter, out=out, set=overrides)):
        raise typer.BadParameter(f"--{idle[0]} goes with --config; --predictions are answered already")
    answers = predictions or _answers_file(out)
    tree = checked_config(config, overrides) if config is not None else None
    from fxray.config.tree import EvaluateConfig
    from fxray.evaluate.comparison import measure_gain

    settings = tree.evaluate if tree else EvaluateConfig()
    score = partial(
        _score,
        data=data,
        num_samples=settings.num_samples,
        has_boxes=_has_boxes(tree.data.view if tree else view or "full"),
        threshold=0.5 if threshold is None else threshold,
        num_bootstrap=num_bootstrap or settings.num_bootstrap,
        seed=seed if seed is not None else tree.seed if tree else 0,
    )
    name, other = _names(answers, against)
    # First, so that what is wrong with it is told before the model answers for hours.
    before = score(against, name=other) if against else None
    if tree:
        _answer(tree, adapter, data, answers)
    evaluation = score(answers, name=name)
    gain = measure_gain(before, evaluation) if before else None
    _show(evaluation, gain, as_json=as_json)


def _check_threshold(threshold: float, *files: Path | None) -> None:
    """Sees to it that it is a number, and that one of the files may have scores without verdicts."""
    if not math.isfinite(threshold):
        raise typer.BadParameter(f"--threshold {threshold}: expected a finite number")
    if not any(file.suffix.lower() in (".csv", ".json") for file in files if file):
        raise typer.BadParameter(
            "--threshold goes with scores in .csv and .json; other predictions have their verdicts"
        )


def _given(**options: object) -> list[str]:
    """Names of the options that were given."""
    return [name for name, value in options.items() if value]


def _answers_file(out: Path | None) -> Path:
    """Where the model's answers go; what could not be written, or not be read back, is refused before it answers."""
    if out is None:
        return Path("predictions.parquet")
    if out.suffix not in (".parquet", ".jsonl") or out.is_dir():
        raise typer.BadParameter(f"--out {out}: expected a file whose name ends in .parquet or .jsonl")
    return out


def _names(predictions: Path, against: Path | None) -> tuple[str, str]:
    """What to call a file and the one that it is held against: by the last folder or file in which they differ."""
    if against is None:
        return predictions.stem, ""
    pairs = zip(_backwards(predictions), _backwards(against), strict=False)
    return next((pair for pair in pairs if pair[0] != pair[1]), (predictions.name, against.name))


def _backwards(path: Path) -> list[str]:
    """File and folders from the last to the first; without a file name that every run gives."""
    is_telling = path.stem != "predictions" or not path.parent.name
    return [path.stem] * is_telling + [folder.name for folder in path.absolute().parents]


def _show(evaluation: "Evaluation", gain: "Gain | None", *, as_json: bool) -> None:
    """Prints the numbers as tables or JSON."""
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
    predictions: Path,
    *,
    name: str,
    data: Path,
    num_samples: int,
    has_boxes: bool,
    threshold: float,
    num_bootstrap: int,
    seed: int,
) -> "Evaluation":
    """Scores a file of predictions, of whatever format, on the samples that a model is asked; 0 means all."""
    from fxray.cli.progress import show_progress
    from fxray.data.dataset import Dataset
    from fxray.data.pairing import check_same_samples
    from fxray.evaluate.evaluation import evaluate as score
    from fxray.evaluate.foreign import read_any

    samples = Dataset.open(data).samples
    read = read_any(predictions, samples, threshold=threshold)
    asked, said = samples, read.predictions
    if num_samples:
        from fxray.launch.evaluation import rows_to_answer

        asked = [samples[row] for row in rows_to_answer(len(samples), num_samples)]
        left_out = {sample.sample_id for sample in samples} - {sample.sample_id for sample in asked}
        said = [prediction for prediction in said if prediction.sample_id not in left_out]
    check_same_samples({each.sample_id for each in said}, {each.sample_id for each in asked}, where=str(predictions))
    with show_progress() as on_event:
        return score(
            said,
            asked,
            num_bootstrap=num_bootstrap,
            seed=seed,
            name=name,
            has_boxes=has_boxes and read.has_boxes,
            on_event=on_event,
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
    from fxray.cli.progress import show_progress
    from fxray.launch import phases

    with show_progress() as on_event:
        phases.evaluate_adapter(tree, adapter, data, out, on_event)


def report(run_dir: Annotated[str, typer.Argument(help="A run directory, finished or not.")]) -> None:
    """Write report.html and metrics.json of a run, and print its table of stages.

    \b
    Examples:
      fxray report runs/demo
      fxray report s3://bucket/runs/7b
    """
    from fxray.remote import local_folder
    from fxray.report.page import write_report

    with local_folder(run_dir) as folder:
        written = write_report(folder)
    show_report(written, within(run_dir, written.page, folder))
