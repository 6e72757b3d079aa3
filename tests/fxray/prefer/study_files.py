"""A small dataset, three sources that differ by how far their boxes are off, and a study of them."""

import io
from pathlib import Path

import pytest
from PIL import Image

from fxray.data.dataset import Row, write_dataset
from fxray.evaluate.predictions import Prediction, write_predictions
from fxray.prefer.sources import Source
from fxray.prefer.store import open_study
from fxray.prefer.study import Plan, create_study
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

NUM_IMAGES = 40
WIDTH_PX, HEIGHT_PX = 96, 64
HOSTILE_CAPTION = 'hand <img src=x onerror="document.title=1"> of six fingers'
PLAN = Plan(
    num_images=None, with_real=False, pairs_per_rater=None, checks_per_rater=2, max_side_px=2048, threshold=0.5, seed=0
)


def encoded(k: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (WIDTH_PX, HEIGHT_PX), (5 * k % 256, 90, 160)).save(out, "PNG")
    return out.getvalue()


def sample(k: int) -> Sample:
    region = Region(Box(10, 8, 34, 30), f"{HOSTILE_CAPTION}, case {k}")
    annotation = Annotation(Verdict.GENERATED, (region,), (Tag.STRUCTURE,))
    return Sample(f"image/{k}", WIDTH_PX, HEIGHT_PX, annotation, "GLIDE", "hand", f"s{k}")


def write_source(path: Path, shift_px: float, rows: range = range(NUM_IMAGES)) -> Path:
    moved = Box(10 + shift_px, 8, 34 + shift_px, 30)
    regions = (Region(moved, "Hand blurred"),)
    write_predictions([Prediction(f"image/{k}", Verdict.GENERATED, regions) for k in rows], path)
    return path


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefer")
    real = Sample("image/real", WIDTH_PX, HEIGHT_PX, Annotation(Verdict.REAL), "real", "hand", "r")
    rows = [Row(sample(k), encoded(k)) for k in range(NUM_IMAGES)]
    write_dataset(folder / "data.parquet", [*rows, Row(real, encoded(0))])
    write_source(folder / "near.parquet", 3)
    write_source(folder / "far.parquet", 20)
    return folder


@pytest.fixture(scope="session")
def sources(files):
    return [Source("Humans", None), Source("near", files / "near.parquet"), Source("far", files / "far.parquet")]


@pytest.fixture(scope="session")
def made(files, sources):
    """A study file to copy."""
    path = files / "made.db"
    create_study(path, files / "data.parquet", sources, PLAN, lambda done, total: None)
    return path


@pytest.fixture
def study(made, tmp_path):
    path = tmp_path / "study.db"
    path.write_bytes(made.read_bytes())
    return path


@pytest.fixture
def store(study):
    with open_study(study) as store:
        yield store
