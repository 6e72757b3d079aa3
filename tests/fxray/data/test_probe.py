"""Hostile images, through the importer: one finding each, in bounded time and memory."""

import io
import json
import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from fxray.data.dataset import Dataset
from fxray.data.formats.catalogue import find
from fxray.data.images import decode_image
from fxray.data.imports import import_dataset
from fxray.data.rows import Reading
from fxray.errors import DataError
from fxray.events import ignore


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
FRAMES = [Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (0, 120, 240)]


def png_of(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def palette_with_transparency():
    image = NOISE.quantize(8)
    return encoded(image, "PNG", transparency=0)


REFUSED = {
    "cut.jpg": (encoded(NOISE, "JPEG")[:900], "damaged or cut short"),
    "cut.png": (encoded(NOISE, "PNG")[:5000], "damaged or cut short"),
    "cut.webp": (encoded(NOISE, "WEBP")[:900], "damaged or cut short"),
    "empty.jpg": (b"", "an empty file"),
    "zeros.jpg": (bytes(1000), "no image"),
    "bomb.png": (png_of(60_000, 60_000), "pixels"),
    "large.png": (png_of(11_000, 11_000), "pixels"),
    "promise.png": (png_of(9_000, 9_000), "damaged or cut short"),
    "thread.png": (encoded(Image.new("RGB", (30_000, 1)), "PNG"), "longer than 200 times"),
    "phone.heic": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00" + bytes(200), "HEIC"),
    "drawing.png": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "no image"),  # not handed to Ghostscript
    "fractions.tif": (encoded(Image.new("F", (32, 32), 0.5), "TIFF"), "from 0.5 to 0.5, expected 0 to 255"),
    "page.jpg": (b"<!doctype html><html>404</html>", "no image"),
}
ODD = {
    "dot.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), "1x1 px"),
    "print.jpg": (encoded(NOISE.convert("CMYK"), "JPEG"), "CMYK"),
    "deep.png": (encoded(Image.fromarray(np.full((32, 32), 40_000, np.uint16)), "PNG"), "more than 8 bits"),
    "float.tif": (encoded(Image.new("F", (32, 32), 127.5), "TIFF"), "more than 8 bits"),
    "sticker.png": (palette_with_transparency(), "transparency"),
    "layers.png": (encoded(NOISE.convert("RGBA"), "PNG"), "transparency"),
    "clip.gif": (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "animation"),
    "clip.webp": (encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "animation"),
}
PLAIN = {
    "plain.avif": encoded(NOISE, "AVIF"),
    "plain.bmp": encoded(NOISE, "BMP"),
    "grey.jpg": encoded(NOISE.convert("L"), "JPEG"),
}


def import_files(tmp_path, files):
    folder = tmp_path / "set" / "fake"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    dst = tmp_path / "imported"
    import_dataset(
        find("folders"),
        tmp_path / "set",
        dst,
        images=tmp_path,
        reading=Reading("displayed"),
        is_strict=False,
        on_event=ignore,
    )
    findings = [json.loads(line) for line in (dst / "findings.jsonl").read_text().splitlines()]
    return Dataset.open(dst / "dataset.parquet"), findings


def test_each_hostile_image_gives_one_finding_and_never_more(tmp_path):
    dataset, findings = import_files(tmp_path, {name: file[0] for name, file in (REFUSED | ODD).items()} | PLAIN)
    told = {finding["file"].rsplit("/", 1)[1]: finding for finding in findings}
    assert len(told) == len(findings)
    assert set(told) == set(REFUSED) | set(ODD)
    for name, (_, reason) in (REFUSED | ODD).items():
        assert reason in told[name]["reason"], name
        assert told[name]["is_warning"] == (name in ODD), name
    assert {sample.sample_id for sample in dataset.samples} == {f"fake/{name}" for name in (*ODD, *PLAIN)}
    for row, sample in enumerate(dataset.samples):
        assert decode_image(dataset.image_bytes(row), sample.sample_id).size == (sample.width_px, sample.height_px)


def test_a_sparse_file_and_a_pipe_are_refused_unread(tmp_path, peak_kib):
    folder = tmp_path / "set" / "fake"
    folder.mkdir(parents=True)
    with (folder / "sparse.jpg").open("wb") as file:
        file.write(encoded(NOISE, "JPEG"))
        file.truncate(4 * 2**30)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "fine.jpg").write_bytes(encoded(NOISE, "JPEG"))
    before_kib, start_s = peak_kib(), time.monotonic()
    dst = tmp_path / "imported"
    import_dataset(
        find("folders"),
        tmp_path / "set",
        dst,
        images=tmp_path,
        reading=Reading("displayed"),
        is_strict=False,
        on_event=ignore,
    )
    assert time.monotonic() - start_s < 10
    assert peak_kib() - before_kib < 100 * 1024
    findings = [json.loads(line) for line in (dst / "findings.jsonl").read_text().splitlines()]
    assert [finding["reason"] for finding in findings] == [
        "no ordinary file",
        "4294967296 bytes, expected at most 256 MiB",
    ]


def test_damage_anywhere_in_a_file_is_a_finding_or_an_image(tmp_path):
    rng = np.random.default_rng(1)
    files = {}
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"):
        whole = encoded(NOISE, form)
        for number in range(20):
            damaged = bytearray(whole)
            for place in rng.integers(4, min(len(whole), 600), 4):
                damaged[place] = rng.integers(256)
            files[f"{number}.{form.lower()}"] = bytes(damaged)
    dataset, findings = import_files(tmp_path, files)
    refused = {finding["file"].rsplit("/", 1)[1] for finding in findings if not finding["is_warning"]}
    assert len(dataset) + len(refused) == len(files)
    assert refused


def test_nothing_readable_is_an_error(tmp_path):
    with pytest.raises(DataError, match="1 entry cannot be read, 0 rows can"):
        import_files(tmp_path, {"empty.jpg": b""})
