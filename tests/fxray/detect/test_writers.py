"""Findings in the files of other tools, and on a page that trusts none of them."""

import base64
import csv
import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from fxray.data.formats import location
from fxray.data.formats.catalogue import find, reader
from fxray.detect.page import MAX_THUMBNAILS_BYTES, write_page
from fxray.detect.results import write_results
from fxray.detect.writers import draw_all, drawing_name, write_coco, write_csv

NASTY = '<img src=x onerror="alert(1)"></script>'


def jpeg(colour: str, size: tuple[int, int] = (100, 50)) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, colour).save(encoded, "PNG")
    return encoded.getvalue()


def record(file: str, content: bytes, **changes: object) -> dict:
    origin = {"state": "absent", "is_trusted": False, "signer": "", "signed": "", "generator": "", "source_types": [],
              "agents": [], "problems": []}  # fmt: skip
    return {
        "file": file, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content), "modified_ns": 1,
        "width_px": 100, "height_px": 50, "verdict": "generated", "assessment": "unsure", "probability": 0.625,
        "probability_kind": "calibrated", "raw_probability": 0.8,
        "calibration": {"num_images": 1234, "is_synthetic": True},
        "regions": [{"box": [10.0, 5.0, 60.0, 45.0], "caption": NASTY}, {"box": [0, 0, 1, 1], "caption": "=1+1"}],
        "tags": ["texture errors"], "answer": f"<think>{NASTY}</think>", "faults": [], "is_strict": True,
        "timings": {"read_s": 0.01, "answer_s": 0.5},
        "versions": {"fxray": "0", "base": "tiny", "adapter": "a", "adapter_sha256": "cd" * 32},
        "provenance": {"credentials": origin, "marks": [{"by": NASTY, "says": "generated", "place": "xmp", "text": ""}],
                       "camera": {}, "withheld": ["author"], "personal": {}, "problem": ""},
    } | changes  # fmt: skip


def failure(file: str) -> dict:
    return {"file": file, "sha256": None, "size_bytes": -1, "modified_ns": -1, "provenance": None,
            "problem": f"no image: {NASTY}", "remedy": "mend it"}  # fmt: skip


@pytest.fixture
def records(tmp_path: Path) -> list[dict]:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(jpeg("white"))
    (tmp_path / "out").mkdir()
    return [record("../in/a.png", jpeg("white")), failure("../in/-b\n.png")]


def test_csv_has_a_row_per_image_and_no_formulas(tmp_path: Path, records: list[dict]) -> None:
    records[0] |= {"notes": ["hardly large enough", "another"]}
    write_csv([*records, failure("=cmd|'/C calc'!A0")], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        first, second, third = csv.DictReader(file)
    assert (first["verdict"], first["assessment"], first["probability"], first["num_regions"]) == (
        "generated", "unsure", "0.625", "2",
    )  # fmt: skip
    assert first["captions"] == f"{NASTY}; =1+1"
    assert first["origin"] == f"generated: {NASTY}"
    assert (first["notes"], second["notes"]) == ("hardly large enough; another", "")
    assert (second["verdict"], second["problem"]) == ("", f"no image: {NASTY}")
    assert third["file"] == "'=cmd|'/C calc'!A0"


def test_coco_can_be_scored_and_imported_again(tmp_path: Path, records: list[dict]) -> None:
    write_coco(records, tmp_path / "out" / "coco")
    results = json.loads((tmp_path / "out" / "coco" / "results.json").read_text())
    assert results[0] == {"image_id": 1, "category_id": 1, "bbox": [10.0, 5.0, 50.0, 40.0], "score": 0.625}
    source = tmp_path / "out" / "coco" / "annotations.json"
    (read,) = reader(find("coco"))(source, location.Images(source.parent))
    assert [(region.corners, region.caption) for region in read.regions] == [
        ((10.0, 5.0, 60.0, 45.0), NASTY), ((0, 0, 1, 1), "=1+1"),
    ]  # fmt: skip
    assert read.annotator == f"fxray {'cd' * 6}"


def test_only_an_assessment_that_is_the_verdict_too_is_a_label_in_coco(tmp_path: Path) -> None:
    pairs = [("generated", "generated"), ("real", "real"), ("generated", "unsure"), ("real", "unsure"),
             ("generated", "real")]  # fmt: skip
    found = [record(f"{k}.png", b"", verdict=said, assessment=means) for k, (said, means) in enumerate(pairs)]
    write_coco(found, tmp_path / "coco")
    written = json.loads((tmp_path / "coco" / "annotations.json").read_text())["images"]
    assert [image["label"] for image in written] == ["generated", "real", None, None, None]
    assert [image["assessment"] for image in written] == [means for _, means in pairs]


def test_an_unsure_image_is_no_truth_until_somebody_says_which(tmp_path: Path, records: list[dict]) -> None:
    write_coco(records, tmp_path / "out" / "coco")
    source = tmp_path / "out" / "coco" / "annotations.json"
    (read,) = reader(find("coco"))(source, location.Images(source.parent))
    assert read.label is None


def test_a_drawing_says_what_the_report_says(
    tmp_path: Path, records: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []

    def draw(image: Image.Image, **given: object) -> Image.Image:
        said.append((given["verdict"], given.get("note")))
        return image

    monkeypatch.setattr("fxray.detect.writers.draw_annotation", draw)
    sure = record("../in/a.png", jpeg("white"), assessment="generated", probability=None)
    noted = record("../in/a.png", jpeg("white"), assessment="real", probability=None, notes=["1x1 px, hardly large"])
    for number, found in enumerate([records[0], sure, noted]):
        assert draw_all([found], tmp_path / "out", tmp_path / str(number)) == []
    assert said == [("Unsure 62 %", ""), ("Looks generated", ""), ("Looks real", "1x1 px, hardly large")]


def test_a_drawing_of_a_long_name_in_any_script_has_a_name_that_file_systems_take() -> None:
    for name in ("a" * 200, "雨" * 80, "é" * 120, "\ud800x"):
        made = drawing_name({"file": f"in/{name}.jpg", "sha256": "ab" * 32})
        assert made.endswith("-abababab.png")
        assert len(made.encode()) <= 80 + len("-abababab.png")


def test_drawings_are_made_once_and_only_of_the_image_that_was_examined(tmp_path: Path, records: list[dict]) -> None:
    out = tmp_path / "out"
    assert draw_all(records, out, out / "drawn") == []
    (file,) = (out / "drawn").iterdir()
    assert file.name == drawing_name(records[0]) == f"a.png-{records[0]['sha256'][:8]}.png"
    with Image.open(file) as drawn:
        assert drawn.width == 448
        assert drawn.getpixel((round(4.48 * 10) + 1, 100)) == (213, 94, 0)
    before = file.stat().st_mtime_ns
    assert draw_all(records, out, out / "drawn") == []
    assert file.stat().st_mtime_ns == before
    (tmp_path / "in" / "a.png").write_bytes(jpeg("black"))
    file.unlink()
    assert draw_all(records, out, out / "drawn") == ["../in/a.png: was changed after it was examined"]


def test_copies_of_an_image_in_several_folders_have_one_drawing_of_any_that_is_there(tmp_path: Path) -> None:
    noise = io.BytesIO()
    Image.effect_noise((900, 700), 80).convert("RGB").save(noise, "PNG")
    for name in ("out", *"abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(noise.getvalue())
    copies = [record(f"../{name}/x.png", noise.getvalue()) for name in "abcd"]
    assert draw_all(copies, tmp_path / "out", tmp_path / "out" / "drawn") == []
    (drawn,) = (tmp_path / "out" / "drawn").iterdir()
    drawn.unlink()
    for name in "abc":
        (tmp_path / name / "x.png").unlink()
    assert draw_all(copies, tmp_path / "out", tmp_path / "out" / "drawn") == []
    assert drawn.is_file()
    drawn.unlink()
    (tmp_path / "d" / "x.png").unlink()
    assert len(draw_all(copies, tmp_path / "out", tmp_path / "out" / "drawn")) == 4


def page_of(tmp_path: Path, records: list[dict], thumbnail: bytes = b"") -> str:
    write_page(tmp_path / "report.html", records, lambda _: thumbnail, {"adapter": NASTY, "view": None})
    return (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize("keeps", [False, True])
def test_the_page_says_whether_it_holds_personal_metadata(tmp_path: Path, records: list[dict], keeps: bool) -> None:
    write_page(tmp_path / "report.html", records, lambda _: b"", {"keeps_personal_metadata": keeps})
    page = (tmp_path / "report.html").read_text("utf-8")
    assert ("are left out" in page, "think before you hand it on" in page) == (not keeps, keeps)


def test_what_a_model_or_a_file_says_stays_text_on_the_page(tmp_path: Path, records: list[dict]) -> None:
    page = page_of(tmp_path, records)
    assert "<img" not in page
    assert page.count("</script>") == 1
    assert page.count("&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&lt;/script&gt;") >= 5
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    script = page[page.index("<script>") + 8 : page.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


def test_the_page_says_what_was_found_and_what_the_numbers_rest_on(tmp_path: Path, records: list[dict]) -> None:
    page = page_of(tmp_path, records, jpeg("white"))
    assert "1 unsure, 1 not examined." in page
    assert "calibrated on 1,234 images, synthetic ones" in page
    assert 'x="36.0" y="18.0" width="180.0" height="144.0"' in page  # the view is 3.6 times the image
    assert "62 %" in page
    assert records[0]["sha256"] in page
    assert "<bdi>a.png</bdi>" in page  # and not the way to it
    assert "Left out, as it is about people: author." in page
    assert '<p class="why">1x1 px, hardly.</p>' in page_of(tmp_path, [record("a.png", b"", notes=["1x1 px, hardly"])])
    uncalibrated = page_of(tmp_path, [record("a.png", b"", calibration=None)])
    assert "not calibrated: no share of right verdicts is promised" in uncalibrated


def test_names_that_are_no_unicode_are_written(tmp_path: Path) -> None:
    write_csv([record("caf\udce9.png", b"a")], tmp_path / "a.csv")
    assert b"caf\xe9.png," in (tmp_path / "a.csv").read_bytes()
    write_csv([record("\ud800.png", b"a")], tmp_path / "b.csv")
    assert b"\\ud800.png," in (tmp_path / "b.csv").read_bytes()


def test_a_name_that_is_no_unicode_costs_no_other_image_its_place_in_coco(tmp_path: Path, records: list[dict]) -> None:
    answers = {"verdict": "real", "regions": [], "tags": [], "width_px": 8, "height_px": 8, "probability": 0.1}
    write_coco([record("caf\udce9.png", b"a") | answers, *records], tmp_path / "out" / "coco")
    source = tmp_path / "out" / "coco" / "annotations.json"
    odd, read = reader(find("coco"))(source, location.Images(source.parent))
    assert odd.value == "../caf\\udce9.png"
    assert [region.caption for region in read.regions] == [NASTY, "=1+1"]


def test_what_was_written_beside_the_report_once_follows_it(tmp_path: Path, records: list[dict]) -> None:
    out, settings = tmp_path / "out", {"adapter": "", "view": None}
    assert write_results(out, records, settings, with_coco=False, with_drawn=False) == []
    assert not (out / "coco").exists()
    assert not (out / "drawn").exists()
    assert write_results(out, records, settings, with_coco=True, with_drawn=True) == []
    (tmp_path / "in" / "b.png").write_bytes(jpeg("black"))
    more = [*records, record("../in/b.png", jpeg("black"))]
    assert write_results(out, more, settings, with_coco=False, with_drawn=False) == []
    listed = json.loads((out / "coco" / "annotations.json").read_text())["images"]
    assert [image["sample_id"] for image in listed] == ["../in/a.png", "../in/b.png"]
    assert {file.name for file in (out / "drawn").iterdir()} == {drawing_name(records[0]), drawing_name(more[-1])}


def test_a_drawing_that_cannot_be_written_is_told_and_the_report_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    found = record("a.png", (tmp_path / "a.png").read_bytes())
    monkeypatch.setattr("fxray.detect.writers.drawing_name", lambda record: "x" * 300)
    problems = write_results(tmp_path, [found], {"adapter": "", "view": None}, with_coco=False, with_drawn=True)
    assert problems == ["a.png: File name too long"]
    assert (tmp_path / "report.html").is_file()


def test_thumbnails_that_fit_at_no_size_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = io.BytesIO()
    Image.effect_noise((480, 480), 80).convert("RGB").save(noise, "JPEG", quality=60)
    monkeypatch.setattr("fxray.detect.page.MAX_THUMBNAILS_BYTES", 10_000)
    many = [record(f"{k}.png", str(k).encode()) for k in range(20)]
    assert 5_000 < write_page(tmp_path / "report.html", many, lambda _: noise.getvalue(), {}) < 10_000
    page = (tmp_path / "report.html").read_text()
    assert 0 < page.count("<image") < 20
    assert page.count("no picture") == 20 - page.count("<image")


def test_thumbnails_together_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = io.BytesIO()
    Image.effect_noise((480, 480), 80).convert("RGB").save(noise, "JPEG", quality=60)
    monkeypatch.setattr("fxray.detect.page.MAX_THUMBNAILS_BYTES", 100_000)
    many = [record(f"{k}.png", str(k).encode()) for k in range(20)]
    total = write_page(tmp_path / "report.html", many, lambda _: noise.getvalue(), {})
    assert 20_000 < total < 100_000
    assert MAX_THUMBNAILS_BYTES == 24 * 2**20
    assert f"20 thumbnails, {total / 1024:.0f} KiB" in (tmp_path / "report.html").read_text()


class Counted(bytes):
    """Bytes that know how many of them there are at once."""

    alive = most = 0

    def __init__(self, _: bytes) -> None:
        Counted.alive += len(self)
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= len(self)


def test_thumbnails_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = io.BytesIO()
    Image.effect_noise((240, 240), 80).convert("RGB").save(noise, "JPEG", quality=60)
    monkeypatch.setattr("fxray.detect.page.MAX_THUMBNAILS_BYTES", 30_000)
    many = [record(f"{k}.png", str(k).encode()) for k in range(20)]
    write_page(tmp_path / "report.html", many, lambda _: Counted(noise.getvalue()), {})
    assert Counted.most <= 2 * len(noise.getvalue())


@pytest.mark.parametrize("damage", [lambda jpeg: jpeg[:900], lambda jpeg: bytes(len(jpeg))])
def test_a_damaged_thumbnail_is_no_picture_and_the_others_are_shown(damage, tmp_path, monkeypatch) -> None:
    noise = io.BytesIO()
    Image.effect_noise((240, 240), 80).convert("RGB").save(noise, "JPEG", quality=60)
    monkeypatch.setattr("fxray.detect.page.MAX_THUMBNAILS_BYTES", 30_000)
    many = [record(f"{k}.png", str(k).encode()) for k in range(4)]
    good, bad = noise.getvalue(), damage(noise.getvalue())
    write_page(tmp_path / "report.html", many, lambda sha256: bad if sha256 == many[1]["sha256"] else good, {})
    page = (tmp_path / "report.html").read_text()
    assert (page.count("<image"), page.count("no picture")) == (3, 1)
