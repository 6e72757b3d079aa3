"""A run directory as a finished run leaves it, made up but of the right shape and plausible size."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxray.data.dataset import Row, write_dataset
from fxray.evaluate.predictions import Prediction, write_predictions
from fxray.metrics import MetricsLog
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

FAMILIES = {
    "texture tiling": ("Bark repeated like a tile", Tag.TEXTURE),
    "blur patch": ("Grass smeared, without any blades", Tag.TEXTURE),
    "duplicated part": ("Ear doubled beside the cheek", Tag.STRUCTURE),
    "geometry bend": ("Railing bent where it should be straight", Tag.PERSPECTIVE),
}
STAGES = {
    "no-ft": (0.50, 0.02),
    "sft": (0.78, 0.30),
    "alpha": (0.82, 0.36),
    "beta": (0.87, 0.45),
    "gamma": (0.90, 0.52),
}
"""Stage: chance of a right verdict, typical IoU."""


def made_samples(num: int, size_px: int = 168) -> list[Sample]:
    rng = np.random.default_rng(0)
    samples = []
    for i in range(num):
        if i % 2:
            samples.append(
                Sample(f"test/{i:05d}", size_px, size_px, Annotation(Verdict.REAL), "real", "photograph", f"p{i}")
            )
            continue
        family = list(FAMILIES)[i // 2 % len(FAMILIES)]
        caption, tag = FAMILIES[family]
        regions = []
        for _ in range(rng.integers(1, 3)):
            x, y, w, h = rng.integers(0, 90), rng.integers(0, 90), rng.integers(35, 75), rng.integers(35, 75)
            regions.append(Region(Box(*map(float, (x, y, x + w, y + h))), caption))
        annotation = Annotation(Verdict.GENERATED, tuple(regions), (tag,))
        samples.append(Sample(f"test/{i:05d}", size_px, size_px, annotation, family, "photograph", f"p{i}"))
    return samples


def made_image(seed: int, size_px: int = 168) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(coarse).resize((size_px, size_px), Image.Resampling.BICUBIC).save(encoded, "JPEG")
    return encoded.getvalue()


def made_predictions(samples: list[Sample], right: float, iou: float, seed: int) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    predictions = []
    for sample in samples:
        is_right = rng.random() < right
        truth = sample.annotation.verdict
        other = Verdict.REAL if truth is Verdict.GENERATED else Verdict.GENERATED
        verdict = truth if is_right else (None if rng.random() < 0.1 else other)
        regions = [moved(region, iou, rng) for region in sample.annotation.regions]
        if verdict is Verdict.GENERATED and not regions:
            regions = [Region(Box(30, 40, 90, 120), "Leaf merged with its stem")]
        if verdict is Verdict.REAL:
            regions = []
        tags = sample.annotation.tags if regions else ()
        lines = "\n".join(
            f"<|object_ref_start|>{r.caption}<|object_ref_end|><|box_start|>…<|box_end|>" for r in regions
        )
        answer = f"<think>\n{lines}\n</think>\n<verdict>{verdict.value if verdict else '?'}</verdict>"
        is_strict = verdict is not None
        faults = () if is_strict else ("unknown-verdict",)
        predictions.append(
            Prediction(sample.sample_id, verdict, tuple(regions), tags, answer, faults, is_strict, seconds=0.02)
        )
    return predictions


def moved(region: Region, iou: float, rng: np.random.Generator) -> Region:
    width, height = region.box.x_max - region.box.x_min, region.box.y_max - region.box.y_min
    shift = rng.normal(0, 0.75 * (1 - math.sqrt(iou)), size=2) * (width, height)
    x, y = region.box.x_min + shift[0], region.box.y_min + shift[1]
    return Region(Box(round(x), round(y), round(x + width), round(y + height)), region.caption)


def write_metrics(run_dir: Path) -> None:
    rng = np.random.default_rng(3)
    log = MetricsLog(run_dir)
    for step in range(1, 201):
        loss = 2.6 * math.exp(-step / 40) + 0.45 + abs(rng.normal(0, 0.05))
        log.log("sft", step, {"loss": loss, "learning_rate": 1e-4, "tokens_per_s": 5200 + rng.normal(0, 150)})
    weights = {"alpha": (0.0, 1.0, 1.0, 2.0), "beta": (-0.5, 1.5, 2.0, 1.0), "gamma": (-1.0, 2.0, 0.5, 0.5)}
    for k, (stage, (base, w_iou, w_label, w_format)) in enumerate(weights.items()):
        for step in range(1, 61):
            t = k + step / 60
            accuracy, iou = 0.76 + 0.045 * t + rng.normal(0, 0.03), 0.28 + 0.07 * t + rng.normal(0, 0.03)
            parse_rate = min(1.0, 0.97 + 0.02 * t + rng.normal(0, 0.006))
            label, form = 2 * accuracy - 1, 2 * parse_rate - 1
            metrics = {
                "reward": base + w_iou * iou + w_label * label + w_format * form,
                "reward/label": label,
                "reward/iou": iou,
                "reward/format": form,
                "reward/mine:brevity": -form,
                "accuracy": accuracy,
                "iou": iou,
                "parse_rate": parse_rate,
                "loss": rng.normal(0.002, 0.004),
                "kl": 0.01 + 0.012 * t + abs(rng.normal(0, 0.004)),
                "tokens_per_s": 2900 + rng.normal(0, 120),
                "seconds": 1.4 + abs(rng.normal(0, 0.1)),
            }
            log.log(stage, step, metrics)
    log.close()


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds run directories: `make_run(num_samples=..., stages=..., is_synthetic=...)`."""

    def make(
        num_samples: int = 120, stages: dict[str, tuple[float, float]] = STAGES, is_synthetic: bool = True
    ) -> Path:
        run_dir = tmp_path_factory.mktemp("runs") / "tiny-2026-11-23"
        write_run(run_dir, num_samples, stages, is_synthetic)
        return run_dir

    return make


def write_run(run_dir: Path, num_samples: int, stages: dict[str, tuple[float, float]], is_synthetic: bool) -> None:
    samples = made_samples(num_samples)
    write_dataset(
        run_dir / "data" / "test.parquet", [Row(sample, image=made_image(i)) for i, sample in enumerate(samples)]
    )
    for k, (name, (right, iou)) in enumerate(stages.items()):
        write_predictions(
            made_predictions(samples, right, iou, seed=k), run_dir / "evaluation" / name / "predictions.parquet"
        )
    write_metrics(run_dir)
    (run_dir / "config.yaml").write_text("seed: 7\nmodel:\n  path: tiny\nevaluate:\n  num_bootstrap: 50\n")
    (run_dir / "data.json").write_text(json.dumps({"test": "data/test.parquet", "is_synthetic": is_synthetic}))
    versions = {
        "packages": {"fxray": "0.1.0", "ray": "2.58.1", "vllm": "0.32.0", "torch": "2.13.0", "peft": "0.21.2"},
        "git_revision": "0123456789ab",
        "python": "3.11.9",
        "machine": "Linux x86_64, 2 processors",
        "command": "fxray train --config configs/tiny.yaml --run-dir runs/demo",
    }
    (run_dir / "versions.json").write_text(json.dumps(versions))
