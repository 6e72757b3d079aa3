"""An import that streams, goes on where it stopped, and lands whole.

    read     the reader's records, 256 to a file, in `.import/`        one process, row by row
    convert  each file's images into `images/`, its rows into a part   any number of processes
    land     parts into dataset.parquet, then SHA256SUMS               one process, part by part

A part whose two files are there is done. Nothing ever holds more than one file of records or one image.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from fxray.counts import counted
from fxray.data.dataset import join_datasets, write_dataset
from fxray.data.formats.record import Finding, Record, Rows
from fxray.data.image_store import FOLDER, ImageStore
from fxray.data.parts import PART_ROWS
from fxray.data.rows import Reading, read_record
from fxray.errors import ConfigError, DataError, FxrayError
from fxray.events import OnEvent, PhaseDone, PhaseStarted, Step
from fxray.files import atomic_path, file_sha256, make_folder, refuse_unless_empty, write_atomically

RECORDS_PER_PART = PART_ROWS
DATASET, FINDINGS, SUMS, RECORD = "dataset.parquet", "findings.jsonl", "SHA256SUMS", "import.json"
_WORK = ".import"


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of an import.

    Attributes:
        num_rows: Rows of the dataset.
        num_refused: Rows that could not be read, and what else could not: COCO's annotations of no image, links.
        num_warnings: Warnings on rows that were read.
        num_images: Image files in the store.
        num_image_bytes: Their size in bytes.
    """

    num_rows: int
    num_refused: int
    num_warnings: int
    num_images: int
    num_image_bytes: int


class ImportJob:
    """The folder of an import.

    Args:
        root: Where the dataset comes to lie.
        plan: What is imported and how, in words that JSON holds; an unfinished import of another plan is not resumed.

    Raises:
        ConfigError: The folder holds something else.
        ResourceError: The folder cannot be made.
    """

    def __init__(self, root: Path, plan: dict[str, object]) -> None:
        self.root = root
        self._work = root / _WORK
        self._plan = plan
        plan_file = self._work / "plan.json"
        if plan_file.is_file():
            _check_same(json.loads(plan_file.read_bytes()), plan, root)
        else:
            if not _has_nothing(root):
                refuse_unless_empty(root)
            make_folder(self._work)
            write_atomically(plan_file, json.dumps(plan))

    def read(self, rows: Callable[[], Rows], on_event: OnEvent) -> int:
        """Lays the records down in files; does nothing where an earlier run has done so.

        Returns:
            The number of parts.
        """
        done = self._work / "read.json"
        if done.is_file():
            return int(json.loads(done.read_bytes())["num_parts"])
        on_event(PhaseStarted("read"))
        try:
            num_parts, num_records = self._lay_down(rows(), on_event)
        except FxrayError:  # the source is no such thing: as if nothing had been asked
            shutil.rmtree(self._work)
            if not any(self.root.iterdir()):
                self.root.rmdir()
            raise
        write_atomically(done, json.dumps({"num_parts": num_parts}))
        on_event(PhaseDone("read", 0, counted(num_records, "row")))
        return num_parts

    def _lay_down(self, rows: Rows, on_event: OnEvent) -> tuple[int, int]:
        num_parts, num_records = 0, 0
        with atomic_path(self._work / "unread.jsonl") as aside, aside.open("w") as findings:
            records = _named_apart(_records(rows, findings.write))
            while part := list(islice(records, RECORDS_PER_PART)):
                write_atomically(self._records(num_parts), "".join(record.to_json() + "\n" for record in part))
                num_parts += 1
                num_records += len(part)
                on_event(Step("read", num_records, 0))
        return num_parts, num_records

    def missing_parts(self, num_parts: int) -> list[int]:
        """Parts that are still to be converted, or whose images have gone since."""
        return [number for number in range(num_parts) if not self._is_done(number)]

    def convert(self, number: int, reading: Reading) -> None:
        """Makes the records of one part rows, and keeps their images."""
        store, rows, findings = ImageStore(self.root), [], []
        for line in self._records(number).read_text().splitlines():
            row, found = read_record(Record.from_json(line), reading, store)
            findings += found
            if row is not None:
                rows.append(row)
        if rows:
            write_dataset(self._part(number), rows)
        sizes = {row.image_path: (self.root / str(row.image_path)).stat().st_size for row in rows}
        done = {"num_rows": len(rows), "images": sizes, "findings": [asdict(finding) for finding in findings]}
        write_atomically(self._done(number), json.dumps(done))

    def land(self, num_parts: int, *, is_strict: bool, on_event: OnEvent) -> Summary:
        """Joins the parts and writes the checksums.

        Raises:
            DataError: There are no rows, or `is_strict` and some could not be read; only the findings stay.
        """
        on_event(PhaseStarted("join", num_parts))
        num_rows, num_refused, num_warnings = 0, 0, 0
        first: list[Finding] = []  # three of them, with three reasons where there are so many
        reasons: dict[str, Finding] = {}
        with atomic_path(self.root / FINDINGS) as aside, aside.open("w", encoding="utf-8") as out:
            for finding in self._findings(num_parts):
                out.write(json.dumps(asdict(finding), ensure_ascii=False).encode("utf-8", "replace").decode() + "\n")
                num_warnings += finding.is_warning
                num_refused += not finding.is_warning
                if not finding.is_warning:
                    first = first if len(first) == 3 else [*first, finding]
                    if len(reasons) < 3:
                        reasons.setdefault(finding.reason, finding)
        for number in range(num_parts):
            num_rows += json.loads(self._done(number).read_bytes())["num_rows"]
        if (is_strict and num_refused) or num_rows == 0:
            shutil.rmtree(self.root / FOLDER, ignore_errors=True)
            shutil.rmtree(self._work)
            shown = list(dict.fromkeys([*reasons.values(), *first]))[:3]
            raise _refused(self.root / FINDINGS, num_rows, num_refused, shown)
        parts = [path for number in range(num_parts) if (path := self._part(number)).exists()]
        join_datasets(self.root / DATASET, parts)
        num_images, num_bytes = _write_sums(self.root)
        summary = Summary(num_rows, num_refused, num_warnings, num_images, num_bytes)
        write_atomically(self.root / RECORD, json.dumps(self._plan | asdict(summary), indent=2) + "\n")
        shutil.rmtree(self._work)
        on_event(PhaseDone("join", 0, f"{counted(num_rows, 'row')}, {counted(num_images, 'image')}"))
        return summary

    def _findings(self, num_parts: int) -> Iterator[Finding]:
        with (self._work / "unread.jsonl").open() as lines:
            for line in lines:
                yield Finding(**json.loads(line))
        for number in range(num_parts):
            for fields in json.loads(self._done(number).read_bytes())["findings"]:
                yield Finding(**fields)

    def _is_done(self, number: int) -> bool:
        try:
            images = json.loads(self._done(number).read_bytes())["images"]
            return all((self.root / path).stat().st_size == size for path, size in images.items())
        except OSError:
            return False

    def _records(self, number: int) -> Path:
        return self._work / f"records-{number:06d}.jsonl"

    def _part(self, number: int) -> Path:
        return self._work / f"part-{number:06d}.parquet"

    def _done(self, number: int) -> Path:
        return self._work / f"part-{number:06d}.json"


def first_findings(path: Path, count: int) -> list[Finding]:
    """The first findings of an import, refused rows before warnings."""
    with path.open(encoding="utf-8") as lines:
        found = [Finding(**json.loads(line)) for line in islice(lines, 100_000)]
    return sorted(found, key=lambda finding: finding.is_warning)[:count]


def _records(rows: Rows, note: Callable[[str], object]) -> Iterator[Record]:
    for row in rows:
        if isinstance(row, Finding):
            note(json.dumps(asdict(row)) + "\n")
        else:
            yield row


def _named_apart(records: Iterable[Record]) -> Iterator[Record]:
    """Gives each record an id of its own, and each image a name of its own: the id of its first record.

    Where an id comes again, it becomes "name#2", "name#3", ...
    """
    seen: dict[str, int] = {}
    first_ids: dict[int, str] = {}  # by a hash of the image's place, which needs less memory than the place
    for record in records:
        wanted = record.sample_id or record.name.encode("utf-8", "backslashreplace").decode()
        unique, count = wanted, seen.get(wanted, 0)
        while unique in seen:
            count += 1
            unique = f"{wanted}#{count}"
        seen[wanted] = max(count, 1)
        seen.setdefault(unique, 1)
        name = first_ids.setdefault(hash((record.image, record.member)), unique)
        yield replace(record, sample_id=unique, name=name)


def _check_same(begun: dict[str, object], plan: dict[str, object], root: Path) -> None:
    if begun == plan:
        return
    if begun | {"source_state": plan.get("source_state")} == plan:
        raise ConfigError(
            "the source has changed since the unfinished import that is there began",
            where=str(root),
            remedy="delete this folder and run the command again, or name another folder",
        )
    raise ConfigError(
        "an unfinished import from another source, or with other options, is there",
        where=str(root),
        remedy="finish it with the command that began it, or name another folder",
    )


def _has_nothing(root: Path) -> bool:
    """Whether all that a folder holds is what an import leaves that was refused, or could not begin on a full disk."""
    return root.is_dir() and [path.name for path in root.iterdir()] in ([FINDINGS], [_WORK])


def _refused(findings: Path, num_rows: int, num_refused: int, first: list[Finding]) -> DataError:
    if not num_rows + num_refused:
        return DataError("no rows were found", where=str(findings.parent), remedy="check that SRC is of this format")
    shown = "".join(f"\n  {finding}" for finding in first)
    more = f"\n  and {num_refused - len(first)} more" if num_refused > len(first) else ""
    return DataError(
        f"{counted(num_refused, 'entry', 'entries')} cannot be read, {counted(num_rows, 'row')} can:{shown}{more}",
        where=str(findings),
        remedy="mend the rows, or leave --strict out; then run it again"
        if num_rows
        else "check the format, and the images' folder",
    )


def _write_sums(root: Path) -> tuple[int, int]:
    """Lists the checksums of all files, as `sha256sum -c` reads them; returns the number of images and their bytes."""
    num_images, num_bytes = 0, 0
    with atomic_path(root / SUMS) as aside, aside.open("w") as out:
        for name in (DATASET, FINDINGS):
            out.write(f"{file_sha256(root / name)}  {name}\n")
        for folder in sorted((root / FOLDER).iterdir()):
            for image in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if image.name.startswith("."):  # an interrupted write
                    Path(image).unlink()
                    continue
                out.write(f"{image.name.split('.')[0]}  {FOLDER}/{folder.name}/{image.name}\n")
                num_images += 1
                num_bytes += image.stat().st_size
    return num_images, num_bytes
