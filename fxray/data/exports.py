"""Exports: a dataset, and what a detector said of it, to the files of another tool."""

from collections.abc import Mapping
from pathlib import Path

from fxray.data.dataset import Dataset
from fxray.data.exported import Guess, exported
from fxray.data.formats.catalogue import Format, writer
from fxray.data.pairing import check_same_samples
from fxray.events import OnEvent
from fxray.files import atomic_dir, refuse_unless_empty


def export_dataset(
    form: Format, data: Path, dst: Path, *, on_event: OnEvent, guesses: Mapping[str, Guess] | None = None
) -> int:
    """Writes a dataset in another tool's format, whole or not at all.

    Args:
        form: A format that is written.
        data: Parquet file of a dataset.
        dst: A new or an empty folder.
        on_event: Is told how it goes.
        guesses: What a detector said of every sample, by id, or None.

    Returns:
        The number of rows.

    Raises:
        ConfigError: The folder holds something.
        DataError: The dataset cannot be read, or predictions are not those of just its samples.
    """
    refuse_unless_empty(dst)
    dataset = Dataset.open(data)
    if guesses is not None:
        check_same_samples(set(guesses), {sample.sample_id for sample in dataset.samples}, where=str(dataset.path))
    with atomic_dir(dst) as aside:
        writer(form)(exported(dataset, aside, on_event, guesses), aside, has_predictions=guesses is not None)
        for folder in sorted(aside.glob("images/*"), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
        if (images := aside / "images").is_dir() and not any(images.iterdir()):
            images.rmdir()
    return len(dataset)
