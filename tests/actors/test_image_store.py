import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from actors import image_store
from actors.failures import FailureBudget
from actors.image_store import BadImage, FoundImage, ImageSource, ImageStore
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import DataError, WorkerDiedError
from fxray.schema import Annotation, Sample, Verdict


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def noise() -> bytes:
    """An image above 100 KB, which Ray keeps out of the driver's memory."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (20, 10), bytes(600)).save(buffer, "PNG")
    return buffer.getvalue() + bytes(200_000)


IMAGES = [png(1), png(2), b"not an image", png(1), png(4)[:-30], png(5), noise()]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.parquet"
    truth = Annotation(Verdict.REAL)
    samples = [Sample(f"s{i}", 20, 10, truth, "real", "cat", f"photo{i}") for i in range(len(IMAGES))]
    samples[5] = replace(samples[5], width_px=10, height_px=20)
    write_dataset(path, [Row(sample, image) for sample, image in zip(samples, IMAGES, strict=True)])
    return path


@pytest.fixture
def open_source(dataset: Path, cluster: None) -> Iterator[Callable[..., ImageSource]]:
    """Opens image sources whose actors end with the test, and keeps what they tell."""
    sources = []

    def open_it(**changes: Any) -> ImageSource:
        limits = {"max_restarts": 1, "window_s": 600.0, "remedy": "look"}
        values = {
            "failures": FailureBudget("image stores", **limits),
            "deadline_s": 120.0,
            "on_restart": print,
        } | changes
        sources.append(ImageSource(dataset, **values))
        return sources[-1]

    yield open_it
    for source in sources:
        ray.kill(source._store)


def process_of(source: ImageSource) -> psutil.Process:
    return psutil.Process(ray.get(source._store.__ray_call__.remote(lambda _: os.getpid()), timeout=120))


@pytest.mark.ray
def test_images_are_held_once_and_bad_ones_are_named(open_source: Callable[..., ImageSource]) -> None:
    images, bad = open_source().fetch([3, 0, 1, 2, 4, 5, 0])
    assert {row: ray.get(ref.handle) for row, ref in images.items()} == {0: IMAGES[0], 1: IMAGES[1], 3: IMAGES[3]}
    assert [images[row].num_bytes for row in (0, 1)] == [len(IMAGES[0]), len(IMAGES[1])]
    assert images[0].handle == images[3].handle != images[1].handle
    assert [(image.row, image.sample_id) for image in bad] == [(2, "s2"), (4, "s4"), (5, "s5")]
    assert "no image Pillow knows" in bad[0].error.message
    assert "damaged or cut short" in bad[1].error.message
    assert "20x10 px upright, expected 10x20" in bad[2].error.message
    assert open_source().fetch([]) == ({}, [])


def test_images_are_decoded_by_several_threads_and_each_once(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_store, "num_processors", lambda: 4)
    store, both, decode = ImageStore(dataset), threading.Barrier(2), Dataset.decode

    def together(self: Dataset, row: int, encoded: bytes) -> Image.Image:
        both.wait(timeout=60)
        return decode(self, row, encoded)

    monkeypatch.setattr(Dataset, "decode", together)
    facts, *contents = store.read([0, 1])
    assert facts == [FoundImage(0, 0, len(IMAGES[0])), FoundImage(1, 1, len(IMAGES[1]))]
    assert contents == IMAGES[:2]
    assert store.read([1])[0] == [FoundImage(1, 0, len(IMAGES[1]))]  # alone at the barrier it would wait for ever


@pytest.mark.ray
def test_many_images_are_read_some_at_a_time(open_source: Callable[..., ImageSource], monkeypatch: Any) -> None:
    monkeypatch.setattr(image_store, "MOST_AT_ONCE", 2)
    source, asked = open_source(), []
    fetch = source._fetch
    monkeypatch.setattr(source, "_fetch", lambda rows: asked.append(list(rows)) or fetch(rows))
    images, bad = source.fetch([6, 0, 1, 2, 0])
    assert asked == [[6, 0], [1, 2]]
    assert {row: ray.get(ref.handle) for row, ref in images.items()} == {row: IMAGES[row] for row in (6, 0, 1)}
    assert [image.row for image in bad] == [2]


@pytest.mark.ray
def test_a_dataset_that_cannot_be_opened_is_no_death(cluster: None, tmp_path: Path) -> None:
    failures = FailureBudget("image stores", max_restarts=1, window_s=600.0, remedy="look")
    source = ImageSource(tmp_path / "gone.parquet", failures=failures, deadline_s=120.0, on_restart=print)
    with pytest.raises(DataError, match="no such dataset file"):
        source.fetch([0])
    assert failures.num_failures == 0
    ray.kill(source._store)


@pytest.mark.ray
def test_images_outlive_the_actor_that_read_them_and_it_is_started_again(
    open_source: Callable[..., ImageSource],
) -> None:
    told: list[str] = []
    source = open_source(on_restart=told.append)
    before, _ = source.fetch([0, 6])
    process = process_of(source)
    process.kill()
    process.wait(60)

    after, bad = source.fetch([1, 2])

    assert [ray.get(ref.handle, timeout=60) for ref in (before[0], before[6], after[1])] == [
        IMAGES[0],
        IMAGES[6],
        IMAGES[1],
    ]
    assert [image.row for image in bad] == [2]
    assert len(told) == 1
    assert "is started again: it died" in told[0]


@pytest.mark.ray
def test_an_actor_that_hangs_is_replaced_and_one_that_fails_again_stops_the_run(
    open_source: Callable[..., ImageSource],
) -> None:
    told: list[str] = []

    def has_time_again(text: str) -> None:
        told.append(text)
        source._deadline_s = 120.0

    source = open_source(on_restart=has_time_again)
    hung = process_of(source)
    hung.suspend()
    source._deadline_s = 2.0
    images, _ = source.fetch([0])
    assert ray.get(images[0].handle, timeout=60) == IMAGES[0]
    assert told == [f"the image store of {source._path} is started again: it did not read 1 image within 2 s"]
    hung.wait(60)

    process_of(source).kill()
    with pytest.raises(WorkerDiedError, match="image stores failed 2 times within 10 min, 1 restart is allowed"):
        source.fetch([0])


def test_without_ray_a_store_is_a_plain_object(dataset: Path) -> None:
    facts, *contents = ImageStore(dataset).read([2, 3, 0])
    assert facts[1:] == [FoundImage(3, 0, len(IMAGES[3])), FoundImage(0, 0, len(IMAGES[0]))]
    assert facts[0].sample_id == "s2"
    assert contents == [IMAGES[0], b"", b""]


def test_the_images_of_a_damaged_page_are_bad_ones(dataset: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "train.parquet"
    content = bytearray(dataset.read_bytes())
    group = pq.ParquetFile(dataset).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    (start,) = [column.data_page_offset for column in columns if column.path_in_schema == "image"]
    content[start : start + 64] = bytes(64)
    damaged.write_bytes(content)
    (fact,), *_ = ImageStore(damaged).read([1])
    assert isinstance(fact, BadImage)
    assert fact.sample_id == "s1"
    assert str(fact.error).startswith(f"{damaged} row 1: its part of the file cannot be read: ")


@pytest.mark.parametrize(("most_pixels", "most_at_once"), [(450, 2), (100, 1)])  # images of 20 x 10
def test_images_that_are_too_large_together_are_decoded_one_after_the_other(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, overlap: Any, most_pixels: int, most_at_once: int
) -> None:
    monkeypatch.setattr(image_store, "num_processors", lambda: 16)
    monkeypatch.setattr("fxray.data.decoding.MOST_PIXELS", most_pixels)
    monkeypatch.setattr(Dataset, "decode", lambda *_: overlap.stay(0.05))
    rows = [0, 1, 3, 6]
    facts, *_ = ImageStore(dataset).read(rows)
    assert [fact.row for fact in facts] == rows
    assert overlap.most == most_at_once
