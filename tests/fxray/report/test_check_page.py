"""The page of a check: every rule that is broken, its images with their boxes, and nothing that could run."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fxray.data.check.check import check
from fxray.data.dataset import SCHEMA
from fxray.report.check_page import CARDS_PER_RULE, write_check_page


def _image(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((120, 60), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def _row(number: int, **changes: object) -> dict:
    return {
        "sample_id": f"s{number}",
        "image": _image(number),
        "image_path": None,
        "width_px": 120,
        "height_px": 60,
        "label": "generated",
        "regions": [{"x_min": 10.0, "y_min": 10.0, "x_max": 30.0, "y_max": 40.0, "caption": "hand fused"}],
        "tags": [],
        "generator": "sdxl",
        "category": "dog",
        "source": f"p{number}",
    } | changes


@pytest.fixture
def page(tmp_path: Path) -> str:
    evil = "<script>alert(1)</script>"
    rows = [_row(i) for i in range(30)]
    rows[0] |= {"sample_id": evil, "tags": [evil]}
    rows[1] |= {"image": b"<svg onload=alert(1)>"}
    rows[2] |= {"image": rows[3]["image"]}
    for row in rows[10:]:
        row["label"] = "fake"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "a.parquet")
    write_check_page(tmp_path / "check.html", check([tmp_path / "a.parquet"]))
    return (tmp_path / "check.html").read_text("utf-8")


def test_each_broken_rule_has_its_shelf_and_the_first_of_its_findings(page: str) -> None:
    for rule in ("tag", "image-damaged", "duplicate", "label", "class-balance"):
        assert f'<section id="{rule}">' in page
    assert f"label, {CARDS_PER_RULE} of 20" in page
    shelf = page[page.index('<section id="label">') :]
    assert shelf[: shelf.index("</section>")].count("<article") == CARDS_PER_RULE


def test_one_row_and_one_finding_are_said_in_the_singular(tmp_path: Path) -> None:
    row = _row(0) | {"label": "fake"}
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), tmp_path / "a.parquet")
    found = check([tmp_path / "a.parquet"])
    only = replace(found, findings=tuple(each for each in found.findings if each.rule == "label"))
    write_check_page(tmp_path / "check.html", only)
    assert "1 row. 1 finding of 1 rule." in (tmp_path / "check.html").read_text("utf-8")


def test_images_stand_with_their_boxes_and_copies_side_by_side(page: str) -> None:
    shelf = page[page.index('<section id="duplicate">') :]
    shelf = shelf[: shelf.index("</section>")]
    assert shelf.count("data:image/jpeg;base64,") == 2
    assert "row 2" in shelf
    assert "row 3" in shelf
    # 120 x 60 px are shown 240 wide: the box 10, 10, 30, 40 at twice its size.
    assert 'class="box" x="20.0" y="20.0" width="40.0" height="60.0"' in shelf


@pytest.mark.parametrize("form", ["JPEG", "TIFF", "PNG"])
def test_thumbnails_are_upright_in_every_format(tmp_path: Path, form: str) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.open(io.BytesIO(_image(1))).transpose(Image.Transpose.ROTATE_90).save(buffer, form, exif=exif)
    rows = [_row(0, image=buffer.getvalue(), label="fake"), _row(1)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "a.parquet")
    found = check([tmp_path / "a.parquet"])
    assert not [finding for finding in found.findings if finding.rule == "image-size"]
    write_check_page(tmp_path / "check.html", found)
    uris = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", (tmp_path / "check.html").read_text("utf-8"))
    shown = Image.open(io.BytesIO(base64.b64decode(uris[0])))
    assert shown.size == (120, 60)
    plain = Image.open(io.BytesIO(_image(1)))
    assert np.abs(np.asarray(shown, float) - np.asarray(plain, float)).mean() < 8


def test_text_of_the_data_stays_text_and_nothing_is_fetched(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Content-Security-Policy" in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    (blank,) = set(re.findall(r">no picture</text>(.*?)</svg>", page))
    assert blank == ""  # no boxes where there is nothing to see
