"""A set that anything can learn: smooth images, and such with a reddish patch of checks and noise."""

import io

import numpy as np
import pytest
from PIL import Image

from fxray.data.dataset import Row, write_dataset
from fxray.schema import Annotation, Box, Region, Sample, Verdict

SIDE_PX = 32
PATCH_PX = 16


def write_set(path, num_images, num_sources, seed, *, flipped=False):
    """Half of the images are generated; `flipped` swaps the labels. Of N sources each has both kinds."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_images):
        has_patch = number % 2 == 1
        ramp = np.linspace(*rng.uniform(60, 190, 2), SIDE_PX)
        pixels = np.repeat(np.repeat(ramp[:, None, None], SIDE_PX, 1), 3, 2) + rng.uniform(-20, 20, 3)
        regions = ()
        if has_patch:
            y, x = rng.integers(0, SIDE_PX - PATCH_PX, 2)
            checks = 60.0 * (np.indices((PATCH_PX, PATCH_PX)).sum(0) % 2) - 30
            pixels[y : y + PATCH_PX, x : x + PATCH_PX] += np.array([70.0, -40.0, -40.0])
            pixels[y : y + PATCH_PX, x : x + PATCH_PX] += checks[..., None] + rng.normal(0, 10, (PATCH_PX, PATCH_PX, 1))
            regions = (Region(Box(float(x), float(y), float(x + PATCH_PX), float(y + PATCH_PX)), "patch checkered"),)
        encoded = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "PNG")
        is_generated = has_patch is not flipped
        annotation = Annotation(Verdict.GENERATED if is_generated else Verdict.REAL, regions if is_generated else ())
        generator = "checker-artefact" if is_generated else "real"
        source = f"photo-{seed}-{number // 2 % num_sources}"
        sample = Sample(f"{seed}-{number}", SIDE_PX, SIDE_PX, annotation, generator, "toy", source)
        rows.append(Row(sample, image=encoded.getvalue()))
    write_dataset(path, rows)
    return path


@pytest.fixture(scope="session")
def write_toy():
    return write_set


@pytest.fixture(scope="session")
def toy_sets(tmp_path_factory):
    """Training and test file, of different sources."""
    folder = tmp_path_factory.mktemp("toy")
    return write_set(folder / "train.parquet", 160, 10, 0), write_set(folder / "test.parquet", 40, 4, 1)
