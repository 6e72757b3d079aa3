"""What an experiment lacks is done, and only that."""

import dataclasses
import json
import os
import shutil

import pytest

from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import ConfigError, DataError
from fxray.events import Note
from fxray.experiments.experiment import Experiment, load_experiment
from fxray.experiments.plan import plan
from fxray.experiments.reproduce import reproduce
from fxray.files import file_sha256


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


def test_a_table_names_the_checksums_of_the_tests_that_its_columns_are_about(outside, splits, fake_launch):
    own, other = (file_sha256(splits[name]) for name in ("test", "validation"))
    for columns, expected in (
        (["4o.accuracy"], {"4o_sha256": other}),
        (["accuracy", "4o.accuracy", "ff++.accuracy"], {"data_sha256": own, "4o_sha256": other}),
    ):
        mine = experiment_of({"title": "Best"}, columns=columns)
        folder = reproduce(mine, outside, launch=fake_launch().port)["mine"].folder
        facts = json.loads((folder / "mine.json").read_text())["facts"]
        assert {name: value for name, value in facts.items() if name.endswith("_sha256")} == expected
        for name, value in expected.items():
            assert f"{name} {value}" in (folder / "mine.md").read_text()


def test_a_table_says_that_images_of_a_test_share_sources(outside, splits, fake_launch, tmp_path):
    dataset, file = Dataset.open(splits["validation"]), tmp_path / "4o.parquet"
    shared = [dataclasses.replace(sample, source=f"photo-{i % 3}") for i, sample in enumerate(dataset.samples)]
    write_dataset(file, [Row(sample, dataset.image_bytes(i)) for i, sample in enumerate(shared)])
    alike = dataclasses.replace(outside, outside={"4o": file})
    both = experiment_of({"title": "Best"}, columns=["accuracy", "4o.accuracy"])
    (table,) = reproduce(both, alike, launch=fake_launch().port)["mine"].tables
    about = "intervals are about images of these sources, and too narrow for others"
    assert [note for note in table.notes if about in note] == [f"4o: 8 images of 3 sources; {about}."]


def test_images_that_train_are_refused_as_an_outside_data_set_before_anything_is_trained(setting, splits, fake_launch):
    launch = fake_launch()
    trained_on = dataclasses.replace(setting, outside={"4o": splits["train"]})
    with pytest.raises(DataError, match=r"48 samples are in .*train\.parquet too"):
        reproduce(experiment_of({"title": "Best"}), trained_on, launch=launch.port)
    assert launch.trained == []


def test_sources_that_an_outside_data_set_shares_with_what_trains_are_told(setting, splits, fake_launch, tmp_path):
    dataset, file, events = Dataset.open(splits["train"]), tmp_path / "4o.parquet", []
    renamed = [dataclasses.replace(sample, sample_id=f"4o-{i}") for i, sample in enumerate(dataset.samples[:8])]
    write_dataset(file, [Row(sample, dataset.image_bytes(i)) for i, sample in enumerate(renamed)])
    near = dataclasses.replace(setting, outside={"4o": file})
    reproduce(experiment_of({"title": "Best"}), near, events.append, fake_launch().port)
    warnings = [event.text for event in events if isinstance(event, Note) and event.is_warning]
    assert [warning.split(" of ")[0] for warning in warnings] == ["8"]
    assert "numbers will be better than on unseen ones" in warnings[0]


def test_a_phase_that_no_schedule_has_is_refused_before_anything_is_trained(outside, fake_launch):
    launch = fake_launch()
    with pytest.raises(ConfigError, match="row 'Mid' is about phase betta, which its training does not have"):
        reproduce(experiment_of({"title": "Mid", "phase": "betta"}), outside, launch=launch.port)
    assert launch.trained == []


def test_a_phase_that_a_row_lacks_is_not_asked_about_outside_data(outside, fake_launch):
    launch = fake_launch()
    rows = {"title": "Best"}, {"title": "Mid", "phase": "beta", "set": ["grpo.schedule=fixed-gamma"]}
    mine = experiment_of(*rows)
    lacking = "this training has no phase beta"
    assert [(row.state, row.num_steps) for row in plan(mine["mine"], outside)] == [("not begun", 6), (lacking, None)]
    result = reproduce(mine, outside, launch=launch.port)["mine"]
    assert launch.answered == ["base.gamma"]
    assert result.tables[0].rows[1].cells[0] == lacking
    assert not result.failures


def test_a_plan_counts_the_steps_up_to_the_phase_of_a_row(setting):
    rows = plan(load_experiment("figure3"), setting)
    assert [row.num_steps for row in rows] == [0, 0, 2, 4, 6]


def test_a_plan_names_a_reward_function_that_cannot_be_loaded(setting):
    rows = {"title": "Best"}, {"title": "Mine", "set": ["reward.functions=[{path: 'nowhere:one'}]"]}
    first, second = plan(experiment_of(*rows)["mine"], setting)
    assert first.state == "not begun"
    assert second.state.startswith("cannot run: module 'nowhere' cannot be imported: No module named 'nowhere'")
