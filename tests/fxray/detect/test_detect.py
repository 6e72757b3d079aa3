"""The detector at work with an engine that gives fixed answers."""

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fxray
from fxray.detect.detection import Picture, Versions
from fxray.detect.detector import Detector
from fxray.detect.finding import as_line
from fxray.detect.offline import detect_files, in_order
from fxray.detect.reading import (
    Opened,
    Read,
    Wanted,
    open_file,
)
from fxray.engine.engine import Answers, Question
from fxray.errors import ConfigError, DataError, DeadlineError
from fxray.evaluate.calibration import Calibration, FittedFor
from fxray.grpo.types import Rollout, SamplingSettings
from fxray.schema import Box, Region, Tag, Verdict

GENERATED = (
    "<think>\n<|object_ref_start|>Hand bent<|object_ref_end|><|box_start|>(0,28),(28,56)<|box_end|>\n</think>\n"
    "<tag>structure errors</tag>\n<verdict>generated</verdict>"
)
REAL = "<think>\nNo flaw is visible.\n</think>\n<tag>none</tag>\n<verdict>real</verdict>"


VERSIONS = Versions("0.0", "tiny", "adapter", "ab" * 32)
CALIBRATION = Calibration(
    slope=0.5, intercept=0.0, max_fpr=0.05, threshold=0.6, max_error=0.1, unsure_low=0.55, unsure_high=0.76,
    num_real=20, num_generated=30, num_sources=1, data="validation.parquet", data_sha256="cd" * 32, is_synthetic=True,
    fxray="0.0",
    fitted_for=FittedFor(adapter_sha256="ab" * 32, base="tiny", view="full", min_pixels=3136, max_pixels=3136),
)  # fmt: skip


class FixedAnswers:
    """Calls dark images generated (9 to 1) and bright ones real (1 to 9), and remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[Question]] = []
        self.sampling: SamplingSettings | None = None

    def generate(self, questions: Sequence[Question], sampling: SamplingSettings) -> list[Answers]:
        self.batches.append(list(questions))
        self.sampling = sampling
        nothing = np.zeros(0)
        return [
            Answers(
                nothing.astype(np.int32),
                (self.rollout_of(question.image),),
            )
            for question in questions
        ]

    def stream(self, questions: Any, sampling: SamplingSettings) -> Iterator[tuple[str, Answers | ConfigError]]:
        """Two at a time, the later one first."""
        held: list[Question] = []
        while question := questions.take(wait=not held) or (held and held[0]):
            if question not in held:
                held.append(question)
                if len(held) < 2:
                    continue
            for each in reversed(held):
                refused = ConfigError("refused", where=each.where, remedy="none") if self.refuses(each.image) else None
                yield each.where, refused or self.generate([each], sampling)[0]
            held.clear()

    def refuses(self, image: Image.Image) -> bool:
        return image.getpixel((0, 0)) == (7, 7, 7)

    def rollout_of(self, image: Image.Image) -> Rollout:
        text, nothing = self.text_of(image), np.zeros(0)
        probability = {GENERATED: 0.9, REAL: 0.1}.get(text)
        return Rollout(nothing.astype(np.int32), nothing.astype(np.float32), text, True, probability)

    def text_of(self, image: Image.Image) -> str:
        return {0: GENERATED, 255: REAL}.get(image.convert("L").getextrema()[0], "???")


@pytest.fixture
def source() -> FixedAnswers:
    return FixedAnswers()


@pytest.fixture
def detector(source: FixedAnswers) -> Detector:
    return detector_of(source)


def detector_of(source: FixedAnswers, **changes: Any) -> Detector:
    values = {"min_pixels": 56 * 56, "max_pixels": 56 * 56, "max_new_tokens": 40, "versions": VERSIONS} | changes
    return Detector(source, "prompt", **values)


def png(grey: int, size: tuple[int, int] = (112, 112)) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(encoded, "PNG")
    return encoded.getvalue()


def test_answers_are_read_in_the_view_that_was_trained(source: FixedAnswers) -> None:
    image = [Picture("dark", Image.new("RGB", (112, 112)))]
    (full,) = detector_of(source).examine(image)
    (plain,) = detector_of(source, view="label-only").examine(image)
    assert (full.is_strict, full.faults) == (True, ())
    assert (plain.verdict, plain.regions, plain.tags) == (full.verdict, (), ())
    assert plain.faults == ("unexpected-block",)


def test_answers_are_greedy_and_boxes_in_original_pixels(detector: Detector, source: FixedAnswers) -> None:
    (detection,) = detector.examine([Picture("dark", Image.new("RGB", (112, 112)))])
    assert source.sampling == SamplingSettings(1, temperature=0.0, max_new_tokens=40, asks_probability=True)
    assert source.batches[0][0].prompt == "prompt"
    assert detection.name == "dark"
    assert detection.regions == (Region(Box(0, 56, 56, 112), "Hand bent"),)
    assert detection.tags == (Tag.STRUCTURE,)
    assert detection.is_strict
    assert detection.timings.answer_s >= 0


def test_paths_bytes_and_pixels_are_the_same_to_python(tmp_path: Path, detector: Detector) -> None:
    content = png(0, (112, 224))
    (tmp_path / "a.png").write_bytes(content)
    kinds = (tmp_path / "a.png", str(tmp_path / "a.png"), content, Image.open(tmp_path / "a.png"))
    found = detector.detect(kind for kind in kinds)
    assert [detection.name for detection in found] == [str(tmp_path / "a.png")] * 2 + ["image"] * 2
    assert [detection.sha256 for detection in found] == [hashlib.sha256(content).hexdigest()] * 3 + [""]
    assert {(d.width_px, d.height_px, d.regions, d.verdict, d.versions) for d in found} == {
        (112, 224, found[0].regions, Verdict.GENERATED, VERSIONS)
    }
    with pytest.raises(DataError, match="no image Pillow knows"):
        detector.detect([b"no image"])
    with pytest.raises(DataError, match=r"image 2 of the list: an image of 3x900 px is longer than 200 times"):
        detector.detect([content, png(0, (3, 900))])
    assert fxray.Detector is Detector
    with pytest.raises(AttributeError, match="has no attribute 'Detectors'"):
        fxray.Detectors  # noqa: B018


def test_what_is_no_list_of_images_is_told_and_not_taken_apart(tmp_path: Path, detector: Detector) -> None:
    for one in ("photo.jpg", tmp_path / "photo.jpg", b"pixels", Image.new("RGB", (60, 60)), 3, io.BytesIO(b"x")):
        with pytest.raises(DataError, match="expected a list of images, got one"):
            detector.detect(one)
    with pytest.raises(DataError, match=r"image 1 of the list: expected a path, the bytes of .* got ndarray"):
        detector.detect([np.zeros((60, 60, 3), np.uint8)])


def test_pixels_are_turned_upright(detector: Detector) -> None:
    image = Image.new("RGB", (120, 60))
    image.getexif()[0x0112] = 6
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", exif=image.getexif())
    (detection,) = detector.detect([Image.open(encoded)])
    assert (detection.width_px, detection.height_px) == (60, 120)


def test_importing_fxray_is_light() -> None:
    told = "import sys, fxray; print([m for m in ('torch', 'ray', 'vllm', 'PIL', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_calibration_the_verdict_is_the_assessment(detector: Detector) -> None:
    generated, real, unread = detector.detect([png(0), png(255), png(99)])
    assert [(d.probability, d.raw_probability, d.assessment) for d in (generated, real, unread)] == [
        (0.9, 0.9, "generated"), (0.1, 0.1, "real"), (None, None, None),
    ]  # fmt: skip
    assert {d.probability_kind for d in (generated, real, unread)} == {"uncalibrated"}


def test_another_threshold_is_another_detector(source: FixedAnswers) -> None:
    other = CALIBRATION.model_copy(update={"threshold": CALIBRATION.threshold / 2})
    summaries = [detector_of(source, calibration=each).summary() for each in (None, CALIBRATION, CALIBRATION, other)]
    assert summaries[1] == summaries[2]
    assert len({summary["calibration_sha256"] for summary in summaries}) == 3


def test_a_calibrated_probability_says_so_and_may_be_unsure(tmp_path: Path, source: FixedAnswers) -> None:
    detector = detector_of(source, calibration=CALIBRATION)
    generated, real, unread = detector.detect([png(0), png(255), png(99)])
    assert generated.probability == pytest.approx(0.75)  # odds of 9, its root is 3
    assert real.probability == pytest.approx(0.25)
    assert (generated.verdict, generated.assessment, real.assessment) == (Verdict.GENERATED, "unsure", "real")
    assert (unread.probability, unread.assessment, unread.calibration) == (None, None, None)
    record = generated.as_record()
    assert (record["probability_kind"], record["raw_probability"]) == ("calibrated", 0.9)
    assert record["calibration"]["num_images"] == 50
    (tmp_path / "a.png").write_bytes(png(0))
    (finding,) = detect_files(detector, [str(tmp_path / "a.png")])
    assert "unsure. What was found is no ground for a verdict." in finding.as_text()
    assert (
        "probability that it is generated: 75 %, calibrated on 50 images of validation.parquet "
        "(1 source, photographs with planted defects)" in finding.as_text()
    )


def test_what_looks_real_with_marked_flaws_is_not_called_flawless(tmp_path: Path, source: FixedAnswers) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    sceptic = CALIBRATION.model_copy(update={"unsure_low": 0.8, "unsure_high": 0.9})
    (finding,) = detect_files(detector_of(source, calibration=sceptic), [str(tmp_path / "a.png")])
    assert "a.png: looks real, though the model marked flaws. This is evidence to be checked" in finding.as_text()
    assert "no flaw was found" not in finding.as_text()
    assert "  1. Hand bent" in finding.as_text()


def write_all(folder: Path, files: dict[str, bytes]) -> list[str]:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in files]


def test_findings_come_as_they_are_answered_and_can_be_put_in_order(tmp_path: Path, detector: Detector) -> None:
    files = write_all(tmp_path, {f"{k:03d}.png": png(0 if k % 3 else 255) for k in range(70)})
    found = list(in_order(detect_files(detector, files), files))
    assert [finding.file for finding in found] == files
    assert [each.detection.verdict for each in found[:3]] == [Verdict.REAL, Verdict.GENERATED, Verdict.GENERATED]


@pytest.mark.parametrize("early_bytes", [0, 2**18])
def test_one_bad_file_never_stops_the_rest(
    early_bytes: int, tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fxray.detect.offline.EARLY_BYTES", early_bytes)
    images = {
        "a.png": png(0), "b.png": b"no image", "c.png": png(255), "d.png": png(99), "e.png": png(0, (3, 900)),
        "f.png": png(7), "g.png": b"", "h.png": png(0)[:80],
    }  # fmt: skip
    files = [str(tmp_path / "absent.png"), *write_all(tmp_path, images)]
    findings = list(in_order(detect_files(detector, files), files))
    assert [finding.file for finding in findings] == files
    assert [finding.is_answered for finding in findings] == [False, True, False, True, *[False] * 5]
    texts = [finding.as_text() for finding in findings]
    assert "absent.png: not examined: cannot be read: No such file" in texts[0]
    assert "no image Pillow knows" in texts[2]
    assert "no verdict" in texts[4]
    assert "longer than 200 times" in texts[5]
    assert "not examined: refused" in texts[6]
    assert "0 bytes that are no image" in texts[7]
    assert "cut short" in texts[8]
    none, web = detect_files(detector, ["*.webp", "http://a/b?c"])
    assert none.as_text() == "*.webp: not examined: no file matches this pattern"
    assert web.as_text() == "http://a/b?c: not examined: is an address, and nothing is fetched"


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENAMETOOLONG, "File name too long"), (errno.EACCES, "Permission denied")]
)
def test_a_path_that_cannot_be_looked_at_is_a_finding(
    number: int, said: str, tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = str(tmp_path / "bad.png"), *write_all(tmp_path, {"a.png": png(0)})
    look = os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if os.fspath(path) == bad:
            raise OSError(number, os.strerror(number), bad)
        return look(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    failed, found = in_order(detect_files(detector, [bad, good]), [bad, good])
    assert said in failed.problem
    assert found.is_answered


@pytest.mark.parametrize("early_bytes", [0, 2**18])
def test_reading_ahead_fails_loudly_where_it_is_no_files_fault(
    early_bytes: int, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fxray.detect.offline.EARLY_BYTES", early_bytes)
    monkeypatch.setattr("fxray.detect.offline.open_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(detect_files(detector, ["a.png", "b.png"]))
    monkeypatch.setattr("fxray.detect.reading.DEADLINE_S", 0.05)
    monkeypatch.setattr("fxray.detect.offline.read_file", lambda file: Read(file, threading.Event().wait(2), 0))
    with pytest.raises(DeadlineError, match=r"a\.png: no file was read within 0\.05 s"):
        list(detect_files(detector, ["a.png"]))


def test_large_files_are_decoded_by_the_threads_that_read_them(
    tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = write_all(tmp_path, {"small.png": png(0), "large.png": png(0) + bytes(9000)})
    decoded_by = {}

    def noted(read: Read, *arguments: Any) -> Opened:
        decoded_by[read.file] = threading.current_thread().name
        return open_file(read, *arguments)

    monkeypatch.setattr("fxray.detect.offline.open_file", noted)
    monkeypatch.setattr("fxray.detect.offline.EARLY_BYTES", 9000)
    assert len(list(detect_files(detector, [small, large]))) == 2
    assert decoded_by[small] == threading.current_thread().name
    assert decoded_by[large].startswith("reader-")


def test_an_image_that_is_replaced_while_it_is_examined_is_told_no_stability_of_the_other(tmp_path: Path) -> None:
    (file,) = write_all(tmp_path, {"a.png": png(0)})

    class Replaced(FixedAnswers):
        def stream(self, questions: Any, sampling: SamplingSettings) -> Iterator[tuple[str, Answers | ConfigError]]:
            for answer in super().stream(questions, sampling):
                Path(file).write_bytes(png(255))
                yield answer

    (before,) = detect_files(detector_of(Replaced()), [file], Wanted(stability=True, num_samples=2))
    assert before.sha256 == hashlib.sha256(png(0)).hexdigest()
    assert (before.is_answered, before.stability, before.sampled) == (True, None, None)
    (after,) = detect_files(detector_of(FixedAnswers()), [file], Wanted(stability=True))
    assert after.stability is not None
    assert (after.stability.trials[0].detection.verdict, after.sha256) == (
        Verdict.REAL,
        hashlib.sha256(png(255)).hexdigest(),
    )


def test_words_claim_evidence_never_proof(tmp_path: Path, detector: Detector) -> None:
    files = write_all(tmp_path, {"a.png": png(0), "b.png": png(255)})
    generated, real = (finding.as_text() for finding in in_order(detect_files(detector, files), files))
    assert "looks generated. This is evidence to be checked, not proof." in generated
    assert "  1. Hand bent  [x 0 to 56, y 56 to 112]\n  tags: structure errors" in generated
    assert "90 % of the model's weight is on generated (uncalibrated" in generated
    assert "looks real. That no flaw was found is evidence, not proof." in real
    assert "  origin: The file says nothing of a generator, which proves nothing" in real


def test_findings_as_records(tmp_path: Path, detector: Detector) -> None:
    files = [*write_all(tmp_path, {"a.png": png(0)}), str(tmp_path / "x.png")]
    good, bad = (finding.as_record() for finding in in_order(detect_files(detector, files), files))
    assert good["verdict"] == "generated"
    assert good["regions"] == [{"box": [0, 56, 56, 112], "caption": "Hand bent"}]
    assert good["tags"] == ["structure errors"]
    assert good["answer"] == GENERATED
    assert good["sha256"] == hashlib.sha256(png(0)).hexdigest()
    assert (good["size_bytes"], good["provenance"]["credentials"]["state"]) == (len(png(0)), "absent")
    assert bad == {
        "file": files[1], "sha256": None, "size_bytes": -1, "modified_ns": -1, "provenance": None,
        "problem": "cannot be read: No such file or directory", "remedy": "put the image there, or mend the path",
        "is_lasting": False,
    }  # fmt: skip


def test_an_image_that_hardly_shows_a_flaw_is_judged_with_a_note(tmp_path: Path, detector: Detector) -> None:
    files = write_all(tmp_path, {"a.png": png(0, (1, 1)), "b.png": png(0, (8, 8))})
    small, fine = in_order(detect_files(detector, files), files)
    note = "1x1 px, hardly large enough to show a flaw"
    assert f"\n  note: {note}\n" in small.as_text()
    assert "note:" not in fine.as_text()
    assert [finding.as_record()["notes"] for finding in (small, fine)] == [[note], []]


def test_names_are_one_harmless_line_and_lines_are_json(tmp_path: Path, detector: Detector) -> None:
    name = b"\xff\x1b[31m\n<img onerror=1>\xe2\x80\xae.png"
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    Path(path).write_bytes(png(0))
    (finding,) = detect_files(detector, [path])
    first = finding.as_text().splitlines()[0]
    assert "[31m <img onerror=1> .png: looks generated." in first
    assert first.isprintable()
    line = as_line(finding.as_record())
    assert "\n" not in line
    assert json.loads(line.encode("ascii"))["file"] == path


def test_stability_is_asked_for_file_by_file(tmp_path: Path, detector: Detector) -> None:
    files = [*write_all(tmp_path, {"a.png": png(0)}), str(tmp_path / "x.png")]
    good, bad = detect_files(detector, files, Wanted(stability=True))
    assert good.as_record()["stability"]["num_changes"] == 9
    assert "under this change" in good.as_text()
    assert bad.stability is None


def test_changes_that_an_image_is_too_long_for_are_named_and_the_rest_is_asked(
    tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fxray.data.changes.MAX_JPEG_SIDE_PX", 950)
    files = write_all(tmp_path, {"thin.png": png(0, (5, 1000)), "b.png": png(0)})
    thin, other = detect_files(detector, files, Wanted(stability=True, num_samples=1))
    assert thin.stability
    assert thin.stability.sentence().endswith(
        "Not tried, as the image is too long: JPEG, quality 90; JPEG, quality 70; JPEG, quality 50; JPEG, quality 30; "
        "resized to 50%; screenshot at 90%, JPEG 80."
    )
    assert [trial.name for trial in thin.stability.trials] == ["resize-0.75", "resize-1.5", "crop"]
    assert thin.as_record()["stability"]["not_tried"][-2] == "resized to 50%"
    assert (thin.sampled is None, other.as_record()["stability"]["num_changes"]) == (False, 9)
