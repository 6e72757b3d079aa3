"""What SFT says before it starts; the job itself is in tests/fxray/sft."""

import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from fxray.config.load import load_config
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import DataError
from fxray.events import Note, Step, ignore
from fxray.launch import sft
from fxray.launch.evaluation import rows_to_answer
from fxray.launch.run import RunDirectory, open_run
from fxray.metrics import read_metrics
from fxray.schema import Annotation, Box, Region, Sample, Verdict
from fxray.sft import answers
from fxray.sft.settings import SftSettings


@pytest.fixture
def all_learnable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "refuse_unlearnable", lambda *_: None)


@pytest.mark.usefixtures("all_learnable")
@pytest.mark.parametrize(("templates", "num_warnings"), [("by-class", 1), ("shared", 0)])
def test_a_training_with_templates_by_class_warns_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, templates: str, num_warnings: int
) -> None:
    told: list[Note] = []
    monkeypatch.setattr(sft, "run_sft", lambda *_, **__: told.append(Note("started")))
    session = SimpleNamespace(
        config=load_config("tiny", [f"data.templates={templates}"]),
        run=RunDirectory(tmp_path),
        splits=SimpleNamespace(train=tmp_path, open=lambda _: None),
        model_path=tmp_path,
        phase=lambda *_: nullcontext(),
        on_event=told.append,
    )
    sft.train_sft(session)
    assert [note.is_warning for note in told] == [True] * num_warnings + [False]


@pytest.mark.usefixtures("all_learnable")
def test_an_sft_that_is_done_leaves_no_one_writing_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "run_sft", lambda *_, on_event, **__: on_event(Step("sft", 1, 1, {"loss": 1.0})))
    session = SimpleNamespace(
        config=load_config("tiny"),
        run=RunDirectory(tmp_path),
        splits=SimpleNamespace(train=tmp_path, open=lambda _: None),
        model_path=tmp_path,
        phase=lambda *_: nullcontext(),
        on_event=ignore,
    )
    before = set(threading.enumerate())
    sft.train_sft(session)
    assert set(threading.enumerate()) <= before
    assert [step.metrics for step in read_metrics(tmp_path)] == [{"loss": 1.0}]


def test_answers_that_are_too_long_end_a_run_before_it_has_begun_and_it_takes_a_higher_bound(
    tmp_path: Path, random_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    monkeypatch.setattr(sft, "run_sft", lambda settings, **_: trained.append(settings.max_answer_tokens))
    write_dataset(tmp_path / "a.parquet", [Row(Sample("a", 56, 56, Annotation(Verdict.REAL), "real", "cat", "a"), b"")])

    def train(max_answer_tokens: int) -> None:
        config = load_config("tiny", [f"sft.max_answer_tokens={max_answer_tokens}"])
        with open_run(tmp_path / "run", config) as run:
            session = SimpleNamespace(
                config=config,
                run=run,
                splits=SimpleNamespace(train=tmp_path / "a.parquet", open=Dataset.open),
                model_path=random_model_dir,
                phase=lambda *_: nullcontext(),
                on_event=ignore,
            )
            sft.train_sft(session)

    with pytest.raises(DataError, match="1 of 1 answer cannot be learnt: sample a: the answer has"):
        train(16)
    train(300)
    assert trained == [300]


def test_held_out_answers_that_cannot_be_taught_are_left_out_and_told(
    tmp_path: Path, random_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, jobs = list[str](), list[SftSettings]()
    monkeypatch.setattr(sft, "run_sft", lambda settings, **_: jobs.append(settings))
    long = Annotation(Verdict.GENERATED, (Region(Box(0, 0, 28, 28), "Ear " + "bent " * 400),))
    for name, truths in {"train": [Annotation(Verdict.REAL)] * 4, "val": [Annotation(Verdict.REAL), long] * 3}.items():
        samples = [Sample(f"{name}{i}", 56, 56, truth, "real", "cat", name) for i, truth in enumerate(truths)]
        write_dataset(tmp_path / f"{name}.parquet", [Row(sample, b"") for sample in samples])

    def train(*overrides: str) -> SftSettings:
        session = SimpleNamespace(
            config=load_config("tiny", overrides),
            run=RunDirectory(tmp_path / "run"),
            splits=SimpleNamespace(
                train=tmp_path / "train.parquet", validation=tmp_path / "val.parquet", open=Dataset.open
            ),
            model_path=random_model_dir,
            phase=lambda *_: nullcontext(),
            on_event=lambda event: told.append(event.text),
        )
        sft.train_sft(session)
        return jobs[-1]

    plain, validated = train(), train("evaluate.validate_every_steps=5")
    assert (plain.validation_rows, told) == (
        (),
        ["validation on the way leaves out 3 samples of val.parquet whose answers cannot be taught"],
    )
    assert (validated.validation_path, validated.validation_rows) == (str(tmp_path / "val.parquet"), (0, 2, 4))
    assert validated.validate_every_steps == 5
    assert validated.identity() == plain.identity()
    few = train("evaluate.validate_every_steps=5", "evaluate.validation_samples=3").validation_rows
    assert few == tuple(row for row in rows_to_answer(6, 3) if row % 2 == 0)
