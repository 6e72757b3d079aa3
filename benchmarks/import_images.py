"""Time `fxray data import folders` beside datasets' imagefolder builder, on the same small files in one run.

    .venv/bin/python benchmarks/import_images.py --num-images 20000

Both get `real/` and `fake/` folders and write a dataset from nothing; the page cache is warm for both, and they take
turns. fxray decodes every image, hashes it and copies it under its checksum; what the builder wrote is printed.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

FXRAY = """
from pathlib import Path
import sys
from fxray.data.formats.catalogue import find
from fxray.data.imports import import_dataset
from fxray.data.rows import Reading
from fxray.events import ignore
src, dst = map(Path, sys.argv[1:])
import_dataset(find("folders"), src, dst, images=src, reading=Reading("displayed"), is_strict=False, on_event=ignore)
"""
PEER = """
import sys
import datasets
datasets.disable_progress_bars()
src, dst = sys.argv[1:]
builder = datasets.load_dataset_builder("imagefolder", data_dir=src, cache_dir=dst)
builder.download_and_prepare()
"""


def make_images(folder: Path, num_images: int, side_px: int) -> int:
    """Writes JPEG files of smooth noise, half below real/, half below fake/; returns their bytes."""
    rng = np.random.default_rng(0)
    num_bytes = 0
    for label in ("real", "fake"):
        (folder / label).mkdir(parents=True)
    for number in range(num_images):
        small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize((side_px, side_px), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        label = "fake" if number % 2 else "real"
        (folder / label / f"{number:06d}.jpg").write_bytes(buffer.getvalue())
        num_bytes += buffer.tell()
    return num_bytes


def timed(code: str, src: Path, dst: Path) -> tuple[float, float, int]:
    """Seconds of wall clock and of processor of a fresh process that runs the code, and the bytes that it wrote."""
    before = os.times()
    start_s = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", code, str(src), str(dst)], check=True, env=os.environ | {"HF_DATASETS_OFFLINE": "1"}
    )
    wall_s, after = time.monotonic() - start_s, os.times()
    num_bytes = sum(path.stat().st_size for path in dst.rglob("*") if path.is_file())
    shutil.rmtree(dst)
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return wall_s, cpu_s, num_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-images", type=int, default=20_000)
    parser.add_argument("--side-px", type=int, default=96)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fxray-bench-") as name:
        src = Path(name) / "files"
        num_bytes = make_images(src, arguments.num_images, arguments.side_px)
        print(f"{arguments.num_images} JPEG files of {arguments.side_px} px, {num_bytes / 1e6:.0f} MB")
        times: dict[str, list[tuple[float, float, int]]] = {"fxray": [], "imagefolder": []}
        for _ in range(arguments.turns):
            for who, code in (("fxray", FXRAY), ("imagefolder", PEER)):
                times[who].append(timed(code, src, Path(name) / who))
        for who, turns in times.items():
            wall_s, cpu_s, num_written = min(turns)
            rates = f"{arguments.num_images / wall_s:7.0f} rows/s {num_bytes / 1e6 / wall_s:6.1f} MB/s"
            every = ", ".join(f"{turn[0]:.1f}" for turn in turns)
            print(f"{who:<12} {rates}   best of {every}: {wall_s:.1f} s, of processor {cpu_s:.1f} s")
            print(f"{'':<12} wrote {num_written / 1e6:.0f} MB")
        print(f"fxray is {min(times['imagefolder'])[0] / min(times['fxray'])[0]:.2f} times as fast")


if __name__ == "__main__":
    main()
