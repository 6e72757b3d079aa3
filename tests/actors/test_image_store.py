import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
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
from fxray.data.frame import AS_QWEN2_5_VL, frame_of
from fxray.errors import DataError, WorkerDiedError
from fxray.grpo.types import ImageRef, SeenImage, Visit
from fxray.schema import Annotation, Box, Region, Sample, Verdict


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def noise() -> bytes:
    """An image above 100 KB, which Ray keeps out of the driver's memory."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (20, 10), bytes(600)).save(buffer, "PNG")
    return buffer.getvalue() + bytes(200_000)


FRAME_OF = partial(frame_of, min_pixels=784, max_pixels=28 * 28 * 4, sight=AS_QWEN2_5_VL)
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
        sources.append(ImageSource(dataset, FRAME_OF, **values))
        return sources[-1]

    yield open_it
    for source in sources:
        ray.kill(source._store)


def visits(*rows: int) -> list[Visit]:
    return [Visit(row) for row in rows]


def by_row(seen: dict[Visit, SeenImage]) -> dict[int, ImageRef]:
    return {visit.row: image.ref for visit, image in seen.items()}


def process_of(source: ImageSource) -> psutil.Process:
    return psutil.Process(ray.get(source._store.__ray_call__.remote(lambda _: os.getpid()), timeout=120))


@pytest.mark.ray
def test_images_are_held_once_and_bad_ones_are_named(open_source: Callable[..., ImageSource]) -> None:
    seen, bad = open_source().fetch([*visits(3, 0, 1, 2, 4, 5, 0), Visit(2, ("a key",))])
    images = by_row(seen)
    assert {row: ray.get(ref.handle) for row, ref in images.items()} == {0: IMAGES[0], 1: IMAGES[1], 3: IMAGES[3]}
    assert [images[row].num_bytes for row in (0, 1)] == [len(IMAGES[0]), len(IMAGES[1])]
    assert images[0].handle == images[3].handle != images[1].handle
    assert [(image.row, image.sample_id) for image in bad] == [(2, "s2"), (4, "s4"), (5, "s5")]
    assert "no image Pillow knows" in bad[0].error.message
    assert "damaged or cut short" in bad[1].error.message
    assert "20x10 px upright, expected 10x20" in bad[2].error.message
    assert open_source().fetch(visits()) == ({}, [])


def test_images_are_decoded_by_several_threads_and_each_once(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_store, "num_processors", lambda: 4)
    store, both, decode = ImageStore(dataset, FRAME_OF), threading.Barrier(2), Dataset.decode

    def together(self: Dataset, row: int, encoded: bytes) -> Image.Image:
        both.wait(timeout=60)
        return decode(self, row, encoded)

    monkeypatch.setattr(Dataset, "decode", together)
    facts, *contents = store.read(visits(0, 1))
    assert facts == [FoundImage(0, 0, len(IMAGES[0])), FoundImage(1, 1, len(IMAGES[1]))]
    assert contents == IMAGES[:2]
    assert store.read(visits(1))[0] == [FoundImage(1, 0, len(IMAGES[1]))]  # alone at the barrier it would wait for ever


@pytest.mark.ray
def test_many_images_are_read_some_at_a_time(open_source: Callable[..., ImageSource], monkeypatch: Any) -> None:
    monkeypatch.setattr(image_store, "MOST_AT_ONCE", 2)
    source, asked = open_source(), []
    fetch = source._fetch
    monkeypatch.setattr(source, "_fetch", lambda some: asked.append([each.row for each in some]) or fetch(some))
    seen, bad = source.fetch(visits(6, 0, 1, 2, 0))
    assert asked == [[6, 0], [1, 2]]
    assert {row: ray.get(ref.handle) for row, ref in by_row(seen).items()} == {row: IMAGES[row] for row in (6, 0, 1)}
    assert [image.row for image in bad] == [2]


@pytest.mark.ray
def test_a_dataset_that_cannot_be_opened_is_no_death(cluster: None, tmp_path: Path) -> None:
    failures = FailureBudget("image stores", max_restarts=1, window_s=600.0, remedy="look")
    source = ImageSource(tmp_path / "gone.parquet", FRAME_OF, failures=failures, deadline_s=120.0, on_restart=print)
    with pytest.raises(DataError, match="no such dataset file"):
        source.fetch(visits(0))
    assert failures.num_failures == 0
    ray.kill(source._store)


@pytest.mark.ray
def test_images_outlive_the_actor_that_read_them_and_it_is_started_again(
    open_source: Callable[..., ImageSource],
) -> None:
    told: list[str] = []
    source = open_source(on_restart=told.append)
    before = by_row(source.fetch(visits(0, 6))[0])
    process = process_of(source)
    process.kill()
    process.wait(60)

    seen, bad = source.fetch(visits(1, 2))

    after = by_row(seen)
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
    images = by_row(source.fetch(visits(0))[0])
    assert ray.get(images[0].handle, timeout=60) == IMAGES[0]
    assert told == [f"the image store of {source._path} is started again: it did not read 1 image within 2 s"]
    hung.wait(60)

    process_of(source).kill()
    with pytest.raises(WorkerDiedError, match="image stores failed 2 times within 10 min, 1 restart is allowed"):
        source.fetch(visits(0))


def test_without_ray_a_store_is_a_plain_object(dataset: Path) -> None:
    facts, *contents = ImageStore(dataset, FRAME_OF).read(visits(2, 3, 0))
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
    (fact,), *_ = ImageStore(damaged, FRAME_OF).read(visits(1))
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
    facts, *_ = ImageStore(dataset, FRAME_OF).read(visits(*rows))
    assert [fact.row for fact in facts] == rows
    assert overlap.most == most_at_once


def test_a_changed_image_is_drawn_by_its_key_and_no_larger_than_the_model_sees_it(tmp_path: Path) -> None:
    box, red = Box(120.0, 40.0, 180.0, 100.0), (250, 10, 10)
    image = Image.new("RGB", (300, 200), (90, 120, 100))
    image.paste(red, (120, 40, 180, 100))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    truth = Annotation(Verdict.GENERATED, (Region(box, "Red square"),))
    path = tmp_path / "red.parquet"
    write_dataset(path, [Row(Sample("red", 300, 200, truth, "squares", "plain", "none"), buffer.getvalue())])
    asked = [Visit(0), *(Visit(0, (0, "alpha/red", epoch)) for epoch in range(40))]
    store = ImageStore(path, partial(FRAME_OF, max_pixels=28 * 28 * 24))
    facts, *contents = store.read(asked)
    assert (facts, contents) == ((again := store.read(asked))[0], list(again[1:]))
    seen = {visit: (contents[fact.content], fact.moved) for visit, fact in zip(asked, facts, strict=True)}
    assert seen.pop(Visit(0)) == (buffer.getvalue(), None)
    sizes = set()
    for content, moved in seen.values():
        if moved is None:  # it would have been of more tokens
            assert content == buffer.getvalue()
            continue
        opened = Image.open(io.BytesIO(content))
        assert opened.size == (moved.width_px, moved.height_px)
        assert opened.width * opened.height <= 28 * 28 * 24
        (region,) = moved.annotation.regions
        middle = (region.box.x_min + region.box.x_max) / 2, (region.box.y_min + region.box.y_max) / 2
        assert opened.getpixel(tuple(map(int, middle)))[0] > 160
        sizes.add(opened.size)
    assert len(sizes) > 2
    assert len({content for content, _ in seen.values()}) > 30
