"""One baseline from fit to file."""

import io
import json
import weakref
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fxray.baselines.measure import PREDICTIONS, Job, Under, measure
from fxray.baselines.pictures import Pictures
from fxray.baselines.ports import Answer, Settings
from fxray.baselines.registry import Entry
from fxray.data.changes import HARDSHIPS
from fxray.data.dataset import Dataset
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


class Reddish:
    """Calls what has a red patch generated, and marks it; blind below a width of 20 px."""

    num_parameters = 0

    def fit(self, images, is_generated_N, masks, on_step):
        on_step(1, 1, float("nan"))

    def predict(self, images):
        for pixels in images.each():
            is_red = pixels[..., 0].astype(int) - pixels[..., 1] > 60
            if pixels.shape[1] < 20 or is_red.sum() < 20:
                yield Answer(0.1, np.zeros_like(is_red))
            else:
                yield Answer(0.9, is_red)


def test_changed_images_are_held_against_the_truth_that_moved_with_them(toy_sets, tmp_path):
    train, test = toy_sets
    entry = Own("segformer", "", "none", "nothing", has_masks=True, built=Reddish())
    under = Under(("crop-random", "resize-0.5"), tuple(range(30)), num_bootstrap=20)
    measure(Job(entry, Settings(0), train, test, tmp_path / "out", {}, {}, under), lambda event: None)
    assert len(read_predictions(tmp_path / "out" / PREDICTIONS)) == 40
    files = sorted((tmp_path / "out" / "under").iterdir())
    assert [file.name for file in files] == ["crop-random.json", "original.json", "resize-0.5.json"]
    crop, original, half = (json.loads(file.read_text()) for file in files)
    assert {found["num_real"] + found["num_generated"] for found in (crop, original, half)} == {30}
    assert original["overall"]["accuracy"]["value"] == 1
    assert original["gain"] is None
    assert crop["overall"]["iou"]["value"] > 0.6  # where the patches were before they would overlap far less
    assert half["overall"]["accuracy"]["value"] == 0.5
    assert half["gain"]["metrics"]["accuracy"]["value"] == -0.5


def test_a_changed_image_is_a_file_too_and_one_that_is_not_changed_is_the_file_itself(toy_sets):
    dataset = Dataset.open(toy_sets[1])
    half = next(change for change in HARDSHIPS if change.name == "resize-0.5")
    assert Pictures(dataset, [3]).encoded(0) == dataset.image_bytes(3)
    changed = Pictures(dataset, [3], half)
    assert changed.pixels(0).shape == (16, 16, 3)
    with Image.open(io.BytesIO(changed.encoded(0))) as image:
        assert np.array_equal(np.asarray(image), changed.pixels(0))
