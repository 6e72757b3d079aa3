"""Answers that cannot be learnt are told before SFT begins, all at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.data.order import rows_of_step
from fxray.errors import DataError
from fxray.events import Event, OnEvent, PhaseDone, Step, ignore
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict
from fxray.sft import answers
from fxray.sft.answers import learnable_rows, refuse_unlearnable
from fxray.sft.settings import SftSettings

TOO_LONG = (1, 4, 5, 9, 10, 11, 12)


@pytest.fixture
def long_settings(settings: SftSettings, tmp_path: Path) -> SftSettings:
    """Of 16 rows without readable images, seven with captions of many words in two regions."""
    rows = []
    for row in range(16):
        caption = "Tail bent the wrong way " * (40 if row in TOO_LONG else 1)
        regions = (Region(Box(0, 0, 28, 28), "Ear"), Region(Box(0, 0, 56, 56), caption.strip()))
        annotation = Annotation(Verdict.GENERATED, regions, (Tag.STRUCTURE,))
        rows.append(Row(Sample(f"cat-{row}", 56, 56, annotation, "squares", "cat", f"photo-{row}"), b"-"))
    write_dataset(tmp_path / "train.parquet", rows)
    return replace(
        settings,
        dataset_path=str(tmp_path / "train.parquet"),
        batch_size=4,
        num_workers=1,
        epochs=1,
        max_steps=0,
        max_answer_tokens=256,
        on_long_answer="error",
    )


def refuse(settings: SftSettings, on_event: OnEvent) -> None:
    refuse_unlearnable(Dataset.open(Path(settings.dataset_path)), settings, on_event)


def test_all_answers_that_are_too_long_are_counted_and_the_first_named(long_settings: SftSettings) -> None:
    with pytest.raises(DataError, match="7 of 16 answers cannot be learnt") as caught:
        refuse(long_settings, ignore)
    message = caught.value.message
    assert [row for row in TOO_LONG if f"sample cat-{row}: the answer has" in message] == list(TOO_LONG[:5])
    assert message.endswith("256 are allowed (sft.max_answer_tokens); and 2 more")
    assert caught.value.where == long_settings.dataset_path
    assert caught.value.remedy.count("sft.on_long_answer=drop-regions") == 1


def test_rows_whose_answers_can_be_learnt_are_known_beforehand(long_settings: SftSettings) -> None:
    dataset = Dataset.open(Path(long_settings.dataset_path))
    assert learnable_rows(dataset, [2, 4, 3, 12, 0], long_settings) == [2, 3, 0]


@pytest.mark.parametrize("remedy", [{"max_answer_tokens": 2048}, {"on_long_answer": "drop-regions"}])
def test_its_remedies_are_ones(long_settings: SftSettings, remedy: dict[str, object]) -> None:
    with pytest.raises(DataError):
        refuse(long_settings, ignore)
    refuse(replace(long_settings, **remedy), ignore)


@pytest.mark.parametrize("bound", [{"max_steps": 2}, {"epochs": 0.5}])
def test_rows_that_are_not_drawn_may_be_of_any_length(long_settings: SftSettings, bound: dict[str, object]) -> None:
    drawn = replace(long_settings, **bound)
    steps = [rows_of_step(drawn.seed, "sft", num_rows=16, batch_size=4, step=step) for step in (0, 1)]
    num_too_long = sum(row in TOO_LONG for step in steps for _, row in step)
    assert 0 < num_too_long < len(TOO_LONG)
    with pytest.raises(DataError, match=f"{num_too_long} of 8 answers cannot"):
        refuse(drawn, ignore)


def test_what_takes_long_is_told(long_settings: SftSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Event] = []
    monkeypatch.setattr(answers, "_EVERY", 8)
    fits = replace(long_settings, max_answer_tokens=2048)
    refuse(fits, told.append)
    assert told == []
    monkeypatch.setattr(answers, "SILENT_S", -1.0)
    refuse(fits, told.append)
    assert told[:2] == [Step("sft answers", 8, 16), Step("sft answers", 16, 16)]
    assert [type(event) for event in told[2:]] == [PhaseDone]
