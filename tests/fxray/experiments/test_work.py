"""What an experiment lacks is done, and only that."""

import dataclasses
import os
import shutil

import pytest

from fxray.experiments.experiment import Experiment
from fxray.experiments.reproduce import reproduce


def experiment_of(*rows, **fields):
    given = {"title": "t", "source": "none", "kind": "trainings", "columns": ["4o.accuracy"], "rows": rows}
    return {"mine": Experiment.model_validate(given | fields)}


@pytest.fixture
def outside(setting, splits):
    return dataclasses.replace(setting, outside={"4o": splits["validation"]})


def test_a_training_that_was_trained_anew_answers_outside_data_anew(outside, fake_launch):
    launch = fake_launch()
    for _ in range(2):
        reproduce(experiment_of({"title": "Best"}), outside, launch=launch.port)
        assert launch.answered == ["base.gamma"]
    shutil.rmtree(outside.out / "runs" / "base")
    reproduce(experiment_of({"title": "Best"}), outside, launch=launch.port)
    assert launch.answered == 2 * ["base.gamma"]


@pytest.mark.parametrize("is_older", [True, False])
def test_outside_answers_of_an_earlier_version_count_where_they_are_younger_than_the_training(
    outside, fake_launch, is_older
):
    reproduce(experiment_of({"title": "Best"}), outside, launch=fake_launch().port)
    (answers,) = (outside.out / "runs" / "base" / "outside").glob("4o-*/gamma.parquet")
    earlier = outside.out / "outside" / answers.parent.name / "base.gamma.parquet"
    earlier.parent.mkdir(parents=True)
    answers.rename(earlier)
    if is_older:
        os.utime(earlier, (0, 0))
    launch = fake_launch()
    reproduce(experiment_of({"title": "Best"}), outside, launch=launch.port)
    assert launch.answered == (["base.gamma"] if is_older else [])
    assert answers.exists()
