"""One baseline from fit to file."""

import weakref
from dataclasses import dataclass

import numpy as np

from fxray.baselines.measure import PREDICTIONS, Job, measure
from fxray.baselines.ports import Answer, Settings
from fxray.baselines.registry import Entry
from fxray.evaluate.predictions import read_predictions
from fxray.events import Step
from fxray.schema import Box


class Pointing:
    """Calls every second image generated, and counts which of its masks are still kept somewhere."""

    num_parameters = 0

    def __init__(self):
        self.num_kept = []

    def fit(self, images, is_generated_N, masks, on_step):
        on_step(1, 1, float("nan"))

    def predict(self, images):
        masks = []
        for number in range(len(images)):
            mask = np.zeros((32, 32), bool)
            mask[4:12, 8:24] = True
            masks.append(weakref.ref(mask))
            self.num_kept.append(sum(each() is not None for each in masks))
            yield Answer(0.9 if number % 2 else 0.1, mask)


@dataclass(frozen=True)
class Own(Entry):
    """An entry whose baseline is there already."""

    built: Pointing | None = None

    def build(self, settings):
        return self.built


def test_masks_are_not_kept_once_they_are_boxes(toy_sets, tmp_path):
    (train, test), pointing, told = toy_sets, Pointing(), []
    entry = Own("segformer", "", "none", "nothing", has_masks=True, built=pointing)
    measure(Job(entry, Settings(0), train, test, tmp_path / "out", {}, {}), told.append)
    assert len(pointing.num_kept) == 32 + 40
    assert max(pointing.num_kept) <= 2  # the one that is made, and the one before
    said = read_predictions(tmp_path / "out" / PREDICTIONS)
    assert [[region.box for region in each.regions] for each in said[:2]] == [[], [Box(8, 4, 24, 12)]]
    steps = [event.step for event in told if isinstance(event, Step) and event.phase.endswith("predict")]
    assert steps == list(range(1, 41))
