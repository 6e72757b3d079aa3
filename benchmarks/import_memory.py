"""Peak memory of an import, and memory and time of opening a dataset, against their size.

    .venv/bin/python benchmarks/import_memory.py --num-rows 4000

A COCO file with as many small images as rows and five regions each is imported by one process, at 1, 4 and 16 times the
number of rows. Datasets of 200,000 rows with 5 or 6 regions each, as many as the paper's, are then opened: one whose
images are files, and one that holds them.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

SHOW = "\nprint(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]))"
IMPORT = """
from pathlib import Path
import sys
from fxray.data.formats.catalogue import find
from fxray.data.imports import import_dataset
from fxray.data.rows import Reading
from fxray.events import ignore
src, dst = map(Path, sys.argv[1:])
reading = Reading("displayed")
import_dataset(find("coco"), src, dst, images=src.parent, reading=reading, is_strict=False, on_event=ignore)
"""
START = "import fxray.data.imports, fxray.data.formats.coco, PIL.PngImagePlugin"
OPEN = """
import sys, time
from pathlib import Path
from fxray.data.dataset import Dataset
start_s = time.perf_counter()
Dataset.open(Path(sys.argv[1]))
print(time.perf_counter() - start_s)
"""
CAPTION = "Left hind leg twisted, merges with the floor, claws missing"


def make_coco(folder: Path, num_rows: int) -> Path:
    """Writes that many distinct images, and a COCO file of them with five regions each."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    path = folder / "annotations.json"
    with path.open("w") as out:
        out.write('{"categories": [{"id": 1, "name": "flaw"}], "images": [')
        for number in range(num_rows):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG", compress_level=0)
            (folder / "images" / f"{number:06d}.png").write_bytes(buffer.getvalue())
            row = {"id": number, "file_name": f"images/{number:06d}.png", "width": 32, "height": 32, "label": "fake"}
            out.write(("," if number else "") + json.dumps(row))
        out.write('], "annotations": [')
        for number in range(5 * num_rows):
            box = [number % 7, 3, 10.5, 12.25]
            row = {"id": number, "image_id": number % num_rows, "category_id": 1, "bbox": box, "caption": CAPTION}
            out.write(("," if number else "") + json.dumps(row))
        out.write("]}")
    return path


def make_dataset(path: Path, num_rows: int, *, is_inside: bool) -> None:
    """Writes a dataset whose images are files, or in it; nobody reads them here."""
    from fxray.data.dataset import Row, join_datasets, write_dataset
    from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

    def rows(start: int, stop: int) -> list[Row]:
        return [
            Row(
                Sample(
                    f"sdxl/{number:06d}.png",
                    1024,
                    1024,
                    Annotation(
                        Verdict.GENERATED,
                        tuple(Region(Box(i, 2, 300.5, 400), f"{CAPTION} {number} {i}") for i in range(5 + number % 2)),
                        (Tag.STRUCTURE, Tag.TEXTURE),
                    ),
                    f"generator {number % 28}",
                    f"category {number % 1000}",
                    f"source {number}",
                ),
                image=bytes(1000) if is_inside else None,
                image_path=None if is_inside else f"images/{number % 256:02x}/{number:064x}.png",
            )
            for number in range(start, stop)
        ]

    parts = []
    for start in range(0, num_rows, 10_000):
        parts.append(path.with_name(f"part-{start}"))
        write_dataset(parts[-1], rows(start, min(start + 10_000, num_rows)))
    join_datasets(path, parts)


def measure(code: str, *arguments: Path) -> tuple[str, float]:
    """What a fresh process that runs the code prints, and its peak resident memory in MiB."""
    run = subprocess.run([sys.executable, "-c", code + SHOW, *map(str, arguments)], check=True, capture_output=True)
    *printed, peak_kib = run.stdout.decode().split()
    return " ".join(printed), int(peak_kib) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-rows", type=int, default=4000)
    parser.add_argument("--num-opened", type=int, default=200_000)
    arguments = parser.parse_args()
    print(f"imports alone: {measure(START)[1]:.0f} MiB")
    for times in (1, 4, 16):
        with tempfile.TemporaryDirectory(prefix="fxray-bench-") as name:
            num_rows = times * arguments.num_rows
            src = make_coco(Path(name) / "src", num_rows)
            _, mib = measure(IMPORT, src, Path(name) / "set")
            print(
                f"{times:>3} x: {num_rows:>7} rows, {src.stat().st_size / 1e6:4.0f} MB of JSON: {mib:.0f} MiB",
                flush=True,
            )
    for is_inside in (False, True):
        with tempfile.TemporaryDirectory(prefix="fxray-bench-") as name:
            make_dataset(Path(name) / "set.parquet", arguments.num_opened, is_inside=is_inside)
            rounds = [measure(OPEN, Path(name) / "set.parquet") for _ in range(3)]
        seconds, mib = median(float(printed) for printed, _ in rounds), max(peak for _, peak in rounds)
        where = "inside" if is_inside else "beside it"
        print(
            f"Dataset.open of {arguments.num_opened} rows, images {where}: {seconds:.1f} s, {mib:.0f} MiB", flush=True
        )


if __name__ == "__main__":
    main()
