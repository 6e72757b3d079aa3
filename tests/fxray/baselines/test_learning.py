"""Each baseline learns what is plain to see, from tiny images in a few seconds, with its real architecture's code."""

from dataclasses import replace

import pytest

from fxray.baselines.measure import PREDICTIONS, Job, measure
from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import Settings
from fxray.baselines.registry import BASELINES, find
from fxray.baselines.split import is_generated
from fxray.data.dataset import Dataset
from fxray.evaluate.evaluation import evaluate
from fxray.evaluate.predictions import read_predictions
from fxray.events import ignore


def answer(name, train, test, out, settings=Settings(seed=0)):
    entry = find([name])[0]
    measure(Job(entry, settings, train, test, out, {"seed": settings.seed}, {}), ignore)
    said = read_predictions(out / PREDICTIONS)
    samples = Dataset.open(test).samples
    return evaluate(said, samples, num_bootstrap=50, seed=0, name=name, has_boxes=entry.has_masks)


@pytest.fixture
def tiny_networks(monkeypatch):
    """The networks as they are, on images of 32 px and for few steps."""
    from fxray.baselines import dmd, npr, objectformer, segformer, vit
    from fxray.baselines.training import Recipe

    monkeypatch.setitem(npr._CROPS_PX, "small", 32)
    monkeypatch.setattr(dmd, "CROP_PX", 24)
    narrow = {"hidden_size": 64, "num_hidden_layers": 2, "image_size": 28, "patch_size": 7}
    monkeypatch.setitem(vit._SHAPES, "small", vit._SHAPES["small"] | narrow)
    monkeypatch.setitem(segformer._SIDES_PX, "small", 32)
    monkeypatch.setitem(objectformer._SIDES_PX, "small", 32)
    for module, epochs in ((npr, 3), (dmd, 4), (vit, 8), (segformer, 8), (objectformer, 4)):
        rate = module._RECIPES["small"].learning_rate
        monkeypatch.setitem(module._RECIPES, "small", Recipe(epochs, 16, rate))


@pytest.mark.parametrize("name", [entry.name for entry in BASELINES if not entry.needs_weights])
def test_a_baseline_learns_what_is_plain_to_see(name, toy_sets, tmp_path, tiny_networks):
    evaluation = answer(name, *toy_sets, tmp_path / name)
    metrics = evaluation.overall.metrics
    assert metrics["balanced_accuracy"].value >= 0.9
    assert evaluation.probabilities.metrics["auroc"].value >= 0.9
    if find([name])[0].has_masks:
        assert metrics["iou"].value >= 0.4
        assert metrics["boxes_per_image"].value < 3


def test_the_labels_of_the_test_set_are_never_looked_at(toy_sets, write_toy, tmp_path):
    train, test = toy_sets
    flipped = write_toy(tmp_path / "flipped.parquet", 40, 4, 1, flipped=True)
    right = answer("frequency", train, test, tmp_path / "right")
    wrong = answer("frequency", train, flipped, tmp_path / "wrong")
    assert read_verdicts(tmp_path / "right") == read_verdicts(tmp_path / "wrong")
    assert right.overall.metrics["accuracy"].value == pytest.approx(1 - wrong.overall.metrics["accuracy"].value)


def read_verdicts(folder):
    return [replace(said, seconds=None) for said in read_predictions(folder / PREDICTIONS)]


@pytest.mark.parametrize("name", [entry.name for entry in BASELINES if not entry.needs_weights])
def test_answers_come_one_after_the_other_so_that_whoever_waits_hears_of_them(name, toy_sets, tiny_networks):
    train = Dataset.open(toy_sets[0])
    baseline = find([name])[0].build(Settings(seed=0, epochs=1))
    rows = list(range(len(train)))
    baseline.fit(Pictures(train, rows), is_generated(train.samples), Masks(train.samples), lambda *told: None)
    asked = []

    class Watched(Pictures):
        def encoded(self, place):
            asked.append(place)
            return super().encoded(place)

    next(iter(baseline.predict(Watched(train, rows * 2))))
    assert len(asked) < len(rows) * 2
