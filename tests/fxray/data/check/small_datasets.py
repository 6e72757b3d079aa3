"""Small datasets for tests: pictures that look like nothing else, rows that are right unless changed."""

import io
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fxray.data.dataset import SCHEMA


def picture(seed: int, side: int = 64) -> Image.Image:
    """Smooth noise over several scales, as a photograph has them; every seed another picture."""
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side, 3))
    for cells in (3, 6, 12):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), float) / cells
    return Image.fromarray((255 * (total - total.min()) / np.ptp(total)).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@cache
def photo(number: int) -> bytes:
    """The JPEG file of a picture, encoded once for all tests."""
    return encoded(picture(number))


def row(number: int, *, is_generated: bool, image: bytes | None = None, **changes: Any) -> dict[str, Any]:
    """A row without fault, 64 x 64 px, with a picture and a source of its own."""
    region = {"x_min": 5.0, "y_min": 6.0, "x_max": 40.0, "y_max": 35.5, "caption": f"hand {number} fused"}
    return {
        "sample_id": f"s{number}",
        "image": photo(number) if image is None else image,
        "image_path": None,
        "width_px": 64,
        "height_px": 64,
        "label": "generated" if is_generated else "real",
        "regions": [region] if is_generated else [],
        "tags": ["structure errors"] if is_generated else [],
        "generator": "sdxl" if is_generated else "real",
        "category": "dog",
        "source": f"photo {number}",
    } | changes


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path, row_group_size=16)
    return path


def balanced(num: int, encode: Callable[[Image.Image, bool], bytes] | None = None) -> list[dict[str, Any]]:
    """Rows of both classes in turn; `encode` makes a file of a picture and its label."""
    return [
        row(i, is_generated=i % 2 == 1, image=encode(picture(i), i % 2 == 1) if encode else None) for i in range(num)
    ]
