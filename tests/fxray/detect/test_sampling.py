"""Answers drawn at random, from an engine whose draws are laid down here."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from fxray.detect.detection import Picture, Versions
from fxray.detect.detector import Detector
from fxray.detect.offline import detect_files
from fxray.detect.reading import Wanted
from fxray.detect.sampling import draw_answers
from fxray.engine.engine import Answers
from fxray.grpo.types import Rollout
from fxray.schema import Box, Region

PLACE = "<|object_ref_start|>Hand bent<|object_ref_end|><|box_start|>({},{}),({},{})<|box_end|>"
GENERATED = "<think>\n{}\n</think>\n<tag>structure errors</tag>\n<verdict>generated</verdict>"
REAL = "<think>\nNo flaw is visible.\n</think>\n<tag>none</tag>\n<verdict>real</verdict>"
DRAWS = [(GENERATED.format(PLACE.format(0, 0, 28, 56)), 0.9), (REAL, 0.1), ("the end", None), (REAL, 0.3)]


class Drawing:
    """Says what is laid down, in order."""

    def __init__(self, draws):
        self.draws = draws
        self.batches = []

    def stream(self, questions, sampling):
        while question := questions.take(wait=True):
            yield question.where, self.generate([question], sampling)[0]

    def generate(self, questions, sampling):
        self.sampling = sampling
        self.batches.append((sampling.group_size, len(questions)))
        rollouts = [Rollout(np.zeros(0, np.int32), np.zeros(0, np.float32), text, True, p) for text, p in self.draws]
        return [Answers(np.zeros(0, np.int32), tuple(rollouts)) for _ in questions]


def detector_of(source):
    return Detector(
        source, "prompt", min_pixels=56 * 56, max_pixels=56 * 56, max_new_tokens=40,
        versions=Versions("0", "tiny", "", ""),
    )  # fmt: skip


def sample(draws, regions):
    source = Drawing(draws)
    asked = [(Picture(name, Image.new("RGB", (112, 112))), regions) for name in ("a.png", "b.png")]
    found, same = draw_answers(detector_of(source), asked, len(draws))
    assert found == same
    assert (source.sampling.group_size, source.sampling.temperature) == (len(draws), 1)
    assert source.sampling.asks_probability
    return found


def test_draws_are_counted_and_their_probabilities_averaged():
    found = sample(DRAWS, (Region(Box(0, 0, 112, 112), "Hand bent"),))
    assert found.probability == pytest.approx((0.9 + 0.1 + 0.3) / 3)
    # Squared distances from 13 / 30 are 196 / 900, 100 / 900 and 16 / 900: variance 312 / 1800, over three draws.
    assert found.standard_error == pytest.approx(math.sqrt(312 / 1800 / 3))
    assert found.ious == pytest.approx((0.5, 0, 0, 0))  # the left half of what the greedy answer marks; nothing
    record = json.loads(json.dumps(found.as_record()))
    assert (record["num_generated"], record["num_real"], record["num_no_verdict"]) == (1, 2, 1)
    assert found.sentence() == (
        "4 answers drawn at random: 1 generated, 2 real, 1 no verdict. 43 % ± 24 of the model's weight is on "
        "generated on average (uncalibrated); overlap with the regions above 0.12."
    )


def test_without_a_verdict_there_is_no_probability():
    found = sample([("the end", None)], ())
    assert (found.probability, found.standard_error) == (None, None)
    assert found.sentence() == "1 answer drawn at random: 0 generated, 0 real, 1 no verdict."


def test_one_answer_has_a_probability_and_no_error_of_it():
    found = sample([(REAL, 0.1)], ())
    assert (found.probability, found.standard_error, found.as_record()["standard_error"]) == (0.1, None, None)
    assert "10 % of the model's weight is on generated" in found.sentence()
    assert found.sentence().endswith("overlap with the regions above 1.00.")  # neither has any


def test_images_of_a_folder_are_drawn_of_eight_at_a_time_and_one_that_cannot_be_read_costs_the_others_nothing(tmp_path):
    files = [str(tmp_path / f"{number}.png") for number in range(10)]
    for file in files:
        Image.new("RGB", (112, 112)).save(file)
    files.insert(3, str(tmp_path / "missing.png"))
    source = Drawing(DRAWS)
    found = list(detect_files(detector_of(source), files, Wanted(num_samples=4)))
    assert [finding.file for finding in found] == files
    assert [finding.sampled is None for finding in found] == [file == files[3] for file in files]
    assert [batch for batch in source.batches if batch[0] == 4] == [(4, 7), (4, 3)]  # one of eight is missing
    nothing = list(detect_files(detector_of(source), files[3:4], Wanted(num_samples=4)))
    assert [finding.sampled for finding in nothing] == [None]
