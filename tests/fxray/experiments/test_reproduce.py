"""Experiments from start to table, over a launch that trains nothing."""

import csv
import dataclasses
import json

import pytest

from fxray.config.load import load_config
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import ConfigError, FxrayError
from fxray.experiments import data, measure
from fxray.experiments.experiment import load_experiment
from fxray.experiments.plan import plan
from fxray.experiments.reproduce import reproduce
from fxray.experiments.tables import as_table
from fxray.experiments.trainings import trainings_of
from fxray.launch.lease import hold


def experiment_of(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return {"mine": load_experiment(str(file))}


def lines_of(result, name):
    content = json.loads((result.folder / f"{name}.json").read_text())
    return {line["title"]: line for line in content["lines"]}


TRAININGS = """
title: Trainings
source: Table 4
kind: trainings
reference: Best
equal_steps: true
rows:
  - {title: Best, paper: {accuracy: 0.981, iou: 0.378}}
  - {title: SFT, phase: sft, paper: {accuracy: 0.893}}
  - {title: fixed, set: [grpo.schedule=fixed-gamma], paper: {accuracy: 0.947}}
  - {title: label-only, set: [data.view=label-only]}
  - {title: No-LoRA, absent: not implemented, paper: {accuracy: 0.976}}
"""


def test_rows_share_trainings_and_sft_and_one_that_fails_stops_no_other(tmp_path, setting, fake_launch):
    mine = experiment_of(tmp_path, TRAININGS)
    launch = fake_launch(fails="grpo.schedule-fixed-gamma")
    result = reproduce(mine, setting, launch=launch.port)["mine"]
    assert launch.trained == ["base", "grpo.schedule-fixed-gamma", "data.view-label-only"]
    assert launch.began_with_sft == ["grpo.schedule-fixed-gamma"]  # the view changes what SFT teaches
    assert result.failures == {"grpo.schedule-fixed-gamma": "failed: RuntimeError: the engine is gone"}
    assert "the engine is gone" in (setting.out / "failures" / "grpo.schedule-fixed-gamma.txt").read_text()
    lines = lines_of(result, "mine")
    assert lines["Best"]["metrics"]["accuracy"]["value"] == 14 / 16
    assert lines["SFT"]["metrics"]["accuracy"]["value"] == 10 / 16
    assert lines["SFT"]["gains"]["accuracy"]["value"] == -4 / 16
    assert (lines["Best"]["num_steps"], lines["SFT"]["num_steps"]) == (6, 0)
    assert lines["label-only"]["metrics"]["iou"]["value"] is None
    assert lines["fixed"]["metrics"] == {}
    assert lines["fixed"]["state"].startswith("failed")
    assert lines["No-LoRA"]["state"] == "not implemented"
    for ending in ("md", "tex", "csv", "html"):
        text = (result.folder / f"mine.{ending}").read_text()
        for fact in ("0.875 [", "the engine is gone", "not implemented", "0.981", "seed 0", "data_sha256 ", "commit "):
            assert fact in text, (ending, fact)
        assert "SYNTHETIC" not in text
    rows = list(csv.reader(line for line in (result.folder / "mine.csv").open() if not line.startswith("#")))
    assert [row[-2:] for row in rows[1:]] == [["0.981", "0.378"], ["0.893", ""], ["0.947", ""], ["", ""], ["0.976", ""]]

    again = fake_launch(num_wrong={"grpo.schedule-fixed-gamma": 4})
    result = reproduce(mine, setting, launch=again.port)["mine"]
    assert again.trained == ["grpo.schedule-fixed-gamma"]
    assert not result.failures
    fixed = lines_of(result, "mine")["fixed"]
    assert fixed["state"] == ""
    assert fixed["gains"]["accuracy"]["value"] == -2 / 16


def test_an_outside_data_set_is_answered_by_the_phases_that_rows_are_about(tmp_path, setting, splits, fake_launch):
    text = TRAININGS.replace("reference", "columns: [accuracy, iou, 4o.accuracy]\nreference")
    mine, launch = experiment_of(tmp_path, text), fake_launch()
    result = reproduce(mine, setting, launch=launch.port)["mine"]
    assert launch.answered == []
    assert lines_of(result, "mine")["Best"]["state"] == "no data: --ood 4o=FILE"
    given = dataclasses.replace(setting, outside={"4o": splits["validation"]})
    result = reproduce(mine, given, launch=launch.port)["mine"]
    others = ["grpo.schedule-fixed-gamma.gamma-3", "data.view-label-only.gamma"]
    assert launch.answered == ["base.gamma", "base.sft", *others]
    lines = lines_of(result, "mine")
    assert lines["Best"]["metrics"]["4o.accuracy"]["value"] == 4 / 8
    assert lines["SFT"]["gains"]["4o.accuracy"]["value"] == 0
    assert lines["Best"]["state"] == ""
    reproduce(mine, given, launch=launch.port)
    assert len(launch.answered) == 4


FOLDS = """
title: Folds
source: Table 2
kind: folds
split: {scheme: k-fold, num_folds: 2}
rows:
  - {title: SD 1.4, part: generator, paper: {accuracy: 0.968, iou: 0.338}}
  - {title: DALL-E 2, part: generator, paper: {accuracy: 0.986}}
  - {title: DiT, part: generator}
  - {title: DiT, part: group}
  - {title: Real, part: group, paper: {accuracy: 0.985}}
  - {title: Overall, part: overall, paper: {accuracy: 0.981}}
  - {title: NPR, part: overall, absent: not implemented, paper: {accuracy: 0.914}}
"""


def test_folds_are_trained_one_after_the_other_and_every_image_counts_once(tmp_path, setting, fake_launch):
    mine = experiment_of(tmp_path, FOLDS)
    name = mine["mine"].split.name
    launch = fake_launch(num_wrong={f"{name}-0": 0, f"{name}-1": 6})
    result = reproduce(mine, setting, launch=launch.port)["mine"]
    assert launch.trained == [f"{name}-0", f"{name}-1"]
    folds = lines_of(result, "mine-folds")
    num_0, num_1 = folds["0"]["num_images"], folds["1"]["num_images"]
    assert num_0 + num_1 > 60
    assert folds["0"]["metrics"]["accuracy"]["value"] == 1
    assert folds["1"]["metrics"]["accuracy"]["value"] == pytest.approx(1 - 6 / num_1)
    mean, deviation = folds["mean ± sd of 2 folds"]["spread"]["accuracy"]
    assert mean == pytest.approx(1 - 3 / num_1)
    assert deviation == pytest.approx(6 / num_1 / 2**0.5)
    parts = lines_of(result, "mine")
    assert parts["Overall"]["num_images"] == num_0 + num_1
    assert parts["Overall"]["metrics"]["accuracy"]["value"] == pytest.approx(1 - 6 / (num_0 + num_1))
    assert parts["DALL-E 2"]["state"] == "no such image in the data"
    assert parts["BigGAN"]["num_images"] > 0  # in the data, not in the table
    assert parts["Real"]["metrics"]["iou"]["value"] is None
    assert "Table 2" in (result.folder / "mine.md").read_text()
    assert "data checksum " in (result.folder / "mine-folds.tex").read_text()


@pytest.mark.parametrize("keeps_all", [False, True])
def test_a_table_of_folds_says_how_many_images_are_asked_about_and_keep_all_asks_about_all(
    tmp_path, setting, fake_launch, splits, keeps_all
):
    both = Dataset.open(splits["train"])
    few = [row for row, s in enumerate(both.samples) if s.generator != "real" or row % 4 == 0]  # 24 generated, 12 real
    file = tmp_path / "train.parquet"
    near = {row: dataclasses.replace(both.samples[row], source=f"photo-{row // 2}") for row in few}
    write_dataset(file, [Row(sample, both.image_bytes(row)) for row, sample in near.items()])
    own = dataclasses.replace(setting, configure=lambda more: setting.configure([f"data.train={file}", *more]))
    text = FOLDS.replace("num_folds: 2", f"num_folds: 2, validation_frac: 0.2, keep_all: {str(keeps_all).lower()}")
    result = reproduce(experiment_of(tmp_path, text), own, launch=fake_launch().port)["mine"]
    assert not result.failures
    num_asked = lines_of(result, "mine")["Overall"]["num_images"]
    notes = [note for note in result.tables[0].notes if "are in a test part" in note]
    if keeps_all:
        assert num_asked == 60
        assert notes == []
        assert any(note.startswith("Test parts: 60 images of 48 sources;") for note in result.tables[0].notes)
    else:
        assert num_asked <= 2 * (12 + 4 + 8)
        cut = "the larger class of each part is cut to the size of the smaller"
        assert notes == [f"{num_asked} of 60 images are in a test part; {cut}."]


OTHERS = """
title: Others
source: Table 3
kind: trainings
columns: [accuracy, iou, 4o.accuracy]
reference: Ours
rows:
  - {title: Ours}
  - {title: SegFormer, baseline: segformer, paper: {accuracy: 0.945}}
  - {title: NPR, baseline: npr}
"""


def test_other_detectors_are_fitted_on_the_same_images_and_asked_about_the_same_tests(
    tmp_path, setting, splits, fake_launch
):
    given = dataclasses.replace(setting, outside={"4o": splits["validation"]})
    mine = experiment_of(tmp_path, OTHERS)
    states = [row.state for row in plan(mine["mine"], given)]
    assert states == ["not begun", "not fitted for own, 4o", "not fitted for own, 4o"]
    launch = fake_launch(fails="npr")
    result = reproduce(mine, given, launch=launch.port)["mine"]
    assert launch.trained == ["base"]
    assert launch.fitted == ["segformer for own", "npr for own", "segformer for 4o", "npr for 4o"]
    assert result.failures == {"baseline-npr": f"failed: no real image ({splits['train']})"}
    lines = lines_of(result, "mine")
    assert lines["SegFormer"]["metrics"]["accuracy"]["value"] == 15 / 16
    assert lines["SegFormer"]["metrics"]["4o.accuracy"]["value"] == 7 / 8
    assert lines["SegFormer"]["gains"]["accuracy"]["value"] == 1 / 16
    assert (lines["SegFormer"]["state"], lines["SegFormer"]["training"]) == ("", "baseline-segformer")
    assert lines["NPR"]["state"] == result.failures["baseline-npr"]
    assert lines["Ours"]["state"] == ""
    result = reproduce(mine, given, launch=fake_launch().port)["mine"]
    assert not result.failures
    numbers = lines_of(result, "mine")["NPR"]["metrics"]
    assert numbers["accuracy"]["value"] == 14 / 16
    assert numbers["iou"]["value"] is None  # it does not say where
    assert [row.state for row in plan(mine["mine"], given)] == ["finished", "answered", "answered"]
    assert [row.state for row in plan(load_experiment("table3"), setting)][2] == "no data: --ood NAME=FILE"


def test_other_detectors_answer_every_fold(tmp_path, setting, fake_launch):
    text = FOLDS.replace("absent: not implemented", "baseline: npr")
    mine, launch = experiment_of(tmp_path, text), fake_launch()
    result = reproduce(mine, setting, launch=launch.port)["mine"]
    assert launch.fitted == ["npr for 0", "npr for 1"]
    parts = lines_of(result, "mine")
    assert parts["NPR"]["num_images"] == parts["Overall"]["num_images"]
    assert parts["NPR"]["metrics"]["accuracy"]["value"] == pytest.approx(1 - 2 / parts["NPR"]["num_images"])
    assert parts["NPR"]["spread"]["accuracy"][0] > 0.9
    assert parts["NPR"]["paper"] == {"accuracy": 0.914}


def test_a_generator_is_left_out_of_training(tmp_path, setting, fake_launch):
    text = "title: t\nsource: none\nkind: folds\nsplit: {scheme: leave-one-generator-out}\n"
    mine, launch = experiment_of(tmp_path, text), fake_launch()
    assert [row.title for row in plan(mine["mine"], setting)] == ["fold BigGAN", "fold DiT", "fold SD 1.4", "fold VAR"]
    result = reproduce(mine, setting, launch=launch.port)["mine"]
    assert launch.trained[2] == "leave-one-generator-out-sd-1.4-327108fb"
    folder = setting.out / "folds" / "leave-one-generator-out" / "sd-1.4-327108fb"
    train, test = (Dataset.open(folder / f"{part}.parquet").samples for part in ("train", "test"))
    assert "SD 1.4" not in {sample.generator for sample in train}
    assert {sample.generator for sample in test} == {"SD 1.4", "real"}
    assert list(lines_of(result, "mine")) == ["BigGAN", "DiT", "SD 1.4", "VAR", "mean ± sd of 4 folds"]


def test_data_of_one_generator_are_refused_before_anything_is_trained(tmp_path, setting, fake_launch, monkeypatch):
    monkeypatch.setattr(data, "_generators", lambda config: {"VAR"})
    text = "title: t\nsource: none\nkind: folds\nsplit: {scheme: leave-one-generator-out}\n"
    mine, launch = experiment_of(tmp_path, text), fake_launch()
    for call in (lambda: plan(mine["mine"], setting), lambda: reproduce(mine, setting, launch=launch.port)):
        with pytest.raises(ConfigError, match="all of one generator, VAR, so none can be held out"):
            call()
    assert launch.trained == []


def test_a_row_of_what_is_held_out_tells_of_its_own_fold(tmp_path, setting, fake_launch):
    text = (
        "title: t\nsource: none\nkind: folds\nsplit: {scheme: leave-one-generator-out}\nrows:\n"
        "  - {title: BigGAN, part: generator}\n  - {title: VAR, part: generator}\n  - {title: GALIP, part: generator}\n"
    )
    launch = fake_launch(fails="leave-one-generator-out-biggan-2cd7053f")
    lines = lines_of(reproduce(experiment_of(tmp_path, text), setting, launch=launch.port)["mine"], "mine")
    assert lines["BigGAN"]["state"] == "failed: RuntimeError: the engine is gone"
    assert (lines["VAR"]["state"], lines["VAR"]["num_images"]) == ("", 9)
    assert lines["GALIP"]["state"] == "in no fold that is done"
    assert lines["Real"]["state"] == "3 of 4 folds"


def test_a_mean_of_no_fold_is_not_measured(tmp_path, setting, fake_launch):
    text = "title: t\nsource: none\nkind: folds\nsplit: {scheme: leave-one-generator-out}\n"
    mine = experiment_of(tmp_path, text)
    lines = measure.measure_folds(mine["mine"], trainings_of(mine["mine"], ["a", "b"]), setting, {})
    assert [line.state for line in lines][-1] == "no fold is done"


def test_a_measurement_that_fails_does_not_keep_a_training_from_other_tables(tmp_path, setting, fake_launch):
    launch = fake_launch()
    port = dataclasses.replace(launch.port, robustness=lambda *given: 1 / 0)
    both = {"table5": load_experiment("table5")} | experiment_of(tmp_path, TRAININGS)
    results = reproduce(both, setting, launch=port)
    assert list(results["table5"].failures) == ["base"]
    assert lines_of(results["table5"], "table5")["Original"]["state"].startswith("failed: ZeroDivisionError")
    assert not results["mine"].failures
    assert launch.trained.count("base") == 1


def test_a_folder_is_of_one_configuration_and_of_one_process(tmp_path, setting, fake_launch):
    mine, launch = experiment_of(tmp_path, TRAININGS), fake_launch()
    (tmp_path / "held").mkdir()
    with hold(tmp_path / "held"), pytest.raises(FxrayError, match="another process"):
        reproduce(mine, dataclasses.replace(setting, out=tmp_path / "held"), launch=launch.port)
    reproduce(mine, setting, launch=launch.port)
    other = dataclasses.replace(setting, configure=lambda more: setting.configure(["seed=1", *more]))
    with pytest.raises(ConfigError, match="other values of seed"):
        reproduce(mine, other, launch=launch.port)
    with pytest.raises(ConfigError, match="other values of seed"):  # else it would call finished what is another's
        plan(mine["mine"], other)


SCHEDULE = "stages:\n" + "".join(
    f"  - {{name: {name}, rewards: {{r_base: %s, w_iou: 1.0, label: {{right: 1, wrong: 0}}, "
    "format: {right: 1, wrong: 0}}}\n"
    for name in ("one", "two", "three")
)


@pytest.mark.parametrize("is_of_a_row", [False, True])
def test_a_schedule_file_that_changed_is_not_told_as_what_was_trained(tmp_path, setting, fake_launch, is_of_a_row):
    schedule = tmp_path / "mine-schedule.yaml"
    schedule.write_text(SCHEDULE % (0, 0, 0))
    text, own = TRAININGS, setting
    if is_of_a_row:
        text = TRAININGS.replace("grpo.schedule=fixed-gamma", f"grpo.schedule={schedule}")
    else:
        own = dataclasses.replace(
            setting, configure=lambda more: setting.configure([f"grpo.schedule={schedule}", *more])
        )
    mine = experiment_of(tmp_path, text)
    reproduce(mine, own, launch=fake_launch().port)
    again = fake_launch()
    reproduce(mine, own, launch=again.port)
    assert not again.trained
    schedule.write_text(SCHEDULE % (0, 0, 5))
    again = fake_launch()
    with pytest.raises(ConfigError, match=r"other values of grpo\.schedule"):
        reproduce(mine, own, launch=again.port)
    assert not again.trained


def test_rows_whose_fields_end_alike_are_trained_apart(tmp_path, setting, fake_launch):
    text = (
        "title: t\nsource: none\nkind: trainings\nrows:\n"
        "  - {title: of SFT, set: [sft.learning_rate=0.001]}\n  - {title: of GRPO, set: [grpo.learning_rate=0.001]}\n"
    )
    launch = fake_launch(num_wrong={"grpo.learning-rate-0.001": 4})
    result = reproduce(experiment_of(tmp_path, text), setting, launch=launch.port)["mine"]
    assert launch.trained == ["sft.learning-rate-0.001", "grpo.learning-rate-0.001"]
    values = {title: line["metrics"]["accuracy"]["value"] for title, line in lines_of(result, "mine").items()}
    assert values == {"of SFT": 14 / 16, "of GRPO": 12 / 16}


def test_an_image_that_several_folds_answer_counts_with_each_answer(tmp_path, setting, fake_launch):
    text = (
        "title: t\nsource: none\nkind: folds\nsplit: {scheme: leave-one-generator-out}\n"
        "rows: [{title: Overall, part: overall}]\n"
    )
    mine = experiment_of(tmp_path, text)
    result = reproduce(mine, setting, launch=fake_launch().port)["mine"]
    folds = [line for title, line in lines_of(result, "mine-folds").items() if not title.startswith("mean")]
    overall = lines_of(result, "mine")["Overall"]
    assert overall["num_images"] == sum(line["num_images"] for line in folds)
    num_right = sum(line["metrics"]["accuracy"]["value"] * line["num_images"] for line in folds)
    assert overall["metrics"]["accuracy"]["value"] == pytest.approx(num_right / overall["num_images"])


def test_a_detector_of_another_size_is_not_told_as_the_one_that_was_asked_for(tmp_path, setting, splits, fake_launch):
    mine = experiment_of(tmp_path, OTHERS.replace(", 4o.accuracy", ""))
    reproduce(mine, setting, launch=fake_launch().port)
    large = dataclasses.replace(setting, baseline_size="published")
    assert [row.state for row in plan(mine["mine"], large)][1:] == ["not fitted for own"] * 2
    result = reproduce(mine, large, launch=fake_launch(fails="npr").port)["mine"]
    lines = lines_of(result, "mine")
    assert (lines["NPR"]["state"], lines["NPR"]["metrics"]) == (f"failed: no real image ({splits['train']})", {})
    assert lines["SegFormer"]["state"] == ""
    for file in setting.out.glob("baselines/*/*/record.json"):
        file.write_text("{")
    assert [row.state for row in plan(mine["mine"], large)][1:] == ["not fitted for own"] * 2


def test_a_table_says_on_its_face_that_data_are_synthetic(setting):
    synthetic = dataclasses.replace(setting, configure=lambda more: load_config("smoke", more))
    experiment = load_experiment("table4")
    assert measure.is_synthetic([], synthetic)
    assert not measure.is_synthetic([], setting)
    lines = measure.measure_trainings(experiment, synthetic, {"base": "failed: no memory"}, ())
    table = as_table(experiment, lines, {}, is_synthetic=True)
    assert table.notes[0].startswith("SYNTHETIC")
    assert [row.cells[0] for row in table.rows][:3] == ["failed: no memory", "failed: no memory", "not begun"]
    assert table.rows[0].paper == ("0.981", "0.378")


def test_a_plan_tells_what_is_there_and_writes_nothing(tmp_path, setting, fake_launch):
    mine = experiment_of(tmp_path, TRAININGS)
    states = [(row.training, row.state, row.num_steps) for row in plan(mine["mine"], setting)]
    assert not setting.out.exists()
    assert states[0] == ("base", "not begun", 6)
    assert states[4] == ("", "not implemented", None)
    reproduce(mine, setting, launch=fake_launch(fails="data.view-label-only").port)
    assert [row.state for row in plan(mine["mine"], setting)] == [
        *("finished", "finished", "finished", "not begun", "not implemented")
    ]
