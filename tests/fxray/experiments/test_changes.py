"""Experiments of kind robustness: what a training, and other detectors, answer to changed images."""

import dataclasses
import json

import pytest

from fxray.errors import DataError
from fxray.experiments.experiment import load_experiment
from fxray.experiments.reproduce import reproduce


def lines_of(result, name):
    content = json.loads((result.folder / f"{name}.json").read_text())
    return {line["title"]: line for line in content["lines"]}


def test_changes_of_the_images_are_measured_by_the_robustness_command(setting, fake_launch):
    launch = fake_launch()
    result = reproduce({"table5": load_experiment("table5")}, setting, launch=launch.port)["table5"]
    assert launch.trained == ["base"]
    assert launch.changed == ["jpeg-80", "jpeg-30", "crop-random", "resize-0.5"]
    lines = lines_of(result, "table5")
    assert lines["Original"]["metrics"]["accuracy"]["value"] == 0.5
    assert lines["Original"]["gains"] == {}
    assert lines["random crop"]["gains"]["iou"]["high"] == 0.6
    assert '<td class="paper">0.289</td>' in (result.folder / "table5.html").read_text()
    assert [name for name in launch.fitted if "npr" in name] == ["npr for own"]
    assert (lines["NPR, JPEG, quality 30"]["state"], lines["NPR, JPEG, quality 30"]["num_images"]) == ("", 16)
    assert lines["NPR, JPEG, quality 30"]["metrics"]["accuracy"]["value"] == 0.3  # the third that is asked
    assert lines["NPR, JPEG, quality 30"]["gains"]["accuracy"]["value"] == 0.3
    assert lines["NPR, Original"]["gains"] == {}
    assert lines["DIRE, Original"]["state"] == "needs a diffusion model: fxray baseline run"
    lacking = reproduce({"table5": load_experiment("table5")}, setting, launch=fake_launch(fails="dmd").port)["table5"]
    assert lines_of(lacking, "table5")["DMD, random crop"]["state"].startswith("failed: no real image")
    assert lines_of(lacking, "table5")["NPR, random crop"]["state"] == ""


def test_what_is_asked_of_other_detectors_is_not_asked_of_the_detector(tmp_path, setting, fake_launch):
    text = "title: t\nsource: none\nkind: robustness\nrows:\n  - {title: whole}\n"
    (tmp_path / "mine.yaml").write_text(f"{text}  - {{title: other, baseline: npr, change: blur-1}}\n")
    mine = {"mine": load_experiment(str(tmp_path / "mine.yaml"))}
    launch = fake_launch()
    result = reproduce(mine, setting, launch=launch.port)["mine"]
    assert launch.changed == []
    assert lines_of(result, "mine")["other"]["gains"]["iou"]["value"] == 0.1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda numbers: numbers.pop("num_real"), "lacks 'num_real'"),
        (lambda numbers: numbers["overall"]["iou"].pop("low"), "lacks 'low'"),
        (lambda numbers: numbers["gain"].pop("metrics"), "lacks 'metrics'"),
        (lambda numbers: numbers.update(overall=3), "is damaged: "),
    ],
)
def test_numbers_of_another_detector_that_lack_something_are_told_with_their_place(setting, fake_launch, damage, said):
    launch, damaged = fake_launch(), []

    def fit_and_damage(names, question, *rest):
        outcome = launch.baselines(names, question, *rest)
        file = question.folder / "npr" / "under" / "jpeg-30.json"
        numbers = json.loads(file.read_text())
        damage(numbers)
        file.write_text(json.dumps(numbers))
        damaged.append(file)
        return outcome

    port = dataclasses.replace(launch.port, baselines=fit_and_damage)
    with pytest.raises(DataError, match=said) as caught:
        reproduce({"table5": load_experiment("table5")}, setting, launch=port)
    assert caught.value.where == str(damaged[0])
    assert f"delete the folder {damaged[0].parent.parent};" in caught.value.remedy
