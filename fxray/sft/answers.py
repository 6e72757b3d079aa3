"""Every answer that an SFT job will teach, looked at before its first step: one that is too long ends it at once."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from fxray.counts import counted
from fxray.data.dataset import Dataset
from fxray.data.frame import frame_of, sight_of
from fxray.data.order import permutation
from fxray.errors import DataError
from fxray.events import OnEvent, PhaseDone, Step
from fxray.model.prompts import load_tokenizer
from fxray.sft.encode import taught_answer
from fxray.sft.settings import SftSettings

PHASE = "sft answers"
MAX_NAMED = 5
SILENT_S = 3.0
"""Nothing is told of what takes less."""
_EVERY = 500


def refuse_unlearnable(dataset: Dataset, settings: SftSettings, on_event: OnEvent) -> None:
    """Sees to it that every answer that the job will draw can be said, and is short enough. No image is read.

    Args:
        dataset: What it draws from.
        settings: The job.
        on_event: Told of the progress where it takes long.

    Raises:
        DataError: Some answers are too long, or cannot be said in the grammar: how many, and the first of them.
    """
    samples, start_s = dataset.samples, time.monotonic()
    num_drawn = settings.num_steps(len(samples)) * settings.batch_size
    rows = sorted(permutation(settings.seed, "sft", len(samples), epoch=0)[:num_drawn].tolist())
    errors = list[DataError]()
    for done, error in enumerate(_errors(dataset, rows, settings), start=1):
        if error is not None:
            errors.append(error)
        if done % _EVERY == 0 and time.monotonic() - start_s > SILENT_S:
            on_event(Step(PHASE, done, len(rows)))
    if errors:
        raise _of_all(errors, len(rows), str(dataset.path))
    if (elapsed_s := time.monotonic() - start_s) > SILENT_S:
        on_event(PhaseDone(PHASE, elapsed_s))


def learnable_rows(dataset: Dataset, rows: Sequence[int], settings: SftSettings) -> list[int]:
    """Of rows those whose answer can be said and is short enough. No image is read."""
    return [row for row, error in zip(rows, _errors(dataset, rows, settings), strict=True) if error is None]


def _errors(dataset: Dataset, rows: Sequence[int], settings: SftSettings) -> Iterator[DataError | None]:
    """What keeps the answer of each row from being taught."""
    model_path = Path(settings.model_path)
    tokenizer, sight = load_tokenizer(model_path), sight_of(model_path)
    frame = partial(frame_of, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels, sight=sight)
    for row in rows:
        sample = dataset.samples[row]
        try:
            taught_answer(tokenizer, sample, frame(sample), settings)
        except DataError as error:
            yield error
        else:
            yield None


def _of_all(errors: list[DataError], num_answers: int, where: str) -> DataError:
    named = [f"{error.where}: {error.message}" for error in errors[:MAX_NAMED]]
    if more := len(errors) - len(named):
        named.append(f"and {more} more")
    remedies = dict.fromkeys(error.remedy for error in errors)
    return DataError(
        f"{len(errors)} of {counted(num_answers, 'answer')} cannot be learnt: {'; '.join(named)}",
        where=where,
        remedy="; ".join([*filter(None, remedies), "fxray data tokens tells the longest"]),
    )
