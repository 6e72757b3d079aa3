"""Pictures to annotate, and an import in one call."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from fxray.data.dataset import Dataset
from fxray.data.formats.catalogue import find
from fxray.data.formats.mapping import load_mapping
from fxray.data.images import decode_image
from fxray.data.imports import import_dataset
from fxray.data.rows import Reading
from fxray.events import ignore
from fxray.schema import Verdict

PICTURE_PX = (200, 100)


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Draws a picture below the test's folder; by default its raster is 200x100 px and upright."""

    def draw(name: str, size: tuple[int, int] = PICTURE_PX, orientation: int = 1) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = orientation
        shade = sum(name.encode()) % 256
        Image.new("RGB", size, (shade, 255 - shade, 90)).save(path, exif=exif)
        return path

    return draw


@pytest.fixture
def imported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SimpleNamespace]:
    """Imports a source, and gives `samples` by id, `findings`, `dataset`; rows without a label count as generated."""

    def run(form: str, src: Path, **options: Any) -> SimpleNamespace:
        dst = tmp_path_factory.mktemp("imported") / "set"
        found, mapping = find(form), options.pop("mapping", None)
        layout = load_mapping(mapping) if mapping else None
        images = options.pop("images", src if src.is_dir() else src.parent)
        is_strict = options.pop("is_strict", False)
        reading = Reading(
            **{"frame": layout.frame if layout else found.frame, "label": Verdict.GENERATED} | options,
        )
        summary = import_dataset(
            found, src, dst, images=images, reading=reading, is_strict=is_strict, on_event=ignore, layout=layout
        )
        dataset = Dataset.open(dst / "dataset.parquet")
        for row, sample in enumerate(dataset.samples):
            assert decode_image(dataset.image_bytes(row), sample.sample_id).size == (sample.width_px, sample.height_px)
        findings = [json.loads(line) for line in (dst / "findings.jsonl").read_text().splitlines()]
        samples = {sample.sample_id: sample for sample in dataset.samples}
        return SimpleNamespace(samples=samples, findings=findings, dataset=dataset, summary=summary)

    return run


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Writes text, or values as JSON, to a file below the test's folder."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write
