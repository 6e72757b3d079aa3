"""The folder that results go to: what was found is kept as it comes, so that a second run does only what is missing.

    settings.json      what answered, and how it was asked
    parts/NNNNNN.jsonl findings since the last run that ended, each file written aside and renamed
    detections.jsonl   all findings, one per line, once a run has ended
    thumbnails/        a small JPEG per image, named by its SHA-256

`file` is relative to the folder, so that it may be moved together with the images.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fxray.detect.finding import as_line
from fxray.errors import ConfigError, DataError, ResourceError
from fxray.files import disk_errors, make_folder, relative_path, write_atomically

SETTINGS, RESULTS, PARTS, THUMBNAILS = "settings.json", "detections.jsonl", "parts", "thumbnails"
FORMAT = 1
_LATER = {"base_fingerprint", "dtype"}
"""Settings that a folder of an earlier version does not hold: it is taken as it is."""
_NAMES = {"base_model": "base_fingerprint", "adapter": "adapter_sha256"}
"""Names of folders, which may be moved, and what they hold."""
_FLUSH_S, _FLUSH_FINDINGS = 5.0, 500

Record = dict[str, Any]


class ResultFolder:
    """An opened folder of results; use `opened_folder`.

    Args:
        folder: It is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: dict[str, Record] = {}
        self._fresh: list[Record] = []
        self._flushed_s = time.monotonic()
        parts = self._parts()
        self._num_parts = int(parts[-1].stem) if parts else 0
        for file in [*([folder / RESULTS] if (folder / RESULTS).is_file() else []), *parts]:
            for record in read_records(file):
                self._records[record["file"]] = record

    def key(self, file: str) -> str:
        """How a file is called in the folder."""
        return relative_path(Path(file), self.folder)

    def missing(self, files: Sequence[str]) -> list[str]:
        """Those of the files that are not there yet, have changed since, or are not to blame for their failure."""
        return [file for file in files if not self._is_known(file)]

    def _is_known(self, file: str) -> bool:
        record = self._records.get(self.key(file))
        if record is None or ("problem" in record and not record.get("is_lasting")):
            return False
        try:
            status = os.stat(file)  # noqa: PTH116 - quicker than pathlib, for a million of them
        except (OSError, ValueError):
            return False
        return (record["size_bytes"], record["modified_ns"]) == (status.st_size, status.st_mtime_ns)

    def add(self, record: Record, thumbnail: bytes) -> bool:
        """Takes a finding; it is on the disk within five seconds or 500 findings, or when the folder is closed.

        Returns:
            False where it was left: the file is away or cannot be read now, and what was found in it before stays.
        """
        record = record | {"file": self.key(record["file"])}
        if _is_of_the_disk(record, self._records.get(record["file"])):
            return False
        if thumbnail:
            write_thumbnail(self.folder, record["sha256"], thumbnail)
        self._records[record["file"]] = record
        self._fresh.append(record)
        if time.monotonic() - self._flushed_s > _FLUSH_S or len(self._fresh) >= _FLUSH_FINDINGS:
            self.flush()
        return True

    def flush(self) -> None:
        """Everything that was added is on the disk afterwards."""
        if self._fresh:
            self._num_parts += 1
            lines = "".join(as_line(record) + "\n" for record in self._fresh)
            write_atomically(self.folder / PARTS / f"{self._num_parts:06d}.jsonl", lines)
            self._fresh.clear()
        self._flushed_s = time.monotonic()

    def records(self, files: Sequence[str]) -> list[Record]:
        """What is known of these files, in their order."""
        keys = dict.fromkeys(self.key(file) for file in files)
        return [self._records[key] for key in keys if key in self._records]

    def finish(self, files: Sequence[str]) -> list[Record]:
        """Puts all findings into one file: those of this run in the order of its files, then those of earlier ones.

        Args:
            files: Of this run.

        Returns:
            The findings in the order of the file.
        """
        self.flush()
        first = self.records(files)
        known = {record["file"] for record in first}
        ordered = first + [record for key, record in self._records.items() if key not in known]
        write_atomically(self.folder / RESULTS, "".join(as_line(record) + "\n" for record in ordered))
        for part in self._parts():
            part.unlink()
        with suppress(OSError):  # it is not there, or holds a file of somebody else's
            (self.folder / PARTS).rmdir()
        return ordered

    def _parts(self) -> list[Path]:
        return sorted(part for part in (self.folder / PARTS).glob("*.jsonl") if part.stem.isdecimal())


@contextmanager
def opened_folder(folder: Path, settings: Mapping[str, Any]) -> Iterator[ResultFolder]:
    """Opens a folder of results for this process alone; what was added is on the disk when the block ends, however.

    Args:
        folder: New, empty, or one that was written with the same settings.
        settings: What answers, and how it is asked.

    Raises:
        ConfigError: It holds something else, or findings of another detector.
        DataError: Its files are damaged.
        ResourceError: Another process writes into it, or the disk is full or not writable.
    """
    make_folder(folder)
    with disk_errors(folder / SETTINGS), (folder / SETTINGS).open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ResourceError(
                "another process writes here", where=str(folder), remedy="wait for it, or name another folder"
            ) from error
        _check_settings(folder, settings)
        results = ResultFolder(folder)
        try:
            yield results
        finally:
            results.flush()


def read_records(file: Path) -> Iterator[Record]:
    """The findings in a file.

    Raises:
        DataError: A line is no finding; names it.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                if not isinstance(record["file"], str) or not isinstance(record["size_bytes"], int):
                    raise TypeError("no file")
                record["modified_ns"]
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise DataError(
                    f"no finding: {line[:80]!r}",
                    where=f"{file}, line {number}",
                    remedy="delete the line, and its image is examined again",
                ) from error
            yield record


def _is_of_the_disk(record: Record, before: Record | None) -> bool:
    """Whether a problem says nothing of the image that was examined before: nothing was read, and nothing changed."""
    if before is None or "problem" in before or "problem" not in record or record["sha256"]:
        return False
    status = (record["size_bytes"], record["modified_ns"])
    return status in ((-1, -1), (before["size_bytes"], before["modified_ns"]))


def thumbnail_file(folder: Path, sha256: str) -> Path:
    """Where the thumbnail of an image lies."""
    return folder / THUMBNAILS / sha256[:2] / f"{sha256}.jpg"


def write_thumbnail(folder: Path, sha256: str, encoded: bytes) -> None:
    """Keeps a thumbnail, unless it is there."""
    path = thumbnail_file(folder, sha256)
    if not path.exists():
        make_folder(path.parent)
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with disk_errors(path):
                aside.write_bytes(encoded)  # no fsync: it can be made again
                aside.replace(path)
        finally:
            with suppress(OSError):
                aside.unlink()


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    path = folder / SETTINGS
    wanted = {"format": FORMAT, **settings}
    held = path.read_bytes()
    if not held:
        strangers = [entry.name for entry in folder.iterdir() if entry.name != SETTINGS]
        if strangers:
            path.unlink()
            raise ConfigError(
                f"holds {strangers[0]!r} and no results of `fxray detect`",
                where=str(folder),
                remedy="name a new or an empty folder; nothing was changed",
            )
        path.write_text(json.dumps(wanted, indent=1) + "\n", "utf-8")  # the file that is locked: not replaced
        return
    try:
        found = json.loads(held)
        moved = {name for name, held in _NAMES.items() if found.get(held) and found[held] == wanted.get(held)}
        left_out = {"fxray"} | (_LATER - found.keys()) | moved
        changed = [n for n in {**wanted, **found} if wanted.get(n) != found.get(n) and n not in left_out]
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), remedy="name another folder") from error
    if changed:
        raise ConfigError(
            f"holds results with other settings: {changed[0]} is {found.get(changed[0])!r}, now it would be "
            f"{wanted.get(changed[0])!r}",
            where=str(folder),
            remedy="name another folder, so that results of two detectors are not mixed",
        )
