"""Several baselines, each in a process of its own: one that fails does not stop the others, nor count their memory."""

import hashlib
import json
import multiprocessing
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fxray.baselines.measure import PREDICTIONS, RECORD, UNDER, Job, Under, measure
from fxray.baselines.ports import Settings
from fxray.baselines.registry import BASELINES, Entry
from fxray.data.dataset import Dataset
from fxray.errors import ConfigError, DataError, DeadlineError, FxrayError, WorkerDiedError
from fxray.events import Note, OnEvent, ignore
from fxray.files import file_sha256, refuse_to_replace

SILENCE_S = 1800.0
"""A baseline that tells of no step for so long is given up."""
_END_S = 30.0
_IN_COMMON = ("train_sha256", "test_sha256", "seed")
"""What baselines must have in common to stand in one table."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the baselines of one command.

    Attributes:
        records: By name, of all that are done with these data and this seed, earlier commands' among them.
        failures: Why others are not.
    """

    records: dict[str, dict[str, Any]]
    failures: dict[str, FxrayError]


def run_baselines(
    entries: Sequence[Entry],
    settings: Settings,
    weights: Mapping[str, Path],
    *,
    train: Path,
    test: Path,
    out: Path,
    versions: Mapping[str, Any],
    on_event: OnEvent = ignore,
    silence_s: float = SILENCE_S,
    under: Under | None = None,
) -> Outcome:
    """Measures baselines, one after the other; what is done already, with the same data and settings, stays.

    Args:
        entries: Of the registry.
        settings: Of all of them.
        weights: By name, what fitting starts from.
        train: Parquet file to fit on.
        test: Parquet file to answer.
        out: Folder; each baseline gets one of its own in it.
        versions: Of packages, for the records.
        on_event: Is told of the progress.
        silence_s: Seconds without a step after which a baseline is given up.
        under: Changed test images to ask about, too.

    Raises:
        DataError: A dataset cannot be read, or both are one.
        ConfigError: `weights` lacks what a baseline needs, or names one that takes none or is not measured, or what is
            not there; or there is no such device; or other things lie in a folder that is to be replaced.
    """
    _refuse_what_does_nothing(entries, settings, weights)
    key = _common_key(train, test, settings)
    if under is not None:
        key |= {"changes": list(under.changes), "num_changed": len(under.rows), "num_bootstrap": under.num_bootstrap}
    note_shared_sources(train, test, on_event)
    jobs = []
    for entry in entries:
        own = _with_weights(settings, entry, weights.get(entry.name))
        job = Job(entry, own, train, test, out / entry.name, entry.heeded(key | _own_key(own)), versions, under)
        if not _is_done(job):
            refuse_to_replace(job.out, unless_all_are={PREDICTIONS, RECORD, UNDER})
        jobs.append(job)
    failures = dict[str, FxrayError]()
    for job in jobs:
        if _is_done(job):
            on_event(Note(f"{job.entry.name} is measured already"))
            continue
        try:
            _run_apart(job, on_event, silence_s)
        except FxrayError as error:
            failures[job.entry.name] = error
            on_event(Note(f"{job.entry.name} failed: {error}", is_warning=True))
    files = {entry.name: out / entry.name / RECORD for entry in BASELINES if entry.name not in failures}
    found = {name: read_record(file) for name, file in files.items() if file.is_file()}
    return Outcome({n: r for n, r in found.items() if all(r["key"].get(k) == key[k] for k in _IN_COMMON)}, failures)


def _refuse_what_does_nothing(entries: Sequence[Entry], settings: Settings, weights: Mapping[str, Path]) -> None:
    from fxray.baselines.training import refuse_device

    refuse_device(settings.device)  # also where no baseline that is asked for opens it
    for name in weights:
        if name not in [entry.name for entry in entries]:
            raise ConfigError(
                f"{name} is not among the baselines that are to be measured",
                where=f"--weights {name}",
                remedy="name it, too, or leave its weights out",
            )


def _common_key(train: Path, test: Path, settings: Settings) -> dict[str, Any]:
    for path in (train, test):
        if not path.is_file():
            raise DataError("no such dataset file", where=str(path), remedy="write it with `fxray data import`")
    key = {"train_sha256": file_sha256(train), "test_sha256": file_sha256(test), "seed": settings.seed}
    if key["train_sha256"] == key["test_sha256"]:
        raise DataError(
            f"is the same file as {train}: a baseline would answer what it was fitted on",
            where=str(test),
            remedy="split the dataset first: `fxray data split`",
        )
    return key


def _own_key(settings: Settings) -> dict[str, Any]:
    return {
        "epochs": settings.epochs,
        "size": settings.size,
        "device": settings.device,
        "weights_sha256": _fingerprint(settings.weights) if settings.weights else None,
    }


def _with_weights(settings: Settings, entry: Entry, path: Path | None) -> Settings:
    if path is None:
        if not entry.needs_weights:
            return settings
        raise ConfigError(
            f"{entry.name} is nothing without {entry.model}",
            where="--weights",
            remedy=f"give {entry.weights}: --weights {entry.name}=PATH; nothing is downloaded",
        )
    if not entry.weights:
        takers = ", ".join(each.name for each in BASELINES if each.weights)
        raise ConfigError(f"{entry.name} takes no weights", where="--weights", remedy=f"those that do: {takers}")
    is_there = path.is_dir() if entry.weights == "a folder" else path.is_file()
    if not is_there:
        raise ConfigError(
            f"{path} is not there, or is not {entry.weights}",
            where=f"--weights {entry.name}",
            remedy=f"give {entry.weights}; nothing is downloaded",
        )
    return replace(settings, weights=path)


def _fingerprint(path: Path) -> str:
    """SHA-256 of a weight file or, of a folder, of its configuration and weights."""
    if path.is_file():
        return file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.suffix in (".json", ".safetensors"))
    lines = (f"{file.relative_to(path)} {file_sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def note_shared_sources(train: Path, test: Path, on_event: OnEvent) -> None:
    """Warns of sources that what is fitted and what is asked about have in common.

    Raises:
        DataError: A file is missing or malformed.
    """
    first, second = ({sample.source for sample in Dataset.open(path).samples} for path in (train, test))
    if shared := first & second:
        on_event(
            Note(
                f"{len(shared)} of {len(second)} sources of {test} are also in {train}, {min(shared)!r} for one: "
                "numbers will be better than on unseen ones",
                is_warning=True,
            )
        )


def _is_done(job: Job) -> bool:
    file = job.out / RECORD
    return file.is_file() and job.entry.heeded(read_record(file)["key"]) == job.key


def read_record(file: Path) -> dict[str, Any]:
    """A record.

    Raises:
        DataError: It is damaged.
    """
    try:
        record = json.loads(file.read_bytes())
        if not isinstance(record["key"], dict):
            raise TypeError("its key is no object")
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"is no record of a baseline: {error}", where=str(file), remedy="delete the folder; it is measured anew"
        ) from error
    return dict(record)


def _run_apart(job: Job, on_event: OnEvent, silence_s: float) -> None:
    """Measures one baseline in a new process, and passes on what it tells.

    Raises:
        FxrayError: What the baseline raised.
        WorkerDiedError: It raised something else, or its process ended without a word, killed for memory for one.
        DeadlineError: It told of no step for `silence_s`.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        while ours.poll(silence_s):
            told = ours.recv()
            if isinstance(told, FxrayError):
                raise told
            if told is None:
                process.join(_END_S)
                return
            on_event(told)
        raise DeadlineError(
            f"no step for {silence_s:g} s",
            remedy="try fewer images, --epochs 1, or another --device",
        )
    except EOFError:
        process.join(_END_S)
        raise WorkerDiedError(
            f"its process ended with exit code {process.exitcode}",
            remedy="-9 is most often a lack of memory; what it wrote on stderr says more",
        ) from None
    finally:
        if process.is_alive():
            process.kill()
            process.join(_END_S)
        ours.close()


def _work(job: Job, to_parent: Connection) -> None:
    """Body of the process: events, then None, or the error that ended it."""
    try:
        measure(job, to_parent.send)
        to_parent.send(None)
    except FxrayError as error:
        to_parent.send(error)
    except Exception as error:  # noqa: BLE001 - the process ends here; what it says goes to the table and the log
        traceback.print_exc()
        said = " ".join(str(error).split()[:40])
        to_parent.send(WorkerDiedError(f"{type(error).__name__}: {said}", remedy="its traceback is on stderr"))
    finally:
        to_parent.close()
