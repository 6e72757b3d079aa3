"""The experiments that ship, and what is refused in one of one's own."""

import pytest

from fxray.config.load import load_config
from fxray.errors import ConfigError
from fxray.experiments.experiment import SplitSettings, load_experiment, shipped_experiments, split_column
from fxray.experiments.measure import Line
from fxray.experiments.tables import as_table
from fxray.experiments.trainings import Setting, num_grpo_steps, refuse_unequal_steps, training_of, trainings_of
from fxray.report.robustness import ORIGINAL, PAPER


def test_every_table_of_the_paper_that_has_numbers_of_detectors_is_there():
    assert {f"table{number}" for number in range(2, 8)} | {"figure3"} <= set(shipped_experiments())
    sources = {name: load_experiment(name).source for name in shipped_experiments() if name.startswith("table")}
    assert sources == {name: f"Table {name[-1]}" for name in sources}


@pytest.mark.parametrize("name", shipped_experiments())
def test_every_shipped_row_is_a_configuration_that_can_run(name):
    experiment = load_experiment(name)
    for row in experiment.rows:
        assert load_config("tiny", row.set)
        if row.phase not in ("", "no-ft", "sft"):
            assert row.phase in ("alpha", "beta", "gamma")


def test_table_4_trains_eight_times_with_equal_steps_and_shares_three_rows():
    experiment = load_experiment("table4")
    names = [training.name for training in trainings_of(experiment, ())]
    views = ["data.view-no-bbox", "data.view-no-caption", "data.view-no-tags", "data.view-label-only"]
    assert names == ["base", *views, *(f"grpo.schedule-fixed-{stage}" for stage in ("alpha", "beta", "gamma"))]
    shared = [row.title for row in experiment.rows if training_of(row).name == "base"]
    assert shared == ["Best", "No-FT", "SFT"]
    refuse_unequal_steps(experiment, Setting(lambda more: load_config("tiny", more), None, {}), ())


def test_steps_are_counted_up_to_a_phase():
    config = load_config("tiny", ["grpo.steps_per_stage=7"])
    assert [num_grpo_steps(config, None, phase) for phase in ("no-ft", "sft", "alpha", "beta", "gamma", "")] == [
        *(0, 0, 7, 14, 21, 21)
    ]
    by_epochs = load_config("tiny", ["grpo.steps_per_stage=0"])
    assert num_grpo_steps(by_epochs, None) is None
    assert num_grpo_steps(by_epochs, 240) == 3 * 10


def test_a_schedule_of_another_length_is_refused_before_anything_is_trained(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: t\nsource: none\nkind: trainings\nequal_steps: true\n"
        "rows: [{title: a}, {title: b, set: [grpo.schedule=linear]}]\n"
    )
    setting = Setting(lambda more: load_config("tiny", ["grpo.steps_per_stage=5", *more]), tmp_path, {})
    with pytest.raises(ConfigError, match=r"base 15, grpo\.schedule-linear 5"):
        refuse_unequal_steps(load_experiment(str(file)), setting, ())
    setting = Setting(lambda more: load_config("tiny", ["grpo.steps_per_stage=0", *more]), tmp_path, {})
    refuse_unequal_steps(load_experiment(str(file)), setting, ())


def test_table_5_has_the_papers_numbers_of_the_robustness_report():
    rows = {row.change or ORIGINAL: row.paper for row in load_experiment("table5").rows if row.is_trained}
    assert rows == {name: {"accuracy": paper[0], "iou": paper[1]} for name, paper in PAPER.items()}


def test_table_5_asks_five_other_detectors_about_the_changed_images_and_says_what_the_others_need():
    experiment = load_experiment("table5")
    assert experiment.baselines == ("objectformer", "segformer", "npr", "dmd", "vit")
    changes = ["jpeg-80", "jpeg-30", "crop-random", "resize-0.5", ""]
    for name in experiment.baselines:
        assert [row.change for row in experiment.rows if row.baseline == name] == changes
    assert experiment.changes_of_baselines == tuple(changes[:4])
    npr = [row.paper for row in experiment.rows if row.baseline == "npr"]
    assert npr == [{"accuracy": value} for value in (0.820, 0.781, 0.903, 0.899, 0.914)]
    absent = [row for row in experiment.rows if row.absent]
    assert len(absent) == 3 * 5
    assert all(row.absent.startswith(("needs an InstructBLIP", "needs a diffusion model")) for row in absent)


@pytest.mark.parametrize("name", ["figure3", "table4", "table5", "table7"])
def test_tables_of_one_training_say_that_the_paper_has_four_folds(name):
    assert any("four-fold cross-validation (5.2)" in note for note in load_experiment(name).notes)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("rows: [{title: a}, {title: a}]", "titles of rows must differ, got 'a' twice"),
        ("reference: b\nrows: [{title: a}]", "'b' is no title of a row"),
        ("rows: [{title: a, paper: {f1: 0.5}}]", "'f1', which is no column"),
        ("rows: [{title: a, absent: no time}]", "no row can be trained"),
        ("rows: [{title: a}, {title: b, baseline: npx}]", "'npx' is no baseline"),
        ("rows: [{title: a}, {title: b, baseline: npr, phase: sft}]", "has no set, phase or absent"),
        ("rows: [{title: a}]\nsplit: {scheme: k-fold}", "`split` goes with kind folds"),
        ("columns: [acuracy]\nrows: [{title: a}]", "`columns` has 'acuracy', expected of accuracy,"),
        ("columns: [4o.acc]\nrows: [{title: a}]", "`columns` has 'acc'"),
        ("rows: [{title: a, change: jpeg-30}]", "`change` goes with kind robustness"),
        ("rows: [{title: a, change: jpeg-31}]", "`change` is 'jpeg-31', expected one of jpeg-"),
        ("rows: [{title: a, part: overall}]", "'a' has `part`, which does nothing in kind trainings"),
        ("rows: [{title: a, set: [seed]}]", "must match|should match"),
        ("rows: [{title: a, sets: [seed=1]}]", "is not a field"),
    ],
)
def test_what_does_not_hang_together_is_refused(tmp_path, lines, message):
    file = tmp_path / "mine.yaml"
    file.write_text(f"title: t\nsource: none\nkind: trainings\n{lines}\n")
    with pytest.raises(ConfigError, match=message):
        load_experiment(str(file))


@pytest.mark.parametrize(
    ("kind", "lines", "message"),
    [
        (
            "folds",
            "rows: [{title: a, part: overall, set: [seed=1]}]",
            "'a' has `set`, which does nothing in kind folds",
        ),
        ("folds", "rows: [{title: a, part: overall, phase: sft}]", "'a' has `phase`, which does nothing"),
        ("folds", "rows: [{title: a}]", "'a' has no `part`"),
        ("folds", "reference: a\nrows: [{title: a, part: overall}]", "rows of folds are not compared"),
        ("robustness", "rows: [{title: a, change: jpeg-80, phase: sft}]", "'a' has `phase`, which does nothing"),
        ("robustness", "rows: [{title: a, change: jpeg-80, part: overall}]", "'a' has `part`, which does nothing"),
        ("robustness", "reference: b\nrows: [{title: a}, {title: b, change: jpeg-80}]", "a row without `change`"),
        ("robustness", "reference: a\nrows: [{title: a}, {title: b, set: [seed=1]}]", "the training that all rows"),
    ],
)
def test_a_field_that_would_do_nothing_is_refused(tmp_path, kind, lines, message):
    split = "split: {scheme: k-fold}\n" if kind == "folds" else ""
    file = tmp_path / "mine.yaml"
    file.write_text(f"title: t\nsource: none\nkind: {kind}\n{split}{lines}\n")
    with pytest.raises(ConfigError, match=message):
        load_experiment(str(file))


def test_a_column_of_differences_names_what_changed_images_are_compared_with(tmp_path):
    file = tmp_path / "mine.yaml"
    text = "title: t\nsource: none\nkind: robustness\nrows: [{title: whole}, {title: a, change: jpeg-80}]\n"
    lines = [Line("whole"), Line("a", gains={"accuracy": {"value": -0.1, "low": -0.2, "high": 0.0}})]
    for more, name in (("", "the images as they are"), ("reference: whole\n", "whole")):
        file.write_text(text + more)
        table = as_table(load_experiment(str(file)), lines, {}, is_synthetic=False)
        assert f"accuracy against {name}" in table.header


def test_other_settings_of_a_split_have_folds_of_their_own():
    names = [SplitSettings(scheme="k-fold", **more).name for more in ({}, {"num_folds": 4}, {"num_folds": 2})]
    assert names[:2] == ["k-fold", "k-fold"]
    assert names[2] == "k-fold-e63123fd"  # as of earlier versions, whose folds lie there
    assert SplitSettings(scheme="k-fold", num_folds=2, keep_all=True).name not in names


def test_columns_name_their_test():
    assert [split_column(column) for column in ("iou", "ff++.accuracy")] == [("own", "iou"), ("ff++", "accuracy")]


@pytest.mark.parametrize(("figure", "command"), [("figure2", "fxray prefer create"), ("figure4", "fxray detect")])
def test_a_figure_that_is_no_experiment_says_where_it_is_made(figure, command):
    with pytest.raises(ConfigError, match=f"^{figure}: is no experiment, but .*`{command} ?"):
        load_experiment(figure)


def test_paths_in_a_row_are_relative_to_the_file_of_the_experiment(tmp_path, monkeypatch):
    (tmp_path / "mine" / "base").mkdir(parents=True)
    (tmp_path / "mine" / "own.yaml").write_text("stages: [{name: one}]")
    file = tmp_path / "mine" / "table.yaml"
    file.write_text(
        "{title: x, source: none, kind: trainings, rows: [{title: a, set: [grpo.schedule=own.yaml]}, "
        "{title: b, set: ['model={path: base, dtype: float32}', grpo.schedule=linear]}]}"
    )
    monkeypatch.chdir(tmp_path)
    found = trainings_of(load_experiment("mine/table.yaml"), ())
    assert [training.overrides for training in found] == [
        (f'grpo.schedule="{tmp_path}/mine/own.yaml"',),
        (f'model.path="{tmp_path}/mine/base"', 'model.dtype="float32"', "grpo.schedule=linear"),
    ]
    assert found[0].name == "grpo.schedule-own.yaml"
