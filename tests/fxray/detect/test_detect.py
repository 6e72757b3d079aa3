"""The detector at work with an engine that gives fixed answers."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fxray
from fxray.detect.detection import Picture, Versions
from fxray.detect.detector import BATCH_SIZE, Detector
from fxray.detect.files import drawing_path, files_in
from fxray.detect.offline import detect_files
from fxray.engine.engine import Answers, Question
from fxray.errors import DataError
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
    assert source.sampling == SamplingSettings(1, temperature=0.0, top_p=1.0, max_new_tokens=40, asks_probability=True)
    assert source.batches[0][0].prompt == "prompt"
    assert detection.name == "dark"
    assert detection.regions == (Region(Box(0, 56, 56, 112), "Hand bent"),)
    assert detection.tags == (Tag.STRUCTURE,)
    assert detection.is_strict
    assert detection.timings.answer_s >= 0


def test_paths_bytes_and_pixels_are_the_same_to_python(tmp_path: Path, detector: Detector) -> None:
    content = png(0, (112, 224))
    (tmp_path / "a.png").write_bytes(content)
    found = detector.detect([tmp_path / "a.png", str(tmp_path / "a.png"), content, Image.open(tmp_path / "a.png")])
    assert [detection.name for detection in found] == [str(tmp_path / "a.png")] * 2 + ["image"] * 2
    assert [detection.sha256 for detection in found] == [hashlib.sha256(content).hexdigest()] * 3 + [""]
    assert {(d.width_px, d.height_px, d.regions, d.verdict, d.versions) for d in found} == {
        (112, 224, found[0].regions, Verdict.GENERATED, VERSIONS)
    }
    with pytest.raises(DataError, match="no image Pillow knows"):
        detector.detect([b"no image"])
    assert fxray.Detector is Detector
    with pytest.raises(AttributeError, match="has no attribute 'Detectors'"):
        fxray.Detectors  # noqa: B018


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
    (finding,) = detect_files(detector, [tmp_path / "a.png"])
    assert "unsure. What was found is no ground for a verdict." in finding.as_text()
    assert (
        "probability that it is generated: 75 %, calibrated on 50 images of validation.parquet "
        "(1 source, photographs with planted defects)" in finding.as_text()
    )


def test_a_folder_is_answered_in_batches(tmp_path: Path, detector: Detector, source: FixedAnswers) -> None:
    for number in range(BATCH_SIZE + 6):
        (tmp_path / f"{number:03d}.png").write_bytes(png(0 if number % 3 else 255))
    findings = list(detect_files(detector, [tmp_path]))
    assert [finding.file.name for finding in findings] == [f"{number:03d}.png" for number in range(BATCH_SIZE + 6)]
    verdicts = [finding.detection.verdict for finding in findings[:3] if finding.detection]
    assert verdicts == [Verdict.REAL, Verdict.GENERATED, Verdict.GENERATED]
    assert [len(batch) for batch in source.batches] == [BATCH_SIZE, 6]


def test_one_bad_file_never_stops_the_rest(tmp_path: Path, detector: Detector) -> None:
    files = {"a.png": png(0), "b.png": b"no image", "c.png": png(255), "d.png": png(99), "e.png": png(0, (3, 900))}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    findings = list(detect_files(detector, [tmp_path / "absent.png", *(tmp_path / name for name in files)]))
    assert [finding.file.name for finding in findings] == ["absent.png", *files]
    assert [finding.is_answered for finding in findings] == [False, True, False, True, False, False]
    texts = [finding.as_text() for finding in findings]
    assert "absent.png: not examined: cannot be read: No such file" in texts[0]
    assert "no image Pillow knows" in texts[2]
    assert "no verdict" in texts[4]
    assert "longer than 200 times" in texts[5]


def test_what_is_no_image_file_is_not_read(tmp_path: Path, detector: Detector) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as huge:
        huge.truncate(4 * 2**30)
    pipe, huge_one = detect_files(detector, [tmp_path / "pipe.png", tmp_path / "huge.png"])
    assert pipe.problem == "is no plain file"
    assert huge_one.problem == f"has {4 * 2**30} bytes, expected at most {256 * 2**20}"


def test_words_claim_evidence_never_proof(tmp_path: Path, detector: Detector) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "b.png").write_bytes(png(255))
    generated, real = (finding.as_text() for finding in detect_files(detector, [tmp_path]))
    assert "looks generated. This is evidence to be checked, not proof." in generated
    assert "  1. Hand bent  [x 0 to 56, y 56 to 112]\n  tags: structure errors" in generated
    assert "90 % of the model's weight is on generated (uncalibrated" in generated
    assert "looks real. That no flaw was found is evidence, not proof." in real


def test_findings_as_json(tmp_path: Path, detector: Detector) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    good, bad = (json.loads(f.as_json()) for f in detect_files(detector, [tmp_path / "a.png", tmp_path / "x.png"]))
    assert good["verdict"] == "generated"
    assert good["regions"] == [{"box": [0, 56, 56, 112], "caption": "Hand bent"}]
    assert good["tags"] == ["structure errors"]
    assert good["answer"] == GENERATED
    assert bad == {"file": str(tmp_path / "x.png"), "problem": "cannot be read: No such file or directory"}


def test_findings_are_drawn(tmp_path: Path, detector: Detector) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    (finding,) = detect_files(detector, [tmp_path / "a.png"])
    finding.draw(tmp_path / "out" / "a.png")
    drawn = Image.open(tmp_path / "out" / "a.png")
    assert drawn.width == 448
    assert drawn.getpixel((100, 100)) == (0, 0, 0)
    assert drawn.getpixel((223, 447)) == (213, 94, 0)


def test_folders_are_searched_and_drawings_do_not_collide(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/1.PNG", "a/notes.txt", "a/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert files_in(tmp_path) == [tmp_path / name for name in ("a/1.PNG", "a/2.jpg", "b/1.png")]
    (tmp_path / "empty").mkdir()
    assert files_in(tmp_path / "empty") == [tmp_path / "empty"]
    taken: set[Path] = set()
    paths = [drawing_path(Path("out"), Path(name), taken) for name in ("a/1.png", "b/1.png", "c/1.png", "d/2.png")]
    assert [path.name for path in paths] == ["1.png.png", "1.png-2.png", "1.png-3.png", "2.png.png"]
