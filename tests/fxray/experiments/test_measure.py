"""Numbers of a table's lines."""

import json

from fxray.experiments.experiment import load_experiment
from fxray.experiments.reproduce import reproduce

PARTS = """
title: Parts
source: Table 2
kind: folds
split: {scheme: k-fold, num_folds: 2, validation_frac: 0.3}
rows:
  - {title: SD-1.4, part: generator}
  - {title: Diffusion, part: group}
"""


def test_the_images_of_a_generator_that_is_spelled_in_two_ways_stand_in_one_row(two_spellings, tmp_path, fake_launch):
    (tmp_path / "mine.yaml").write_text(PARTS)
    mine = {"mine": load_experiment(str(tmp_path / "mine.yaml"))}
    result = reproduce(mine, two_spellings, launch=fake_launch().port)["mine"]
    lines = {line["title"]: line for line in json.loads((result.folder / "mine.json").read_text())["lines"]}
    assert lines["SD-1.4"]["num_images"] == lines["Diffusion"]["num_images"] == 9
    assert "sd-1.4" not in lines
