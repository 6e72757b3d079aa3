"""A small dataset, an untrained model, and settings that fit them."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxray.data.dataset import Row, write_dataset
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict
from fxray.sft.settings import SftSettings

NUM_SAMPLES = 24


def make_row(index: int, image: bytes | None = None) -> Row:
    """Odd rows are generated, with one to three red squares; sizes vary, and none has equal sides."""
    rng = np.random.default_rng(index)
    width, height = 84 + 7 * (index % 5), 56 + 5 * (index % 4)
    pixels = rng.integers(80, 140, (height, width, 3), dtype=np.uint8)
    regions = []
    for _ in range(1 + index % 3 if index % 2 else 0):
        x, y = int(rng.integers(0, width - 20)), int(rng.integers(0, height - 20))
        pixels[y : y + 16, x : x + 16] = (250, 10, 10)
        regions.append(Region(Box(x, y, x + 16, y + 16), "Red square, out of place"))
    if image is None:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        image = buffer.getvalue()
    verdict = Verdict.GENERATED if regions else Verdict.REAL
    annotation = Annotation(verdict, tuple(regions), (Tag.UNKNOWN,) if regions else ())
    return Row(Sample(f"sample-{index}", width, height, annotation, "squares", "noise", f"seed-{index}"), image)


@pytest.fixture(scope="session")
def dataset_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.parquet"
    write_dataset(path, [make_row(index) for index in range(NUM_SAMPLES)])
    return path


@pytest.fixture(scope="session")
def corrupt_dataset_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Row 2 is cut short."""
    path = tmp_path_factory.mktemp("data") / "corrupt.parquet"
    rows = [make_row(index) for index in range(8)]
    assert rows[2].image is not None
    rows[2] = replace(rows[2], image=rows[2].image[:200])
    write_dataset(path, rows)
    return path


@pytest.fixture(scope="session")
def settings(random_model_dir: Path, dataset_path: Path) -> SftSettings:
    return SftSettings(
        model_path=str(random_model_dir),
        dataset_path=str(dataset_path),
        dtype="float32",
        min_pixels=56 * 56,
        max_pixels=112 * 112,
        lora_rank=8,
        lora_alpha=32,
        lora_dropout=0.1,
        gradient_checkpointing=False,
        epochs=1,
        max_steps=6,
        learning_rate=1e-2,
        warmup_frac=0.3,
        batch_size=4,
        max_tokens_per_micro_batch=200,
        weight_decay=0.01,
        max_grad_norm=1.0,
        num_workers=1,
        gpus_per_worker=0,
        node_resources={},
        threads=1,
        zero_stage=0,
        checkpoint_every_steps=2,
        max_failures=2,
        start_deadline_s=280,
        step_deadline_s=280,
        max_answer_tokens=200,
        on_long_answer="error",
        augment_share=0.0,
        templates="shared",
        view="full",
        region_order="annotation",
        on_corrupt_image="error",
        seed=3,
    )
