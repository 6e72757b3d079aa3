"""Stability with an engine that looks at nothing but brightness and size."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from fxray.detect.detection import Picture, Versions
from fxray.detect.detector import Detector
from fxray.detect.stability import in_words, try_changes
from fxray.engine.engine import Answers, Question
from fxray.grpo.types import Rollout, SamplingSettings

PLACE = "<|object_ref_start|>Hand bent<|object_ref_end|><|box_start|>({},{}),({},{})<|box_end|>"
GENERATED = "<think>\n{}\n</think>\n<tag>structure errors</tag>\n<verdict>generated</verdict>"
REAL = "<think>\nNo flaw is visible.\n</think>\n<tag>none</tag>\n<verdict>real</verdict>"


class Brittle:
    """Calls images of 100 px and more generated, with the left half as region; smaller ones real."""

    def generate(self, questions: Sequence[Question], sampling: SamplingSettings) -> list[Answers]:
        self.num_questions = len(questions)
        return [Answers(np.zeros(0, np.int32), (self.answer(question.image),)) for question in questions]

    def answer(self, image: Image.Image) -> Rollout:
        is_large = image.width >= 100
        text = GENERATED.format(PLACE.format(0, 0, 28, 56)) if is_large else REAL
        return Rollout(np.zeros(0, np.int32), np.zeros(0, np.float32), text, True, 0.9 if is_large else 0.2)


@pytest.fixture
def stability():
    source = Brittle()
    detector = Detector(
        source, "prompt", min_pixels=56 * 56, max_pixels=56 * 56, max_new_tokens=40,
        versions=Versions("0", "tiny", "", ""),
    )  # fmt: skip
    picture = Picture("photo.png", Image.new("RGB", (112, 112), "grey"))
    (original,) = detector.examine([picture])
    found = try_changes(detector, picture, original)
    assert source.num_questions == 9
    return found


def test_what_flips_the_answer_is_named(stability):
    assert [trial.name for trial in stability.flips] == ["resize-0.5", "resize-0.75", "crop"]
    assert stability.sentence() == (
        'The answer "generated" does not hold under 3 of 9 changes: "real" when resized to 50%; "real" when resized to '
        '75%; "real" when cropped to the middle 80%.'
    )


def test_boxes_are_compared_in_the_original(stability):
    ious = {trial.name: trial.iou for trial in stability.trials}
    assert ious["jpeg-30"] == 1
    assert ious["resize-1.5"] == pytest.approx(1)  # the left half is the left half at any size
    assert ious["resize-0.5"] == 0
    # screenshot: 101 px of 112, its left half again
    assert ious["screenshot"] == pytest.approx(1)


def test_the_table_reads_aloud_and_the_record_is_json(stability):
    lines = stability.as_text().splitlines()
    assert len(lines) == 12
    assert lines[1].split() == ["as", "it", "is", "generated", "90", "%", "1"]
    assert lines[6].split() == ["resized", "to", "50%", "real", "20", "%", "0", "0.00"]
    record = json.loads(json.dumps(stability.as_record()))
    assert (record["num_changes"], record["num_flips"]) == (9, 3)
    assert record["trials"][4]["change"] == "resize-0.5"
    assert record["trials"][4]["verdict"] == "real"


def test_an_answer_without_a_verdict_is_said_as_one():
    assert in_words(None, [("cropped", None)], ()).startswith('The answer stays "no verdict" under all of 1 change.')
    flipped = in_words(None, [("cropped", "real"), ("blurred", None)], ("WebP",))
    assert flipped == (
        'The answer "no verdict" does not hold under 1 of 2 changes: "real" when cropped. '
        "Not tried, as the image is too long: WebP."
    )
    assert '"no verdict" when cropped' in in_words("real", [("cropped", None)], ())
