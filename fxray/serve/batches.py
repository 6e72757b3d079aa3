"""Batches on disk: what was handed in, and what is known of it. A restart finds all of it again.

<data>/batches/<id>/batch.json          owner, model, id, time, names; written last, so a batch is whole or not there
                    images/000000       as it was sent; deleted once its result is there
                    results/000000.json
"""

import json
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio
from starlette.datastructures import UploadFile

from fxray.config.tree import DEFAULT_MODEL
from fxray.counts import counted
from fxray.errors import DataError
from fxray.files import atomic_dir, disk_errors, write_atomically
from fxray.serve.problems import Refusal, problem, problem_of
from fxray.serve.uploads import Upload, UploadLimits, check_size, harmless_name
from fxray.serve.wire import BATCH_ID, BatchOut, BatchState


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch.

    Attributes:
        batch_id: 32 hexadecimal digits, not to be guessed.
        owner: Whose key it was handed in with; nobody else sees it.
        model: Name of what is to answer.
        asked_of: Id of what answered by that name when it was handed in; None where nobody could say it.
        created: UTC, ISO 8601.
        names: Of its images.
        folder: Where it lies.
    """

    batch_id: str
    owner: str
    model: str
    asked_of: str | None
    created: str
    names: tuple[str, ...]
    folder: Path

    def image(self, index: int) -> Path:
        return self.folder / "images" / f"{index:06}"

    def result(self, index: int) -> Path:
        return self.folder / "results" / f"{index:06}.json"

    def missing(self) -> list[int]:
        """Images that have no result yet, in order."""
        found: set[int] = set()
        with suppress(FileNotFoundError):  # deleted meanwhile
            found = {int(file.stem) for file in (self.folder / "results").iterdir() if file.stem.isdecimal()}
        return [index for index in range(len(self.names)) if index not in found]

    def read(self, index: int) -> Upload:
        """An image that has no result yet."""
        return Upload(self.names[index], self.image(index).read_bytes(), self.model)

    def write(self, index: int, result: dict[str, Any]) -> None:
        """Keeps a result, and forgets the image.

        Raises:
            FileNotFoundError: The batch was deleted; it stays so.
            ResourceError: The disk is full or not writable.
        """
        write_atomically(self.result(index), json.dumps(result, ensure_ascii=False), makes_folder=False)
        self.image(index).unlink(missing_ok=True)

    def lines(self) -> Iterator[str]:
        """The results that are there, as JSON lines in the order of the images."""
        for index in range(len(self.names)):
            with suppress(FileNotFoundError):  # not examined yet, or deleted meanwhile
                yield self.line(index, self.result(index).read_bytes())

    def line(self, index: int, written: bytes) -> str:
        """A result as a JSON line, with the place of its image: names may be the same."""
        return json.dumps({"index": index} | self._read_result(index, written), ensure_ascii=False) + "\n"

    def _read_result(self, index: int, written: bytes) -> dict[str, Any]:
        """A result as it was written; one that the disk has damaged is that its image failed."""
        try:
            document = json.loads(written)
            if isinstance(document, dict):
                return document
        except (ValueError, RecursionError):
            pass
        failure = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "its result is damaged", remedy="hand it in again")
        return {"name": self.names[index], "problem": failure}

    def state(self, held_up: str | None = None) -> BatchOut:
        """What is known of it now, and why it does not go on, where it does not."""
        results = [json.loads(line) for line in self.lines()]
        num_done = len(results)
        state = BatchState.DONE if num_done == len(self.names) else BatchState.RUNNING
        return BatchOut(
            id=self.batch_id,
            state=state if num_done else BatchState.WAITING,
            num_images=len(self.names),
            num_done=num_done,
            num_failed=sum("problem" in result for result in results),
            created=self.created,
            results=f"/v1/batches/{self.batch_id}/results",
            asked_of=self.asked_of,
            answered_by=sorted({result["model"]["id"] for result in results if "model" in result}),
            held_up=None if num_done == len(self.names) else held_up,
        )


class BatchStore:
    """The batches below a folder that this process alone writes to.

    Args:
        folder: Made if it is not there; leftovers of a start that was killed are cleared away.
        max_batches: Of one owner that are kept at once.
        keep_s: A finished batch is kept so long.
    """

    def __init__(self, folder: Path, *, max_batches: int, keep_s: float) -> None:
        self._folder, self._max_batches, self._keep_s = folder, max_batches, keep_s
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in folder.glob(".*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)

    def add(
        self, files: Sequence[UploadFile], owner: str, model: str, asked_of: str | None, limits: UploadLimits
    ) -> Batch:
        """Keeps a new batch; flushing it to the disk may take seconds: ask in a thread.

        An image that is too large is not kept: that it is so is its result from the start.

        Raises:
            Refusal: 429 where too many are kept.
            ResourceError: The disk is full or not writable.
        """
        self.clear_old()
        if sum(batch.owner == owner for batch in self.all()) >= self._max_batches:
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{counted(self._max_batches, 'batch of yours is', 'batches of yours are')} kept already",
                remedy="fetch the results of a batch and delete it",
                retry_after_s=60,
            )
        batch_id = secrets.token_hex(16)
        names = tuple(harmless_name(file.filename or "", number) for number, file in enumerate(files, start=1))
        created = datetime.now(UTC).isoformat(timespec="seconds")
        with atomic_dir(self._folder / batch_id) as aside:
            (aside / "results").mkdir()
            (aside / "images").mkdir()
            for index, file in enumerate(files):
                try:
                    check_size(names[index], file.size or 0, limits)
                except DataError as error:
                    failure = {"name": names[index], "problem": problem_of(error, HTTPStatus.UNPROCESSABLE_ENTITY)}
                    (aside / "results" / f"{index:06}.json").write_text(
                        json.dumps(failure, ensure_ascii=False), "utf-8"
                    )
                    continue
                with (aside / "images" / f"{index:06}").open("wb") as kept:
                    shutil.copyfileobj(file.file, kept)
            document = {"owner": owner, "model": model, "asked_of": asked_of, "created": created, "names": names}
            (aside / "batch.json").write_text(json.dumps(document, ensure_ascii=False), "utf-8")
        return Batch(batch_id, owner, model, asked_of, created, names, self._folder / batch_id)

    def find(self, batch_id: str, owner: str) -> Batch:
        """A batch of this owner.

        Raises:
            Refusal: 404: there is none of this id, or it is somebody else's.
        """
        batch = self._read(batch_id) if re.fullmatch(BATCH_ID, batch_id) else None
        if batch is None or batch.owner != owner:
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                "there is no such batch",
                where="path",
                remedy="finished batches are deleted after a while; hand it in again",
            )
        return batch

    def all(self) -> Iterator[Batch]:
        """Every batch, the oldest first."""
        batches = (self._read(folder.name) for folder in self._folder.iterdir() if re.fullmatch(BATCH_ID, folder.name))
        yield from sorted((batch for batch in batches if batch), key=lambda batch: (batch.created, batch.batch_id))

    def delete(self, batch: Batch) -> None:
        """Forgets a batch, at once and whole, whoever is about to write into it.

        Raises:
            ResourceError: The disk is not writable.
        """
        aside = batch.folder.with_name(f".{batch.batch_id}.tmp")
        with disk_errors(batch.folder):
            try:
                batch.folder.rename(aside)
            except FileNotFoundError:  # somebody else was quicker
                return
        shutil.rmtree(aside, ignore_errors=True)

    def clear_old(self) -> None:
        """Forgets what has been finished for so long that nobody will fetch it."""
        now = datetime.now(UTC)
        for batch in list(self.all()):
            age_s = (now - datetime.fromisoformat(batch.created)).total_seconds()
            if age_s > self._keep_s and not batch.missing():
                self.delete(batch)

    def _read(self, batch_id: str) -> Batch | None:
        folder = self._folder / batch_id
        try:
            document = json.loads((folder / "batch.json").read_text("utf-8"))
            owner, model, created = document["owner"], document.get("model", DEFAULT_MODEL), document["created"]
            if datetime.fromisoformat(created).tzinfo is None:
                return None
            return Batch(batch_id, owner, model, document.get("asked_of"), created, tuple(document["names"]), folder)
        except (OSError, ValueError, KeyError, TypeError):
            return None


async def read_lines(batch: Batch) -> AsyncIterator[str]:
    """The results that are there, without holding the event loop up."""
    for index in range(len(batch.names)):
        with suppress(FileNotFoundError):
            yield batch.line(index, await anyio.Path(batch.result(index)).read_bytes())
