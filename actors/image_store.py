"""Images in the object store: read from the dataset by one actor, so that the driver never reads pixels.

    driver ─► rows ─► ImageStore ─► one object per image ─► references ─► driver ─► workers fetch, once per node

The actor runs on the driver's node, where the dataset's path holds. What it returns belongs to the driver, so images
outlive the actor: when it dies, it is started again and reads what it was asked for; nothing else is lost. Ray passes
images below 100 KB inside the answer, through the driver's memory; larger ones stay in the object store.
"""

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from PIL import Image
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.failures import DEATHS, FailureBudget, forget_frames
from fxray.counts import counted
from fxray.data.augment import arriving, drawn
from fxray.data.changes import change_sample, fit
from fxray.data.dataset import Dataset
from fxray.data.decoding import MOST_THREADS, PixelRoom
from fxray.data.frame import Frame
from fxray.errors import DataError, FxrayError
from fxray.grpo.types import ImageRef, SeenImage, Visit
from fxray.processors import num_processors
from fxray.ray_words import words_of
from fxray.schema import Sample

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
        moved: Size and regions of an image that was changed.
    """

    row: int
    content: int
    num_bytes: int
    moved: Sample | None = None


class ImageStore:
    """Reads the encoded images of one dataset.

    Args:
        path: The Parquet file.
        frame_of: The frame in which the model sees a sample.
    """

    def __init__(self, path: Path, frame_of: Callable[[Sample], Frame]) -> None:
        self._path, self._frame_of = path, frame_of
        self._good: set[int] = set()
        self._room = PixelRoom()
        self._threads = ThreadPoolExecutor(max(1, min(MOST_THREADS, num_processors() // 2)), "decoding")

    @cached_property
    def _dataset(self) -> Dataset:
        """Opened when it is asked for, so that what is wrong with it is an answer, and no death of the actor."""
        return Dataset.open(self._path)

    def read(self, visits: Sequence[Visit]) -> tuple[Any, ...]:
        """Reads the images of visits, and changes those that are to be.

        Args:
            visits: Each once.

        Returns:
            A list with a `FoundImage` or `BadImage` per visit, and then as many contents as there are visits: first
            those that were found, without copies, then empty ones.
        """
        facts: list[FoundImage | BadImage] = []
        contents: list[bytes] = []
        known: dict[bytes, int] = {}
        dataset = self._dataset  # before threads ask for it
        for visit, read in zip(visits, self._threads.map(self._read, visits), strict=True):
            row = visit.row
            if isinstance(read, DataError):
                facts.append(BadImage(row, dataset.samples[row].sample_id, read))
                continue
            content, moved = read
            index = known.setdefault(hashlib.sha256(content).digest(), len(contents))
            if index == len(contents):
                contents.append(content)
            facts.append(FoundImage(row, index, len(content), moved))
        return (facts, *contents, *[b""] * (len(visits) - len(contents)))

    def _read(self, visit: Visit) -> tuple[bytes, Sample | None] | DataError:
        """The encoded image of a visit, decoded once, so that engines and learner are spared those that cannot be."""
        row, changed = visit.row, None
        sample = self._dataset.samples[row]
        try:
            encoded = self._dataset.image_bytes(row)
            if row not in self._good or visit.change_key is not None:
                with self._room.taken(sample.width_px * sample.height_px):
                    image = self._dataset.decode(row, encoded)
                    changed = None if visit.change_key is None else self._change(image, sample, visit.change_key)
        except DataError as error:
            return error
        self._good.add(row)
        return changed or (encoded, None)

    def _change(self, image: Image.Image, sample: Sample, key: tuple[object, ...]) -> tuple[bytes, Sample] | None:
        """An image as it might arrive, without loss, and no larger than the model sees it; None as `arriving` says."""
        rng = drawn(1.0, *key)
        arrived = None if rng is None else arriving(image, sample, rng, self._frame_of)
        if arrived is None:
            return None
        image, moved = arrived
        frame = self._frame_of(moved)
        if image.width * image.height > frame.model_width_px * frame.model_height_px:
            fitted = fit(image, frame.model_width_px, frame.model_height_px)
            image, moved = fitted.image, change_sample(moved, fitted)
        encoded = io.BytesIO()
        image.save(encoded, "BMP")  # as PNG it is a third smaller, and takes tens of times as long to write and to read
        return encoded.getvalue(), moved


class ImageSource:
    """The images of one dataset as references that the driver owns, whatever happens to the actor that reads them.

    Args:
        path: The Parquet file, on the driver's node.
        frame_of: The frame in which the model sees a sample.
        failures: How often the actor may die or hang.
        deadline_s: For `MOST_AT_ONCE` images.
        on_restart: Told why the actor is started again.
    """

    def __init__(
        self,
        path: Path,
        frame_of: Callable[[Sample], Frame],
        *,
        failures: FailureBudget,
        deadline_s: float,
        on_restart: Callable[[str], None],
    ) -> None:
        self._path, self._frame_of = path.absolute(), frame_of  # the actor has a working folder of its own
        self._failures, self._deadline_s, self._on_restart = failures, deadline_s, on_restart
        self._store = self._start()

    def fetch(self, visits: Sequence[Visit]) -> tuple[dict[Visit, SeenImage], list[BadImage]]:
        """Reads images into the object store, where they stay while someone holds their references.

        Some rows at a time, each with the deadline: what takes long is not asked for again from the beginning.

        Args:
            visits: Those with equal images share one reference, as far as they are read together.

        Returns:
            What is seen at each visit whose image can be read, and the unreadable rows.

        Raises:
            WorkerDiedError: The actor died or hung more often than the failure budget allows.
            DataError: The dataset cannot be opened.
        """
        asked = list(dict.fromkeys(visits))
        images: dict[Visit, SeenImage] = {}
        bad: dict[int, BadImage] = {}
        for start in range(0, len(asked), MOST_AT_ONCE):
            more, worse = self._fetch_or_restart(asked[start : start + MOST_AT_ONCE])
            images |= more
            bad |= {image.row: image for image in worse}
        return images, list(bad.values())

    def _fetch_or_restart(self, asked: Sequence[Visit]) -> tuple[dict[Visit, SeenImage], list[BadImage]]:
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

    def _fetch(self, visits: Sequence[Visit]) -> tuple[dict[Visit, SeenImage], list[BadImage]]:
        answer, *contents = self._store.read.options(num_returns=1 + len(visits)).remote(visits)
        facts: list[FoundImage | BadImage] = ray.get(answer, timeout=self._deadline_s)
        images = {
            visit: SeenImage(ImageRef(contents[fact.content], fact.num_bytes), fact.moved)
            for visit, fact in zip(visits, facts, strict=True)
            if isinstance(fact, FoundImage)
        }
        return images, [fact for fact in facts if isinstance(fact, BadImage)]

    def _start(self) -> Any:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return ImageStoreActor.options(num_cpus=0, scheduling_strategy=here).remote(self._path, self._frame_of)


ImageStoreActor: Any = ray.remote(ImageStore)
