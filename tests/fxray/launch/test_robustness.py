"""The work of measuring robustness, with a detector that needs no engine: what is done stays done."""

import contextlib
import json
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fxray.config.load import dump_config, load_config
from fxray.data.changes import HARDSHIPS
from fxray.data.dataset import Dataset
from fxray.data.synth.write import synthesise
from fxray.errors import ConfigError, DataError, FxrayError
from fxray.evaluate.predictions import Prediction, read_predictions, write_predictions
from fxray.launch import robustness
from fxray.launch.lease import hold
from fxray.launch.robustness import measure_robustness, read_numbers

CHANGES = [change for change in HARDSHIPS if change.name in ("crop-random", "resize-0.5", "noise-8")]


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """A run that SFT alone is finished of; figures, which have a test of their own, are not drawn."""
    synthesise(
        tmp_path / "data", num_train=2, num_validation=2, num_test=12, size_px=112, seed=3, progress=lambda *done: None
    )
    splits = {name: str(tmp_path / "data" / f"{name}.parquet") for name in ("train", "validation", "test")}
    (tmp_path / "data.json").write_text(json.dumps(splits | {"is_synthetic": True}))
    (tmp_path / "config.yaml").write_text(dump_config(load_config("tiny", ["evaluate.num_bootstrap=20"])))
    (tmp_path / "sft" / "adapter").mkdir(parents=True)
    policies = types.SimpleNamespace(use_policy=lambda folder, version: None)
    monkeypatch.setattr(robustness, "read_policy", lambda folder, version: types.SimpleNamespace(sha256="abc"))
    monkeypatch.setattr(robustness, "ray_cluster", lambda *given, **named: contextlib.nullcontext())
    monkeypatch.setattr(robustness, "open_policies", lambda *given: contextlib.nullcontext(policies))
    monkeypatch.setattr(
        "fxray.report.robustness.write_figure",
        lambda folder, name, *given: (folder / f"{name}.svg").write_text("<svg/>"),
    )
    return tmp_path


def answering(monkeypatch, *, fails_at=""):
    """A detector that knows the truth of what it is shown, boxes too; it says what it was asked."""
    asked = []

    def answer(policies, config, model_path, dataset, rows, name, on_event):
        if name == fails_at:
            raise RuntimeError("killed")
        asked.append(name)
        truth = [dataset.samples[row] for row in rows]
        return [Prediction(s.sample_id, s.annotation.verdict, s.annotation.regions) for s in truth]

    monkeypatch.setattr(robustness, "_answer", answer)
    return asked


def test_an_interrupted_measurement_goes_on_with_the_changes_that_are_missing(run_dir, monkeypatch):
    asked = answering(monkeypatch, fails_at="noise-8")
    with pytest.raises(RuntimeError, match="killed"):
        measure_robustness(run_dir, None, CHANGES, [])
    assert asked == ["original", "crop-random", "resize-0.5"]
    assert not list(run_dir.rglob("*.tmp"))
    asked = answering(monkeypatch)
    report = measure_robustness(run_dir, None, CHANGES, [])
    assert asked == ["noise-8"]
    assert [row.name for row in report.rows] == ["original", "crop-random", "resize-0.5", "noise-8"]
    assert all(row.cells[:2] == ("1.000 [1.000, 1.000]",) * 2 for row in report.rows)
    kept = read_predictions(report.folder / "resize-0.5" / "predictions.parquet")
    original = Dataset.open(run_dir / "data" / "test.parquet").samples
    for prediction, sample in zip(kept, original, strict=True):
        halved = [side / 2 for region in sample.annotation.regions for side in region.box]
        assert [side for region in prediction.regions for side in region.box] == pytest.approx(halved)
    asked = answering(monkeypatch)
    measure_robustness(run_dir, None, CHANGES[:1], [])
    assert asked == []
    monkeypatch.setattr(robustness, "read_policy", lambda folder, version: types.SimpleNamespace(sha256="other"))
    assert [row.name for row in measure_robustness(run_dir, None, CHANGES[:1], []).rows] == ["original", "crop-random"]


def test_an_image_that_is_too_long_for_a_change_is_told_before_anything_is_answered(run_dir, monkeypatch):
    asked = answering(monkeypatch)
    monkeypatch.setattr("fxray.data.changes.MAX_WEBP_SIDE_PX", 100)
    with pytest.raises(DataError, match="expected at most 100 a side in a WebP"):
        measure_robustness(run_dir, None, [*CHANGES, *(c for c in HARDSHIPS if c.name == "webp-30")], [])
    assert asked == []


def test_what_would_change_the_answers_is_refused_and_other_intervals_are_measured_anew(run_dir, monkeypatch):
    asked = answering(monkeypatch)
    measure_robustness(run_dir, None, CHANGES[:1], [])
    for override in ("model.max_pixels=50176", "data.view=no-bbox", "evaluate.max_new_tokens=9", "seed=1"):
        with pytest.raises(ConfigError, match=f"other values of {override.partition('=')[0]}"):
            measure_robustness(run_dir, None, CHANGES[:1], [override])
    measure_robustness(run_dir, None, CHANGES[:1], ["evaluate.num_bootstrap=30"])
    assert asked == 2 * ["original", "crop-random"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda numbers: numbers.pop("key"), "lacks 'key'"),
        (lambda numbers: numbers["key"].pop("commit"), "lacks 'commit'"),
        (lambda numbers: numbers.pop("num_real"), "lacks 'num_real'"),
        (lambda numbers: numbers["overall"].pop("iou"), "lacks 'iou'"),
        (lambda numbers: numbers["gain"]["metrics"]["iou"].pop("low"), "lacks 'low'"),
        (lambda numbers: numbers.update(overall=3), "is damaged: "),
    ],
)
def test_numbers_that_lack_something_are_told_with_their_place_and_what_to_do(run_dir, monkeypatch, change, said):
    answering(monkeypatch)
    file = measure_robustness(run_dir, None, CHANGES[:1], []).folder / CHANGES[0].name / "numbers.json"
    numbers = json.loads(file.read_text())
    change(numbers)
    file.write_text(json.dumps(numbers))
    with pytest.raises(DataError, match=said) as caught:
        measure_robustness(run_dir, None, CHANGES[:1], [])
    assert caught.value.where == str(file)
    assert f"delete the folder {file.parent}" in caught.value.remedy
    with pytest.raises(DataError, match=said):
        read_numbers(file.parent)


def test_a_run_that_somebody_works_on_is_left_alone(run_dir, monkeypatch):
    asked = answering(monkeypatch)
    with hold(run_dir), pytest.raises(FxrayError, match="another process"):
        measure_robustness(run_dir, None, CHANGES[:1], [])
    assert asked == []


def damage(run_dir, row):
    """Lets a row's image be none, and gives the samples of the test split."""
    path = run_dir / "data" / "test.parquet"
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[row] = b"not an image"
    column = table.schema.get_field_index("image")
    pq.write_table(table.set_column(column, table.schema.field(column), pa.array(images, pa.binary())), path)
    return Dataset.open(path).samples


@pytest.mark.parametrize("has_answers", [True, False])
def test_an_image_that_cannot_be_read_is_left_out_under_every_change_as_the_run_left_it_out(
    has_answers, run_dir, monkeypatch
):
    overrides = ["evaluate.num_bootstrap=20", "data.on_corrupt_image=skip"]
    (run_dir / "config.yaml").write_text(dump_config(load_config("tiny", overrides)))
    asked, notes, samples = answering(monkeypatch), [], damage(run_dir, 3)
    if has_answers:
        said = [Prediction(s.sample_id, s.annotation.verdict) for s in samples if s != samples[3]]
        write_predictions(said, run_dir / "evaluation" / "sft" / "predictions.parquet")
    report = measure_robustness(run_dir, None, CHANGES[:1], [], notes.append)
    assert asked == (["crop-random"] if has_answers else ["original", "crop-random"])
    for row in report.rows:
        numbers = json.loads((report.folder / row.name / "numbers.json").read_text())
        assert numbers["num_real"] + numbers["num_generated"] == 11
        kept = read_predictions(report.folder / row.name / "predictions.parquet")
        assert samples[3].sample_id not in {prediction.sample_id for prediction in kept}
    assert [note.text.startswith("left out: ") and "row 3 (sample" in note.text for note in notes] == [True]
    assert "num_images 11; " in (text := (report.folder / "robustness.md").read_text())
    assert "num_unreadable_images 1" in text
    asked.clear()
    measure_robustness(run_dir, None, CHANGES[:1], [])
    assert asked == []


def test_an_image_that_cannot_be_read_is_told_before_anything_is_answered(run_dir, monkeypatch):
    asked, _ = answering(monkeypatch), damage(run_dir, 3)
    with pytest.raises(DataError, match="no image Pillow knows") as caught:
        measure_robustness(run_dir, None, CHANGES[:1], [])
    assert "row 3 (sample" in caught.value.where
    assert asked == []


def test_answers_to_some_of_the_images_are_not_taken_for_all(run_dir, monkeypatch):
    asked, samples = answering(monkeypatch), Dataset.open(run_dir / "data" / "test.parquet").samples
    said = [Prediction(s.sample_id, s.annotation.verdict) for s in samples[:6]]
    write_predictions(said, run_dir / "evaluation" / "sft" / "predictions.parquet")
    measure_robustness(run_dir, None, CHANGES[:1], [])
    assert asked == ["original", "crop-random"]
