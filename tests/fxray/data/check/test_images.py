"""Ordinary and hostile images: the facts of each, and one finding for each that is hostile."""

import hashlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_datasets import encoded, picture, row, write

from fxray.data.check.check import check
from fxray.data.check.findings import Place
from fxray.data.check.images import ImageFacts, Unseen, examine_image, file_facts, image_faults


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def animated(form: str) -> bytes:
    frames = [picture(seed) for seed in range(3)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:])


def see_through() -> bytes:
    return encoded(picture(50).quantize(16), "PNG", transparency=0)


def examine(content: bytes) -> ImageFacts | Unseen:
    return examine_image(content, hashlib.sha256(content).digest())


HOSTILE = {
    "truncated JPEG": (encoded(picture(50))[:700], "image-damaged"),
    "truncated PNG": (encoded(picture(50), "PNG")[:4000], "image-damaged"),
    "truncated WebP": (encoded(picture(50), "WEBP")[:300], "image-damaged"),
    "truncated GIF": (encoded(picture(50), "GIF")[:1500], "image-damaged"),
    "zero bytes": (b"", "image-missing"),
    "null bytes": (bytes(1000), "image-damaged"),
    "bomb": (png(60_000, 60_000), "image-damaged"),
    "bomb below Pillow's own limit": (png(11_000, 11_000), "image-damaged"),
    "no pixels behind the header": (png(64, 64), "image-damaged"),
    "1x1": (png(1, 1, data=b"\0abc"), "image-tiny"),
    "30000x1": (png(30_000, 1, data=bytes(90_001)), "image-shape"),
    "CMYK": (encoded(picture(50).convert("CMYK")), "image-kind"),
    "16 bits grey": (encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "PNG"), "image-kind"),
    "16 bits RGB": (png(64, 64, depth=16, data=bytes(64 * (1 + 64 * 6))), "image-kind"),
    "palette with transparency": (see_through(), "image-kind"),
    "alpha": (encoded(picture(50).convert("RGBA"), "PNG"), "image-kind"),
    "animated GIF": (animated("GIF"), "image-kind"),
    "animated WebP": (animated("WEBP"), "image-kind"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), "image-damaged"),
    "SVG renamed": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="x()"/>', "image-damaged"),
    "PostScript renamed": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "image-damaged"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_is_one_finding(tmp_path: Path, name: str) -> None:
    content, rule = HOSTILE[name]
    try:
        size = Image.open(io.BytesIO(content)).size
    except (OSError, Image.DecompressionBombError):
        size = (64, 64)
    bad = row(0, is_generated=True, image=content, width_px=size[0], height_px=size[1])
    bad["regions"] = [bad["regions"][0] | {"x_min": 0.0, "y_min": 0.0, "x_max": size[0] / 2, "y_max": float(size[1])}]
    found = check([write(tmp_path / "a.parquet", [bad, row(1, is_generated=False), row(2, is_generated=False)])])
    of_row = [f for f in found.findings if f.place.row == 0 and f.rule not in ("box-tiny", "class-balance")]
    assert [f.rule for f in of_row] == [rule]
    assert of_row[0].message
    assert of_row[0].kind.remedy


def test_heic_and_svg_are_named() -> None:
    assert "HEIC" in examine(HOSTILE["HEIC"][0]).message
    assert "SVG" in examine(HOSTILE["SVG renamed"][0]).message


def test_avif_is_read() -> None:
    facts = examine(encoded(picture(3), "AVIF"))
    assert isinstance(facts, ImageFacts)
    assert list(image_faults(facts, (64, 64))) == []
    assert (facts.file.format, facts.file.width_px) == ("AVIF", 64)


def test_a_sparse_file_of_4_gb_and_what_is_no_file_are_findings(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(4 * 2**30)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    names = ["huge.png", "folder.png", "pipe.png", "absent.png", "nul\0.png"]
    rows = [row(i, is_generated=True, image_path=name) | {"image": None} for i, name in enumerate(names)]
    found = check([write(tmp_path / "a.parquet", rows)])
    missing = [f for f in found.findings if f.rule == "image-missing"]
    assert [f.place.row for f in missing] == [0, 1, 2, 3, 4]
    assert "4294967296 bytes" in missing[0].message
    assert "no plain file" in missing[1].message
    assert "no plain file" in missing[2].message
    assert "No such file" in missing[3].message


def test_paths_that_hold_on_this_machine_alone_or_lead_nowhere_are_told(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "out.jpg").write_bytes(encoded(picture(1)))
    paths = ["../out.jpg", str(tmp_path / "out.jpg"), "../gone.jpg"]
    rows = [row(i, is_generated=True, image_path=path) | {"image": None} for i, path in enumerate(paths)]
    found = check([write(tmp_path / "set" / "a.parquet", rows)])
    assert [f.place.row for f in found.findings if f.rule == "image-path"] == [1, 2]


def test_images_outside_the_dataset_s_folder_are_noted_once_a_file(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    files = []
    for part in range(2):
        rows = []
        for i in range(3):
            (tmp_path / f"{part}{i}.jpg").write_bytes(encoded(picture(10 * part + i)))
            rows.append(row(10 * part + i, is_generated=True, image_path=f"../{part}{i}.jpg") | {"image": None})
        files.append(write(tmp_path / "set" / f"{part}.parquet", rows))
    found = [f for f in check(files).findings if f.rule in ("image-path", "image-elsewhere")]
    assert [(f.rule, f.place) for f in found] == [("image-elsewhere", Place(str(file))) for file in files]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_sizes_and_looks_are_those_of_the_upright_image(orientation: int, form: str) -> None:
    from PIL import ImageOps

    stored = picture(1).resize((96, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(stored, form, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(turned)))
    facts, plain = examine(turned), examine(encoded(upright, "PNG"))
    assert isinstance(facts, ImageFacts)
    assert isinstance(plain, ImageFacts)
    assert upright.size == ((64, 96) if orientation >= 5 else (96, 64))
    assert list(image_faults(facts, upright.size)) == []
    assert file_facts(turned, "").width_px == upright.width
    assert np.linalg.norm(facts.fingerprint - plain.fingerprint) < 0.05


def test_a_size_that_is_not_the_image_s_is_told() -> None:
    faults = image_faults(examine(encoded(picture(1).resize((96, 64)))), (64, 96))
    assert [(f.rule, f.message) for f in faults] == [("image-size", "image is 96x64 px upright, expected 64x96")]


def test_the_facts_of_a_file_are_those_of_its_encoder() -> None:
    coarse = examine(encoded(picture(1), quality=30, subsampling=2))
    fine = examine(encoded(picture(1), quality=95, subsampling=0))
    flat = examine(encoded(picture(1), "PNG"))
    assert coarse.file.quantisation[0] > fine.file.quantisation[0] > 64
    assert (coarse.file.subsampling, fine.file.subsampling) == (2, 0)
    assert (flat.file.format, flat.file.quantisation, flat.file.subsampling) == ("PNG", (0, 0), -1)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_random_damage_never_escapes_as_another_error(form: str) -> None:
    rng = np.random.default_rng(1)
    whole = encoded(picture(1, side=48), form)
    num_damaged = 0
    for _ in range(150):
        damaged = bytearray(whole[: rng.integers(4, len(whole) + 1)])
        for place in rng.integers(0, len(damaged), 4):
            damaged[place] = rng.integers(256)
        num_damaged += isinstance(examine(bytes(damaged)), Unseen)
    assert num_damaged > 10


BOUND = """
import sys
from pathlib import Path
from fxray.data.check.check import check
found = check([Path(sys.argv[1])])
print(len([f for f in found.findings if f.rule == "image-damaged"]))
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]))  # ru_maxrss would be the parent's too
"""


@pytest.mark.slow
def test_bombs_and_large_images_stay_within_a_bound(tmp_path: Path) -> None:
    side = 7_700  # 59 million pixels, 237 MB when decoded, in 230 kB
    large = png(side, side, colour=6, data=bytes(side * (1 + 4 * side)))
    rows = [row(i, is_generated=True, image=large, width_px=side, height_px=side) for i in range(2)]
    rows += [row(i, is_generated=True, image=png(60_000, 60_000)) for i in range(2, 4)]
    path = write(tmp_path / "a.parquet", rows)
    done = subprocess.run([sys.executable, "-c", BOUND, path], capture_output=True, text=True, check=True)
    num_bombs, peak_kib = map(int, done.stdout.split())
    assert num_bombs == 2
    assert peak_kib < 800_000  # one at a time
