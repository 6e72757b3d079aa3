"""What the files of a run's data held when it began with them: that, and not where they lie, makes them the run's."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fxray.config.tree import Config
from fxray.errors import DataError

if TYPE_CHECKING:
    from fxray.data.dataset import Dataset

DATA_FILE = "data.json"
SPLITS = ("train", "validation", "test")
TELL_THE_RUN = "put it back there, or give `fxray train` with this run directory the place that it was moved to"
"""What to do about a file of a run's data that is not where the run knows it."""


def fingerprint(dataset: "Dataset") -> str:
    """SHA-256 of what a dataset teaches of its images, row by row, and of the size of its file.

    Images are not read: that takes minutes where there are many, and others are hardly ever as large to the byte.
    """
    total = hashlib.sha256(f"{dataset.path.stat().st_size}".encode())
    for sample in dataset.samples:
        truth = sample.annotation
        regions = [[*region.box, region.caption] for region in truth.regions]
        facts = (sample.sample_id, sample.width_px, sample.height_px, truth.verdict, regions, truth.tags, sample.source)
        total.update(json.dumps(facts).encode())
    return total.hexdigest()


def refuse_other_contents(root: Path, files: Mapping[str, Path], contents: Mapping[str, str]) -> None:
    """Keeps a run from going on with other rows: order and lengths of all phases, and what was held out, hang on them.

    Args:
        root: The run directory.
        files: Of the splits, by their names.
        contents: What `fingerprint` says of them.

    Raises:
        DataError: A file changed since the run began with it.
    """
    before = _recorded(root)
    for name, found in contents.items():
        if before.get(name, found) != found:
            raise DataError(
                "changed since this run began with it",
                where=f"data.{name}: {files[name]}",
                remedy="put the file back as it was, or choose another --run-dir",
            )


def are_the_same(root: Path, config: Config) -> bool:
    """Whether the three files that a configuration names hold what the run in a folder began with: they were moved.

    Raises:
        DataError: One is missing or no dataset.
    """
    from fxray.data.dataset import Dataset

    before, files = _recorded(root), {name: getattr(config.data, name) for name in SPLITS}
    return all(
        file is not None and name in before and before[name] == fingerprint(Dataset.open(file))
        for name, file in files.items()
    )


def _recorded(root: Path) -> dict[str, str]:
    try:
        found = json.loads((root / DATA_FILE).read_bytes())["contents"]
        return {name: str(found[name]) for name in SPLITS if name in found}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
