"""ObjectFormer: its high-pass, its windows, where its mask lies, and that a seed decides."""

import math

import numpy as np
import pytest
import torch

from fxray.baselines import objectformer
from fxray.baselines.objectformer import ObjectFormer, ObjectFormerNet, high_pass, window_likeness
from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import SIZES, Settings
from fxray.baselines.split import is_generated
from fxray.data.dataset import Dataset


def test_the_high_pass_removes_a_constant_image_and_keeps_a_checkerboard():
    assert high_pass(torch.full((1, 3, 6, 4), 5.0)).abs().max() < 1e-5
    # of 2 x 2 pixels a checkerboard is the highest frequency of both directions, so that alone the mean is lost
    checks = torch.tensor([[[[3.0, 1.0], [1.0, 3.0]]]])
    assert torch.allclose(high_pass(checks), torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]), atol=1e-6)


def test_the_high_pass_parts_cosines_by_the_sum_of_their_frequencies():
    y, x = torch.arange(8)[:, None] + 0.5, torch.arange(16) + 0.5
    waves = {(v, u): torch.cos(math.pi * v * y / 8) * torch.cos(math.pi * u * x / 16) for v, u in [(1, 1), (1, 2)]}
    assert torch.allclose(high_pass(sum(waves.values())[None, None])[0, 0], waves[1, 2], atol=1e-5)


def test_a_window_of_two_halves_is_as_alike_as_it_has_places_of_its_own_half():
    halves = torch.zeros(1, 2, 3, 4)
    halves[:, 0, :, :2], halves[:, 1, :, 2:] = 7.0, 0.1
    # in the middle 6 of 9 places, in the corners of the seam 4 of 6
    assert torch.allclose(window_likeness(halves)[0, 0], torch.tensor([1, 2 / 3, 2 / 3, 1]).expand(3, 4))


@pytest.mark.parametrize("size", SIZES)
def test_the_mask_of_an_image_that_is_not_square_changes_where_the_image_does(size):
    torch.manual_seed(0)
    patch_px = 8
    network = ObjectFormerNet(objectformer._SHAPES[size]).eval()
    image = torch.randn(1, 3, 6 * patch_px, 10 * patch_px)
    changed = image.clone()
    changed[..., -2 * patch_px :, -2 * patch_px :] += 5 * torch.randn(3, 2 * patch_px, 2 * patch_px)
    with torch.inference_mode():
        labels, masks = network(torch.cat([image, changed]))
    assert masks.shape == (2, *image.shape[2:])
    assert labels[0] != labels[1]
    y, x = np.unravel_index(int((masks[1] - masks[0]).abs().argmax()), masks.shape[1:])
    assert y >= 3 * patch_px
    assert x >= 7 * patch_px


def test_one_seed_gives_the_same_scores_and_masks_and_another_gives_others(toy_sets, monkeypatch):
    monkeypatch.setitem(objectformer._SIDES_PX, "small", 32)
    dataset = Dataset.open(toy_sets[0])
    some = Pictures(dataset, range(32))

    def answers(seed):
        baseline = ObjectFormer(Settings(seed, epochs=1))
        baseline.fit(some, is_generated(dataset.samples[:32]), Masks(dataset.samples[:32]), lambda *told: None)
        return list(baseline.predict(some))

    first, again, other = (answers(seed) for seed in (0, 0, 1))
    assert [each.score for each in first] == [each.score for each in again]
    assert all(np.array_equal(a.is_flawed_HW, b.is_flawed_HW) for a, b in zip(first, again, strict=True))
    assert [each.score for each in first] != [each.score for each in other]


def test_an_answer_is_as_large_as_its_image():
    class Wide:
        def each(self):
            return iter([np.zeros((20, 50, 3), np.uint8)])

    assert next(ObjectFormer(Settings(0)).predict(Wide())).is_flawed_HW.shape == (20, 50)
