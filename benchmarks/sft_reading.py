"""How fast an SFT rank reads: decoding, changing (`sft.augment_share`) and preprocessing images of real sizes.

Beside it the image store of GRPO, which has decoded each image before, and encodes what it changes.

python benchmarks/sft_reading.py --side-px 1024 4000 --threads 1 2

Frames are those of `configs/qwen2.5-vl-3b.yaml`.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from actors.image_store import ImageStore
from fxray.config.load import load_config
from fxray.data.augment import drawn
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.data.frame import sight_of
from fxray.grpo.types import Visit
from fxray.launch.prompts import frame_rule
from fxray.launch.sft import sft_settings
from fxray.model.folder import resolve_model_path
from fxray.model.images import load_image_processor
from fxray.model.prompts import load_tokenizer
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict
from fxray.sft import batches

BATCH_SIZE = 32
SPLITS = ("train", "validation", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side-px", type=int, nargs="+", default=[512, 1024, 3000])
    parser.add_argument("--share", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps: at least 1")
    print(f"{BATCH_SIZE} samples a step, medians of {arguments.steps} after 1, in one run")
    print("side px   share  " + "".join(f"{count:>4} threads" for count in arguments.threads) + "   GRPO's store")
    with tempfile.TemporaryDirectory() as folder:
        for side_px in arguments.side_px:
            data = Path(folder) / f"{side_px}.parquet"
            write_dataset(data, [_row(index, side_px) for index in range(BATCH_SIZE)])
            for share in arguments.share:
                reads = [*(_reader(data, share, threads).read for threads in arguments.threads), _store(data, share)]
                seconds: list[list[float]] = [[] for _ in reads]
                for step in range(arguments.steps + 1):  # in turn: the machine's speed is another each minute
                    for read, times in zip(reads, seconds, strict=True):
                        start_s = time.perf_counter()
                        read(step)
                        times.append(time.perf_counter() - start_s)
                cells = "".join(f"{statistics.median(times[1:]):>10.2f} s" for times in seconds)
                print(f"{side_px:>7}  {share:>6}{cells}", flush=True)


def _row(index: int, side_px: int) -> Row:
    """A smooth image with a box, as JPEG of quality 90."""
    coarse = np.random.default_rng(index).integers(0, 255, (side_px // 8, side_px // 8, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
    box = Box(0.1 * side_px, 0.2 * side_px, 0.4 * side_px, 0.5 * side_px)
    annotation = Annotation(Verdict.GENERATED, (Region(box, "Shadow falls towards the light"),), (Tag.UNKNOWN,))
    return Row(Sample(f"sample-{index}", side_px, side_px, annotation, "any", "", f"s{index}"), encoded.getvalue())


def _store(data: Path, share: float) -> Callable[[int], object]:
    config = load_config("qwen2.5-vl-3b", ["model.path=tiny", *(f"data.{name}={data}" for name in SPLITS)])
    store = ImageStore(data, frame_rule(config, resolve_model_path(config.model.path)))

    def read(step: int) -> object:
        keys = [(step, row) if drawn(share, step, row) else None for row in range(BATCH_SIZE)]
        return store.read([Visit(row, key) for row, key in enumerate(keys)])

    return read


def _reader(data: Path, share: float, threads: int) -> batches.ExampleReader:
    files = [f"data.{name}={data}" for name in SPLITS]
    config = load_config("qwen2.5-vl-3b", ["model.path=tiny", f"sft.augment_share={share}", *files])
    model = resolve_model_path(config.model.path)
    settings = replace(sft_settings(config, model, data), batch_size=BATCH_SIZE)
    processor = load_image_processor(model, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    batches.CACHE_BYTES = 0
    with patch.object(torch, "get_num_threads", return_value=threads):
        return batches.ExampleReader(
            settings, Dataset.open(data), load_tokenizer(model), processor, sight_of(model), rank=0, num_ranks=1
        )


if __name__ == "__main__":
    main()
