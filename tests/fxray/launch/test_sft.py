"""What SFT says before it starts; the job itself is in tests/fxray/sft."""

import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from fxray.config.load import load_config
from fxray.events import Note, Step, ignore
from fxray.launch import sft
from fxray.launch.run import RunDirectory
from fxray.metrics import read_metrics


@pytest.mark.parametrize(("templates", "num_warnings"), [("by-class", 1), ("shared", 0)])
def test_a_training_with_templates_by_class_warns_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, templates: str, num_warnings: int
) -> None:
    told: list[Note] = []
    monkeypatch.setattr(sft, "run_sft", lambda *_, **__: told.append(Note("started")))
    session = SimpleNamespace(
        config=load_config("tiny", [f"data.templates={templates}"]),
        run=RunDirectory(tmp_path),
        splits=SimpleNamespace(train=tmp_path),
        model_path=tmp_path,
        phase=lambda *_: nullcontext(),
        on_event=told.append,
    )
    sft.train_sft(session)
    assert [note.is_warning for note in told] == [True] * num_warnings + [False]


def test_an_sft_that_is_done_leaves_no_one_writing_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "run_sft", lambda *_, on_event, **__: on_event(Step("sft", 1, 1, {"loss": 1.0})))
    session = SimpleNamespace(
        config=load_config("tiny"),
        run=RunDirectory(tmp_path),
        splits=SimpleNamespace(train=tmp_path),
        model_path=tmp_path,
        phase=lambda *_: nullcontext(),
        on_event=ignore,
    )
    before = set(threading.enumerate())
    sft.train_sft(session)
    assert set(threading.enumerate()) <= before
    assert [step.metrics for step in read_metrics(tmp_path)] == [{"loss": 1.0}]
