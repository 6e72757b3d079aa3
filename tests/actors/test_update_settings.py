"""The numbers of an update reach the loss and the optimizer of a rank."""

from dataclasses import replace

import numpy as np
import pytest
from plain_rank import SETTINGS, make_group, one_pass, start

from actors import learner_rank
from fxray.grpo.loss import grpo_loss


def test_the_settings_of_an_update_reach_loss_and_optimizer(random_model_dir, monkeypatch):
    worker, groups = start(random_model_dir), [make_group(random_model_dir, index) for index in range(4)]
    start_weights, clips = worker.export_policy(1)[0].safetensors, []

    def seen(*args, **kwargs):
        clips.append((kwargs["clip_low"], kwargs["clip_high"]))
        return grpo_loss(*args, **kwargs)

    monkeypatch.setattr(learner_rank, "grpo_loss", seen)
    still = replace(
        SETTINGS, learning_rate=0.0, max_new_tokens=32, importance_cap=0.01, clip_low=0.1, clip_high=0.3, num_updates=2
    )
    # Every importance weight, exp of about -6 + 5, is cut to 0.01. Divided by the 17 tokens of a group, or by 3 x 32.
    summed = sum((group.advantages_G * np.array([5, 9, 3])).sum() for group in groups)
    for aggregation, divisor in (("token", 17), ("constant", 96)):
        sums = worker.update(one_pass(*groups), replace(still, loss_aggregation=aggregation), num_groups=4)
        assert sums["loss"] == pytest.approx(2 * -0.01 * summed / (4 * divisor), rel=1e-3)
        assert sums["importance"] == pytest.approx(2 * 0.01 * 4 * 17, rel=1e-5)
    assert clips == [(0.1, 0.3)] * 4
    assert worker.export_policy(1)[0].safetensors == start_weights
