"""Data of a few tiny images, for tests of what trains and measures without training anything."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxray.data.dataset import Row, write_dataset
from fxray.schema import Annotation, Box, Region, Sample, Verdict

GENERATORS = ("SD 1.4", "BigGAN", "DiT", "VAR")
SIZES = {"train": 48, "validation": 8, "test": 16}


def row(split: str, i: int) -> Row:
    """Every other image is generated; noise, so that none looks like another."""
    pixels = np.random.default_rng((len(split), i)).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    annotation, generator = Annotation(Verdict.REAL), "real"
    if i % 2:
        annotation = Annotation(Verdict.GENERATED, (Region(Box(8, 8, 40, 40), "Leg twisted"),))
        generator = GENERATORS[i // 2 % len(GENERATORS)]
    return Row(Sample(f"{split}-{i}", 56, 56, annotation, generator, "cat", f"{split}-{i}"), encoded.getvalue())


@pytest.fixture(scope="session")
def splits(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    for split, num in SIZES.items():
        write_dataset(folder / f"{split}.parquet", [row(split, i) for i in range(num)])
    return {split: folder / f"{split}.parquet" for split in SIZES}
