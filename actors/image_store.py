"""Images in the object store: read from the dataset by one actor, so that the driver never reads pixels.

    driver ─► rows ─► ImageStore ─► one object per image ─► references ─► driver ─► workers fetch, once per node

The actor runs on the driver's node, where the dataset's path holds. What it returns belongs to the driver, so images
outlive the actor: when it dies, it is started again and reads what it was asked for; nothing else is lost. Ray passes
images below 100 KB inside the answer, through the driver's memory; larger ones stay in the object store.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.failures import DEATHS, FailureBudget, forget_frames
from fxray.counts import counted
from fxray.data.dataset import Dataset
from fxray.data.decoding import MOST_THREADS, PixelRoom
from fxray.errors import DataError, FxrayError
from fxray.grpo.types import ImageRef
from fxray.processors import num_processors
from fxray.ray_words import words_of

MOST_AT_ONCE = 64
"""Images that the actor reads in one call."""


@dataclass(frozen=True, slots=True)
class BadImage:
    """A row whose image cannot be read, and why."""

    row: int
    sample_id: str
    error: DataError


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A row whose image can be read.

    Attributes:
        row: Its number.
        content: Index of the image among those that were found; rows with equal images share one.
        num_bytes: Of the encoded image.
    """

    row: int
    content: int
    num_bytes: int


class ImageStore:
    """Reads the encoded images of one dataset.

    Args:
        path: The Parquet file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._good: set[int] = set()
        self._room = PixelRoom()
        self._threads = ThreadPoolExecutor(max(1, min(MOST_THREADS, num_processors() // 2)), "decoding")

    @cached_property
    def _dataset(self) -> Dataset:
        """Opened when it is asked for, so that what is wrong with it is an answer, and no death of the actor."""
        return Dataset.open(self._path)

    def read(self, rows: Sequence[int]) -> tuple[Any, ...]:
        """Reads the images of rows.

        Args:
            rows: Row numbers, each once.

        Returns:
            A list with a `FoundImage` or `BadImage` per row, and then as many contents as there are rows: first those
            that were found, without copies, then empty ones.
        """
        facts: list[FoundImage | BadImage] = []
        contents: list[bytes] = []
        known: dict[bytes, int] = {}
        dataset = self._dataset  # before threads ask for it
        for row, content in zip(rows, self._threads.map(self._read, rows), strict=True):
            if isinstance(content, DataError):
                facts.append(BadImage(row, dataset.samples[row].sample_id, content))
                continue
            index = known.setdefault(hashlib.sha256(content).digest(), len(contents))
            if index == len(contents):
                contents.append(content)
            facts.append(FoundImage(row, index, len(content)))
        return (facts, *contents, *[b""] * (len(rows) - len(contents)))

    def _read(self, row: int) -> bytes | DataError:
        """The encoded image of a row, decoded once, so that engines and learner are spared those that cannot be."""
        sample = self._dataset.samples[row]
        try:
            encoded = self._dataset.image_bytes(row)
            if row not in self._good:
                with self._room.taken(sample.width_px * sample.height_px):
                    self._dataset.decode(row, encoded)
        except DataError as error:
            return error
        self._good.add(row)
        return encoded


class ImageSource:
    """The images of one dataset as references that the driver owns, whatever happens to the actor that reads them.

    Args:
        path: The Parquet file, on the driver's node.
        failures: How often the actor may die or hang.
        deadline_s: For `MOST_AT_ONCE` images.
        on_restart: Told why the actor is started again.
    """

    def __init__(
        self, path: Path, *, failures: FailureBudget, deadline_s: float, on_restart: Callable[[str], None]
    ) -> None:
        self._path = path.absolute()  # the actor has a working folder of its own
        self._failures, self._deadline_s, self._on_restart = failures, deadline_s, on_restart
        self._store = self._start()

    def fetch(self, rows: Sequence[int]) -> tuple[dict[int, ImageRef], list[BadImage]]:
        """Reads images into the object store, where they stay while someone holds their references.

        Some rows at a time, each with the deadline: what takes long is not asked for again from the beginning.

        Args:
            rows: Row numbers. Rows with equal images share one reference, as far as they are read together.

        Returns:
            A reference per readable row, and the unreadable rows.

        Raises:
            WorkerDiedError: The actor died or hung more often than the failure budget allows.
            DataError: The dataset cannot be opened.
        """
        asked = list(dict.fromkeys(rows))
        images: dict[int, ImageRef] = {}
        bad: list[BadImage] = []
        for start in range(0, len(asked), MOST_AT_ONCE):
            more, worse = self._fetch_or_restart(asked[start : start + MOST_AT_ONCE])
            images |= more
            bad += worse
        return images, bad

    def _fetch_or_restart(self, asked: Sequence[int]) -> tuple[dict[int, ImageRef], list[BadImage]]:
        while True:
            try:
                return self._fetch(asked)
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, FxrayError) else error) from None
            except (*DEATHS, GetTimeoutError) as error:
                forget_frames(error)
                reason = f"did not read {counted(len(asked), 'image')} within {self._deadline_s:g} s"
                reason = reason if isinstance(error, GetTimeoutError) else f"died: {words_of(error)}"
                ray.kill(self._store)
                self._failures.record(time.monotonic(), f"image store of {self._path} {reason}")
                self._on_restart(f"the image store of {self._path} is started again: it {reason}")
                self._store = self._start()

    def _fetch(self, rows: Sequence[int]) -> tuple[dict[int, ImageRef], list[BadImage]]:
        answer, *contents = self._store.read.options(num_returns=1 + len(rows)).remote(rows)
        facts: list[FoundImage | BadImage] = ray.get(answer, timeout=self._deadline_s)
        found = [fact for fact in facts if isinstance(fact, FoundImage)]
        images = {fact.row: ImageRef(contents[fact.content], fact.num_bytes) for fact in found}
        return images, [fact for fact in facts if isinstance(fact, BadImage)]

    def _start(self) -> Any:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return ImageStoreActor.options(num_cpus=0, scheduling_strategy=here).remote(self._path)


ImageStoreActor: Any = ray.remote(ImageStore)
