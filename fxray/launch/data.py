"""The three splits of a run: files that the configuration names, or synthetic ones made once in the run directory."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from fxray.config.tree import Config
from fxray.events import OnEvent, PhaseDone, PhaseStarted, Step
from fxray.files import write_atomically
from fxray.launch.run import RunDirectory

PHASE = "data"


@dataclass(frozen=True, slots=True)
class Splits:
    """Parquet files of a run."""

    train: Path
    validation: Path
    test: Path
    is_synthetic: bool


def prepare_data(config: Config, run: RunDirectory, on_event: OnEvent) -> Splits:
    """Makes sure that the three splits are there and readable, and records where in `data.json`.

    Raises:
        DataError: A file is missing, empty or malformed.
    """
    from fxray.data.dataset import Dataset

    splits = _splits(config, run)
    synth = config.data.synth
    if synth is not None and not all(path.exists() for path in (splits.train, splits.validation, splits.test)):
        from fxray.data.synth.write import synthesise

        start_s = time.monotonic()
        on_event(PhaseStarted(PHASE))
        synthesise(
            run.data_file("train").parent,
            num_train=synth.num_train,
            num_validation=synth.num_validation,
            num_test=synth.num_test,
            size_px=synth.size_px,
            seed=synth.seed,
            progress=lambda split, done, total: on_event(Step(f"{PHASE} {split}", done, total)),
        )
        on_event(PhaseDone(PHASE, time.monotonic() - start_s, str(run.data_file("train").parent)))
    for path in (splits.train, splits.validation, splits.test):
        Dataset.open(path)
    record = {name: str(getattr(splits, name)) for name in ("train", "validation", "test")}
    write_atomically(
        run.root / "data.json", json.dumps(record | {"is_synthetic": splits.is_synthetic}, indent=2) + "\n"
    )
    return splits


def _splits(config: Config, run: RunDirectory) -> Splits:
    data = config.data
    if data.train and data.validation and data.test:
        return Splits(data.train, data.validation, data.test, is_synthetic=False)
    train, validation, test = (run.data_file(split) for split in ("train", "validation", "test"))
    return Splits(train, validation, test, is_synthetic=True)
