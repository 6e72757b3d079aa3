"""A detector on the test split of its run under what images go through: recompressed, cropped, resized, re-shared.

    RUN/robustness/<phase>/<change>/predictions.parquet numbers.json    a folder per change, whole or not at all
    RUN/robustness/<phase>/robustness.md .tex .csv .html .png .svg      over all that are done

A change that is done is not done again for the same adapter, data and rows. Changed images are kept only while they are
answered. Boxes of a changed image are in its own pixels, and so is the truth that they are held against.
"""

import io
import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from fxray.config.tree import Config
from fxray.counts import counted
from fxray.data.changes import HARDSHIPS, Change, change_sample, refuse_too_long
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import DataError
from fxray.evaluate.comparison import measure_gain
from fxray.evaluate.evaluation import Evaluation, evaluate
from fxray.evaluate.predictions import Prediction, read_predictions, write_predictions
from fxray.events import Note, OnEvent, ignore
from fxray.files import atomic_dir, file_sha256, write_atomically
from fxray.grammar.views import VIEWS
from fxray.launch.calibration import chosen_phase, splits_of_finished
from fxray.launch.cluster import ray_cluster
from fxray.launch.evaluation import answer_split, rows_to_answer
from fxray.launch.fleet import Policies, open_policies, read_policy
from fxray.launch.plan import greedy
from fxray.launch.prompts import PromptSource
from fxray.launch.run import RunDirectory, open_finished
from fxray.launch.session import num_cpus
from fxray.launch.start import image_fetcher
from fxray.model.folder import resolve_model_path
from fxray.report.robustness import ORIGINAL, RobustnessReport, write_robustness
from fxray.schema import Sample
from fxray.versions import versions

FOLDER, NUMBERS, ANSWERS = "robustness", "numbers.json", "predictions.parquet"


def measure_robustness(
    run_dir: Path, stage: str | None, changes: Sequence[Change], overrides: Sequence[str], on_event: OnEvent = ignore
) -> RobustnessReport:
    """Lets a finished phase of a run answer its test split under every change, and writes tables and curves.

    Args:
        run_dir: The run; its own answers to the test split are used as they are, and drawn first where there are none.
        stage: "sft" or a stage; None for the last that is finished.
        changes: What to try, of `HARDSHIPS`; the tables also show what was tried before.
        overrides: Fields of the configuration, as `--set` of the command line.
        on_event: Told of the progress.

    Raises:
        CheckpointError: The phase is not finished.
        ConfigError: An override decides answers.
        FxrayError: Another process works on the run.
        DataError: The test split is not there, or an image of it is too narrow once changed, or too long for a change,
            or cannot be read where the configuration does not leave such images out, or none can.
    """
    splits = splits_of_finished(run_dir, "test")
    with open_finished(run_dir, overrides, may_ask_fewer=True) as (config, finished):
        name = chosen_phase(list(finished), stage, run_dir)
        dataset, root = Dataset.open(splits.test), run_dir / FOLDER / name
        rows = rows_to_answer(len(dataset), config.evaluate.num_samples)
        key = {
            "phase": name,
            "seed": config.seed,
            "num_images": len(rows),
            "num_bootstrap": config.evaluate.num_bootstrap,
            "data": str(splits.test),
            "data_sha256": file_sha256(splits.test),
            "adapter_sha256": read_policy(finished[name], 0).sha256,
            "commit": versions()["git_revision"],
            "config": "config.yaml",
            "is_synthetic": splits.is_synthetic,
        }
        missing = [change for change in changes if not _is_done(root / change.name, key)]
        answers = RunDirectory(run_dir).predictions(name)
        if len(missing) < len(changes):
            on_event(Note(f"{len(changes) - len(missing)} of {counted(len(changes), 'change')} measured already"))
        if missing or not _is_done(root / ORIGINAL, key):
            _measure(config, finished[name], dataset, rows, missing, answers, root, key, on_event)
        done = [change for change in HARDSHIPS if _is_done(root / change.name, key)]
        measured = {name: read_numbers(root / name) for name in (ORIGINAL, *(change.name for change in done))}
        commits = dict.fromkeys(str(numbers["key"]["commit"]) for numbers in measured.values())
        titles = {change.name: change.title for change in done}
        told = key | {"commit": ", ".join(commits)}
        num_answered = measured[ORIGINAL]["num_real"] + measured[ORIGINAL]["num_generated"]
        if num_answered < len(rows):
            told |= {"num_images": num_answered, "num_unreadable_images": len(rows) - num_answered}
        sources = [dataset.samples[row].source for row in rows]
        return write_robustness(root, measured, titles, told, sources)


def changed_rows(dataset: Dataset, rows: Sequence[int], change: Change) -> Iterator[Row]:
    """Rows of a dataset with their images changed, kept without loss, and the truth moved along.

    Raises:
        DataError: An image cannot be read.
    """
    for row in rows:
        sample = dataset.samples[row]
        changed = change.apply(dataset.decode(row, dataset.image_bytes(row)))
        encoded = io.BytesIO()
        changed.image.save(encoded, "PNG", compress_level=1)
        yield Row(change_sample(sample, changed), image=encoded.getvalue())


def _measure(
    config: Config,
    adapter: Path,
    dataset: Dataset,
    rows: Sequence[int],
    changes: Sequence[Change],
    answers: Path,
    root: Path,
    key: dict[str, Any],
    on_event: OnEvent,
) -> None:
    """One Ray and one set of engines for all changes."""
    model_path = resolve_model_path(config.model.path)
    rows = _readable_rows(config, dataset, rows, on_event)
    samples = [dataset.samples[row] for row in rows]
    refuse_too_long(samples, changes)
    own = _known(root / ORIGINAL / ANSWERS if _is_done(root / ORIGINAL, key) else answers, samples)
    with (
        ray_cluster(config.ray, min_cpus=num_cpus(config)),
        open_policies(config, model_path, on_event) as policies,
    ):
        policies.use_policy(adapter, 0)
        said = own if own is not None else _answer(policies, config, model_path, dataset, rows, ORIGINAL, on_event)
        original = _score(config, said, samples, ORIGINAL)
        keep = partial(_keep, key=key, has_boxes=VIEWS[config.data.view].has_regions)
        keep(root / ORIGINAL, said, original.to_json() | {"gain": None})
        for change in changes:
            aside = root / f".{change.name}.tmp"
            try:
                write_dataset(aside, changed_rows(dataset, rows, change))
                changed = Dataset.open(aside)
                said = _answer(policies, config, model_path, changed, range(len(changed)), change.name, on_event)
            finally:
                aside.unlink(missing_ok=True)
            scored = _score(config, said, changed.samples, change.name)
            gain = measure_gain(original, scored)
            keep(root / change.name, said, scored.to_json() | {"gain": gain.to_json()})


def _readable_rows(config: Config, dataset: Dataset, rows: Sequence[int], on_event: OnEvent) -> list[int]:
    """What all changes are measured on, by the rules of the image store, which let the run leave out the same rows.

    Raises:
        DataError: An image cannot be read and the configuration does not leave it out, or none can be read.
    """
    readable = []
    for row in rows:
        try:
            dataset.decode(row, dataset.image_bytes(row))
        except DataError as error:
            if config.data.on_corrupt_image != "skip":
                raise
            on_event(Note(f"left out: {error}", is_warning=True))
        else:
            readable.append(row)
    if not readable:
        raise DataError(
            f"none of {counted(len(rows), 'image')} can be read",
            where=str(dataset.path),
            remedy="put the images there again",
        )
    return readable


def _known(answers: Path, samples: Sequence[Sample]) -> list[Prediction] | None:
    """What was said of the unchanged images before, if of just these."""
    if not answers.exists():
        return None
    said = read_predictions(answers)
    return said if {p.sample_id for p in said} == {sample.sample_id for sample in samples} else None


def _answer(
    policies: Policies,
    config: Config,
    model_path: Path,
    dataset: Dataset,
    rows: Sequence[int],
    name: str,
    on_event: OnEvent,
) -> list[Prediction]:
    def refuse_image(error: DataError) -> None:
        raise error

    fetch = image_fetcher(config, dataset.path, model_path, refuse_image, on_event)
    prompts = PromptSource(dataset, fetch, config, model_path)
    return answer_split(
        policies.generator,
        prompts,
        rows,
        greedy(config),
        batch_size=policies.batch_size,
        view=config.data.view,
        phase=f"under {name}",
        on_event=on_event,
    )


def _score(config: Config, said: Sequence[Prediction], samples: Sequence[Sample], name: str) -> Evaluation:
    return evaluate(
        said,
        samples,
        num_bootstrap=config.evaluate.num_bootstrap,
        seed=config.seed,
        name=name,
        has_boxes=VIEWS[config.data.view].has_regions,
    )


def _keep(
    folder: Path, said: Sequence[Prediction], numbers: dict[str, Any], *, key: dict[str, Any], has_boxes: bool
) -> None:
    with atomic_dir(folder) as aside:
        write_predictions(said, aside / ANSWERS, has_boxes=has_boxes)
        write_atomically(aside / NUMBERS, json.dumps({"key": key} | numbers, indent=2) + "\n")


def _is_done(folder: Path, key: dict[str, Any]) -> bool:
    """Whether a change is measured, for what decides its answers; the commit is only told."""
    if not (folder / NUMBERS).is_file():
        return False
    measured = read_numbers(folder)["key"]
    decides = ("seed", "num_images", "num_bootstrap", "data_sha256", "adapter_sha256")
    return all(measured.get(name) == key[name] for name in decides)


def read_numbers(folder: Path, metrics: Sequence[str] = ("accuracy", "iou")) -> dict[str, Any]:
    """What is known of a change: an evaluation, its `gain` over the original (None of that itself), and its `key`.

    Args:
        folder: Of the change.
        metrics: Those that are needed.

    Raises:
        DataError: The file is damaged, or lacks something of that.
    """
    numbers = read_scores(folder / NUMBERS, metrics, folder)
    try:
        numbers["is_synthetic"], numbers["key"]["commit"]
    except (KeyError, TypeError) as error:
        raise _lacking(error, folder / NUMBERS, folder) from error
    return numbers


def read_scores(file: Path, metrics: Sequence[str], folder: Path) -> dict[str, Any]:
    """An evaluation of changed images and its `gain` over the original ones, None of these themselves.

    Args:
        file: That holds it as JSON.
        metrics: Those that are needed.
        folder: What to delete so that it is measured anew.

    Raises:
        DataError: The file is damaged, or lacks something of that.
    """
    try:
        numbers: dict[str, Any] = json.loads(file.read_bytes())
        for name in ("overall", "gain", "num_real", "num_generated"):
            numbers[name]
        for part in [numbers["overall"], *([] if numbers["gain"] is None else [numbers["gain"]["metrics"]])]:
            for metric, bound in product(metrics, ("value", "low", "high")):
                part[metric][bound]
    except (ValueError, KeyError, TypeError) as error:
        raise _lacking(error, file, folder) from error
    return numbers


def _lacking(error: Exception, file: Path, folder: Path) -> DataError:
    what = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged: {error}"
    return DataError(what, where=str(file), remedy=f"delete the folder {folder}; the same command measures it anew")
