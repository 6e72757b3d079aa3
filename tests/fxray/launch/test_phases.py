"""How far a run is trained, and which split is answered, without training anything."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from fxray.config.load import load_config
from fxray.config.schedule import load_stages
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import CheckpointError, ConfigError, DataError
from fxray.launch import phases
from fxray.launch.data import Splits
from fxray.launch.run import RunDirectory


@pytest.fixture
def done(tmp_path, splits, monkeypatch):
    """What a run does, in order."""
    said = []
    run = RunDirectory(tmp_path)
    files = Splits(splits["train"], splits["validation"], splits["test"], is_synthetic=False)
    session = SimpleNamespace(run=run, stages=load_stages("paper"), splits=files)

    @contextmanager
    def open_session(config, run_dir, on_event):
        yield session

    @contextmanager
    def open_fleet(session, answered):
        said.append(f"engines for {answered.stem}")
        yield SimpleNamespace(hire_learner=lambda: said.append("learner"))

    def answer(session, fleet, name, split="test"):
        if not run.predictions(name, split).exists():
            said.append(f"{split} after {name}")
            run.predictions(name, split).parent.mkdir(parents=True, exist_ok=True)
            run.predictions(name, split).touch()

    def train_stage(session, fleet, stage):
        if not run.stage_adapter(stage.name).is_dir():
            said.append(stage.name)
            run.stage_adapter(stage.name).mkdir(parents=True)

    for name, fake in (("open_session", open_session), ("open_fleet", open_fleet), ("train_stage", train_stage)):
        monkeypatch.setattr(phases, name, fake)
    monkeypatch.setattr(phases, "train_sft", lambda session: said.append("sft"))
    monkeypatch.setattr(phases, "_answer", answer)
    return SimpleNamespace(said=said, session=session, folder=tmp_path)


def test_a_run_that_is_trained_up_to_a_phase_answers_the_validation_split_alone(done):
    config = load_config("tiny")
    phases.train_until(config, done.folder, "sft")
    assert done.said == ["sft", "engines for validation", "validation after sft"]
    done.said.clear()
    phases.train_until(config, done.folder, "beta")
    assert done.said == [
        "sft",
        "engines for validation",
        "learner",
        "alpha",
        "validation after alpha",
        "beta",
        "validation after beta",
    ]
    done.said.clear()
    phases.train_until(config, done.folder, "alpha")
    assert done.said == ["sft"]


def test_a_stage_whose_stage_before_is_not_done_is_refused_before_anything_starts(done):
    config = load_config("tiny")
    done.session.run.sft_adapter.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="stage beta starts from stage alpha, which is not done"):
        phases.run_grpo_stage(config, done.folder, "beta")
    assert done.said == []
    (done.session.run.stage_dir("beta") / "step-000002").mkdir(parents=True)
    phases.run_grpo_stage(config, done.folder, "beta")  # goes on, wherever alpha has gone
    assert "beta" in done.said


def test_what_is_no_phase_or_no_other_split_is_refused(done):
    config = load_config("tiny")
    with pytest.raises(ConfigError, match="delta"):
        phases.train_until(config, done.folder, "delta")
    splits = done.session.splits
    done.session.splits = Splits(splits.train, splits.test, splits.test, is_synthetic=False)
    with pytest.raises(DataError, match="in the test split"):
        phases.train_until(config, done.folder, "sft")
    assert done.said == []


def test_an_adapter_that_cannot_be_read_is_told_before_anything_starts(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "ray_cluster", lambda *args, **kwargs: pytest.fail("a cluster was started"))
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        phases.evaluate_adapter(load_config("tiny"), tmp_path / "none", splits["test"], tmp_path / "out.parquet")
    assert caught.value.where == str(tmp_path / "none")


def test_images_that_a_moved_file_left_behind_are_told_before_anything_starts(splits, tmp_path, monkeypatch):
    def start(*args, **kwargs):
        raise RuntimeError("a cluster is started")

    monkeypatch.setattr(phases, "ray_cluster", start)
    monkeypatch.setattr(phases, "resolve_model_path", lambda path: tmp_path)
    samples, moved = Dataset.open(splits["test"]).samples[:3], tmp_path / "moved.parquet"
    (tmp_path / "0.png").touch()
    write_dataset(moved, [Row(sample, image_path=f"{number}.png") for number, sample in enumerate(samples)])
    told = r"^.*moved.parquet row 1 field image_path: .*1.png is not there; 2 images are missing of 3\n  remedy: .*$"
    with pytest.raises(DataError, match=told):
        phases.evaluate_adapter(load_config("tiny"), None, moved, tmp_path / "out.parquet")
    skip = load_config("tiny", ["data.on_corrupt_image=skip"])
    for config, data in ((skip, moved), (load_config("tiny"), splits["test"])):
        with pytest.raises(RuntimeError, match="a cluster is started"):
            phases.evaluate_adapter(config, None, data, tmp_path / "out.parquet")


@pytest.mark.parametrize("what", ["skip", "error"])
def test_an_image_that_cannot_be_read_is_left_out_of_answers_where_the_configuration_says_so(
    what, splits, tmp_path, monkeypatch
):
    asked, notes, bad = [], [], DataError("cannot be read", where="row 3", remedy="put the image there")
    policies = SimpleNamespace(generator=None, batch_size=8, publisher=None)
    monkeypatch.setattr(phases, "ray_cluster", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(phases, "open_policies", lambda *args: nullcontext(policies))
    monkeypatch.setattr(phases, "resolve_model_path", lambda path: tmp_path)
    monkeypatch.setattr(phases, "image_fetcher", lambda config, data, model_path, on_bad, on_event: on_bad)
    monkeypatch.setattr(phases, "PromptSource", lambda dataset, fetch, config, path: fetch)
    monkeypatch.setattr(phases, "answer_split", lambda generator, fetch, *rest, **named: fetch(bad) or [])
    monkeypatch.setattr(phases, "write_predictions", lambda said, out, **named: asked.append(out))
    config, out = load_config("tiny", [f"data.on_corrupt_image={what}"]), tmp_path / "out.parquet"
    one_remedy = r"^row 3: cannot be read\n  remedy: put the image there, or set data.on_corrupt_image=skip to.*$"
    refused = pytest.raises(DataError, match=one_remedy) if what == "error" else nullcontext()
    with refused:
        phases.evaluate_adapter(config, None, splits["test"], out, lambda event: notes.append(event.text))
    assert (asked, notes) == (([out], ["left out: row 3: cannot be read"]) if what == "skip" else ([], []))
