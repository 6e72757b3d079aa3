"""Rows of other detectors: which networks, on which images, and what became of them."""

import dataclasses
import json

import pytest

from fxray.evaluate.predictions import read_predictions, write_predictions
from fxray.experiments.experiment import Experiment
from fxray.experiments.reproduce import reproduce
from fxray.launch.evaluation import rows_to_answer
from fxray.launch.run import RunDirectory

OWN = Experiment.model_validate(
    {
        "title": "Others",
        "source": "none",
        "kind": "trainings",
        "reference": "Ours",
        "rows": [{"title": "Ours"}, {"title": "NPR", "baseline": "npr"}],
    }
)


@pytest.fixture
def published(setting):
    return dataclasses.replace(setting, baseline_size="published")


def npr_of(result):
    lines = json.loads((result.folder / f"{result.folder.name}.json").read_text())["lines"]
    return next(line for line in lines if line["title"] == "NPR")


def test_a_table_says_which_size_of_networks_it_tells_of_and_neither_replaces_the_other(
    setting, published, fake_launch
):
    texts, launch = [], fake_launch()
    for each in (published, setting, published):
        result = reproduce({"own": OWN}, each, launch=launch.port)["own"]
        texts.append((result.folder / "own.md").read_text())
    assert "baselines published networks from random weights" in texts[0]
    assert "baselines small networks from random weights" in texts[1]
    folders = [setting.out / "baselines" / name / "npr" for name in ("own", "own-published")]
    sizes = [json.loads((folder / "record.json").read_text())["key"]["size"] for folder in folders]
    assert sizes == ["small", "published"]


def test_published_networks_in_an_earlier_versions_folder_are_kept(setting, published, fake_launch):
    reproduce({"own": OWN}, published, launch=fake_launch().port)
    earlier, own = (setting.out / "baselines" / name / "npr" for name in ("own", "own-published"))
    earlier.parent.mkdir()
    (own / "of-days").touch()
    own.rename(earlier)
    result = reproduce({"own": OWN}, setting, launch=fake_launch().port)["own"]
    assert npr_of(result)["state"] == ""
    assert (own / "of-days").exists()
    assert not (earlier / "of-days").exists()


def test_a_detector_without_networks_of_two_sizes_stays_where_it_answered(setting, fake_launch):
    floor = OWN.model_dump() | {"rows": [{"title": "Ours"}, {"title": "NPR", "baseline": "leak-probe"}]}
    mine, launch = {"own": Experiment.model_validate(floor)}, fake_launch()
    folder = setting.out / "baselines" / "own" / "leak-probe"
    for size in (None, "published", None):
        result = reproduce(mine, setting, launch=launch.port)["own"]
        assert npr_of(result)["state"] == ""
        assert [file.parent for file in setting.out.glob("baselines/*/*/record.json")] == [folder]
        (folder / "record.json").write_text(json.dumps({"key": {"size": size}}))


def test_a_failure_in_one_experiment_is_not_told_of_the_next(setting, splits, fake_launch):
    folds = {
        "title": "Folds",
        "source": "none",
        "kind": "folds",
        "split": {"scheme": "k-fold", "num_folds": 2},
        "rows": [{"title": "NPR", "part": "overall", "baseline": "npr"}],
    }
    launch = fake_launch()

    def fit(names, question, *given):
        launch.fails = "npr" if question.name == "own" else ""
        return launch.baselines(names, question, *given)

    both = {"own": OWN, "folds": Experiment.model_validate(folds)}
    results = reproduce(both, setting, launch=dataclasses.replace(launch.port, baselines=fit))
    assert results["own"].failures == {"baseline-npr": f"failed: no real image ({splits['train']})"}
    assert npr_of(results["folds"])["state"] == ""
    assert not results["folds"].failures


def test_other_detectors_are_scored_on_the_images_that_the_detector_is_asked_about(setting, fake_launch):
    few = dataclasses.replace(setting, configure=lambda more: setting.configure(["evaluate.num_samples=8", *more]))
    launch = fake_launch()

    def train(config, run_dir, on_event):
        launch.train(config, run_dir, on_event)
        file = RunDirectory(run_dir).predictions("gamma")
        said = read_predictions(file)
        write_predictions([said[row] for row in rows_to_answer(len(said), 8)], file)

    result = reproduce({"own": OWN}, few, launch=dataclasses.replace(launch.port, train=train))["own"]
    npr = npr_of(result)
    assert npr["gains"]["accuracy"]["value"] is not None
    assert npr["metrics"]["accuracy"]["value"] * 8 % 1 == 0
