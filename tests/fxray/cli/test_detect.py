"""`fxray detect` on folders, with a detector that calls everything generated; and on files that mean harm."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fxray.cli.app import app
from fxray.detect.detection import Versions
from fxray.detect.detector import Detector
from fxray.engine.engine import Answers
from fxray.grpo.types import Rollout

ANSWER = (
    "<think>\n<|object_ref_start|><img onerror=alert(1)><|object_ref_end|><|box_start|>(0,28),(28,56)<|box_end|>\n"
    "</think>\n<tag>structure errors</tag>\n<verdict>generated</verdict>"
)
NOTHING = np.zeros(0)


class Suspicious:
    """Calls everything generated; is interrupted after some answers."""

    def __init__(self, num_answers: int = 10**6) -> None:
        self.asked: list[str] = []
        self.num_answers = num_answers

    def stream(self, questions, sampling):
        while question := questions.take(wait=True):
            if len(self.asked) == self.num_answers:
                raise KeyboardInterrupt
            self.asked.append(Path(question.where).name)
            rollout = Rollout(NOTHING.astype(np.int32), NOTHING.astype(np.float32), ANSWER, True, 0.9)
            yield question.where, Answers(NOTHING.astype(np.int32), (rollout,))


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Suspicious:
    suspicious = Suspicious()
    detector = Detector(
        suspicious, "prompt", min_pixels=3136, max_pixels=3136, max_new_tokens=9, versions=Versions("0", "tiny", "", "")
    )
    monkeypatch.setattr("fxray.detect.load.open_detector", lambda *_: detector)
    monkeypatch.setattr("fxray.detect.load.describe_detector", lambda *_: detector)
    return suspicious


def run(*arguments: object, stdin: str | None = None):
    return CliRunner().invoke(app, ["detect", "--config", "tiny", *map(str, arguments)], input=stdin)


def image(form: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (60, 40), **saved) -> bytes:
    encoded = io.BytesIO()
    Image.new(mode, size).save(encoded, form, **saved)
    return encoded.getvalue()


def claimed(width: int, height: int) -> bytes:
    """A PNG of few bytes that claims many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0")
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


FINE = {
    "1x1.png": image(size=(1, 1)),
    "cmyk.jpg": image("JPEG", "CMYK"),
    "grey16.png": image(mode="I;16"),
    "palette.png": image(mode="P", transparency=0),
    "moves.gif": image("GIF", save_all=True, append_images=[Image.new("RGB", (60, 40), "red")]),
    "new.avif": image("AVIF"),
    "<img src=x onerror=alert(1)>.png": image(),
    "line\nbreak \x1b[31m\u202e.png": image(),
}
BAD = {
    "cut.png": (image()[:60], "damaged or cut short"),
    "empty.jpg": (b"", "0 bytes that are no image"),
    "bomb.png": (claimed(50_000, 50_000), "pixels"),
    "line.png": (image(size=(30_000, 1)), "longer than 200 times"),
    "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(16), "a HEIC image, which is not read"),
    "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, content in FINE.items():
        (folder / name).write_bytes(content)
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(content)
    with (folder / "sparse.png").open("wb") as sparse:
        sparse.truncate(4 * 2**30)
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "round.png").symlink_to("round.png")
    (folder / "up").symlink_to(folder)
    return folder


def test_files_that_mean_harm_get_one_finding_each(tmp_path: Path, hostile: Path, source: Suspicious) -> None:
    out = tmp_path / "out"
    result = run(hostile, "/dev/zero", "--out", out, "--with", "drawn", "--with", "coco")
    assert result.exit_code == 1, result.output
    records = {Path(r["file"]).name: r for r in map(json.loads, (out / "detections.jsonl").read_text().splitlines())}
    bad = {name: reason for name, (_, reason) in BAD.items()} | {
        "sparse.png": "expected at most", "pipe.png": "is no plain file", "gone.png": "No such file",
        "round.png": "symbolic links", "zero": "is no plain file",
    }  # fmt: skip
    assert set(records) == {*FINE, *bad}
    for name, reason in bad.items():
        assert reason in records[name]["problem"], name
    assert {records[name]["verdict"] for name in FINE} == {"generated"}
    page = (out / "report.html").read_text()
    assert "<img" not in page
    assert "&lt;img onerror=alert(1)&gt;" in page
    assert len(list((out / "drawn").iterdir())) == len(FINE)
    assert (
        f"{len(FINE) + len(bad)} images: {len(FINE)} look generated, {len(bad)} could not be examined" in result.stdout
    )


def test_a_folder_without_images_is_said_to_be_one(tmp_path: Path, source: Suspicious) -> None:
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty", "--json")
    assert result.exit_code == 1
    assert "no image was found in this folder" in result.stdout


@pytest.mark.parametrize("options", [(), ("--json",), ("--out", "found")])
def test_that_no_file_is_named_is_said_and_no_success(tmp_path, monkeypatch, source, options) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text("path\n")
    for result in (run("-", *options, stdin=""), run("list.csv", *options)):
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "error: no file is named, so nothing was examined\n"


def test_a_second_run_does_only_what_is_missing(tmp_path: Path, source: Suspicious) -> None:
    folder, out = tmp_path / "in", tmp_path / "in" / "out"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.png").write_bytes(image())
    source.num_answers = 2
    first = run(folder, "--out", out)
    assert first.exit_code == 130
    assert "the same command goes on from here" in first.output
    source.num_answers = 10**6
    second = run(folder, "--out", out, "--with", "drawn")
    assert (second.exit_code, sorted(source.asked)) == (0, ["a.png", "b.png", "c.png", "d.png"])
    assert "4 images (2 skipped: examined before): 4 look generated" in second.stdout
    (folder / "b.png").write_bytes(image(size=(80, 40)))
    third = run(folder, "--out", out, "--json")
    assert json.loads(third.stdout) == {
        "images": 4, "skipped": 3, "generated": 4, "unsure": 0, "real": 0, "unread": 0, "failed": 0,
        "report": str(out / "report.html"),
    }  # fmt: skip
    assert source.asked[4:] == ["b.png"]


def test_a_list_whose_disk_is_away_loses_no_verdict_and_says_so(tmp_path: Path, source: Suspicious) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.png").write_bytes(image())
    (tmp_path / "list.csv").write_text("path\ndisk/a.png\ndisk/b.png\n")
    out = tmp_path / "out"
    assert run(tmp_path / "list.csv", "--out", out).exit_code == 1
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    result = run(tmp_path / "list.csv", "--out", out)
    assert "1 examined before cannot be read now: what was found in them stays" in result.output
    assert "2 images: 1 looks generated, 1 could not be examined" in result.stdout
    records = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [record.get("verdict") for record in records] == ["generated", None]


def test_without_a_folder_findings_are_printed_in_order(tmp_path: Path, source: Suspicious) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(image())
    given = f"{tmp_path}/b.png\n{tmp_path}/a.png\n{tmp_path}/c.png\n"
    lines = run("-", "--json", stdin=given).stdout.splitlines()
    assert [Path(json.loads(line)["file"]).name for line in lines if line[0] == "{"] == ["b.png", "a.png", "c.png"]
    words = run(f"{tmp_path}/*.png")
    assert words.exit_code == 0
    assert words.stdout.index("a.png: looks generated") < words.stdout.index("b.png: looks generated")
    assert "  1. <img onerror=alert(1)>  [x 0 to" in words.stdout


@pytest.mark.parametrize("arguments", [["--with", "drawn"], ["--workers", "2"], ["--with", "pdf", "--out", "x"]])
def test_wrong_usage_is_told(arguments: list[str]) -> None:
    assert run("x.png", *arguments).exit_code == 2


def test_help_documents_the_exit_codes() -> None:
    text = " ".join(CliRunner().invoke(app, ["detect", "--help"]).stdout.split())
    assert "Exit codes: 0 all have a verdict, 1 some have none, 2 wrong usage, 130 interrupted." in text
    assert (
        'What ends the command itself, such as a run directory that is none, has code 1 or 2 and a line "error:' in text
    )


@pytest.mark.parametrize("options", [(), ("--out", "found"), ("--out", "found", "--workers", "2")])
def test_no_engine_is_started_where_no_file_is_there(tmp_path, monkeypatch, options):
    def start(*_: object) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr("fxray.detect.load.open_detector", start)
    monkeypatch.setattr("fxray.detect.workers.detect_on_workers", start)
    monkeypatch.chdir(tmp_path)
    result = run("no.jpg", "neither.png", *options)
    assert result.exit_code == 1, result.output
    assert "starting" not in result.stderr
    assert "2 without a verdict" in result.stderr
    if not options:
        assert result.stdout.count("No such file") == 2


def test_that_an_engine_starts_is_told_where_nobody_looks_too(source, tmp_path):
    (tmp_path / "a.png").write_bytes(image())
    result = run(tmp_path / "a.png", "--json")
    assert result.stderr == "starting the engine\n"
    assert json.loads(result.stdout)["verdict"] == "generated"
