import io
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from PIL import Image

from actors.image_store import ImageStore, ImageStoreActor
from actors.placement import actor_options
from fxray.data.dataset import Row, write_dataset
from fxray.schema import Annotation, Sample, Verdict


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = [png(1), png(2), b"not an image", png(1), png(4)[:-30], png(5)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.parquet"
    truth = Annotation(Verdict.REAL)
    samples = [Sample(f"s{i}", 20, 10, truth, "real", "cat", f"photo{i}") for i in range(len(IMAGES))]
    samples[5] = replace(samples[5], width_px=10, height_px=20)
    write_dataset(path, [Row(sample, image) for sample, image in zip(samples, IMAGES, strict=True)])
    return path


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_images_are_put_once_and_bad_ones_are_named(dataset: Path) -> None:
    store = ImageStoreActor.options(**actor_options(num_cpus=0, num_gpus=0)).remote(dataset)
    images, bad = ray.get(store.put.remote([3, 0, 1, 2, 4, 5, 0]), timeout=60)
    assert {row: ray.get(ref.handle) for row, ref in images.items()} == {0: IMAGES[0], 1: IMAGES[1], 3: IMAGES[3]}
    assert [images[row].num_bytes for row in (0, 1)] == [len(IMAGES[0]), len(IMAGES[1])]
    assert images[0].handle == images[3].handle != images[1].handle
    assert [(image.row, image.sample_id) for image in bad] == [(2, "s2"), (4, "s4"), (5, "s5")]
    assert "no image Pillow knows" in bad[0].reason
    assert "damaged or cut short" in bad[1].reason
    assert "20x10 px upright, expected 10x20" in bad[2].reason
    ray.kill(store)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_an_image_stays_while_the_driver_holds_it(dataset: Path) -> None:
    store = ImageStoreActor.options(num_cpus=0).remote(dataset)
    first, _ = ray.get(store.put.remote([0]), timeout=60)
    for _ in range(3):
        ray.get(store.put.remote([1]), timeout=60)
    assert ray.get(first[0].handle, timeout=10) == IMAGES[0]
    ray.kill(store)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_worker_says_that_an_image_died_with_its_store(dataset: Path) -> None:
    from actors.rollout_worker import Job, _image_bytes
    from fxray.errors import DataError

    store = ImageStoreActor.options(num_cpus=0).remote(dataset)
    images, _ = ray.get(store.put.remote([0]), timeout=60)
    process = psutil.Process(ray.get(store.__ray_call__.remote(lambda _: os.getpid()), timeout=60))
    ray.kill(store)
    process.wait(timeout=60)

    @ray.remote(num_cpus=0)
    def fetch(refs: list[Any]) -> str:
        try:
            return str(_image_bytes([Job("alpha/3/1", "s0", "?", refs[0], 0)]))
        except DataError as error:
            return f"DataError {error}"

    end_s = time.monotonic() + 60
    told = ""
    while not told.startswith("DataError") and time.monotonic() < end_s:  # the node may hold the bytes a moment longer
        told = ray.get(fetch.remote([images[0].handle]), timeout=120)
    assert told.startswith("DataError groups alpha/3/1")
    assert "an image is lost" in told


def test_without_ray_a_store_is_a_plain_object(dataset: Path) -> None:
    images, bad = ImageStore(dataset).put([2])
    assert images == {}
    assert [image.sample_id for image in bad] == ["s2"]
