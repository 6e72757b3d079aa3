"""The prompts of a step whose images are changed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fxray.config.load import load_config
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.grpo.types import ImageRef, PromptGroup, SeenImage, Visit
from fxray.launch.prompts import PromptSource
from fxray.schema import Annotation, Box, Region, Sample, Verdict

NUM_ROWS = 32
MOVED = Annotation(Verdict.GENERATED, (Region(Box(1.0, 2.0, 3.0, 4.0), "moved"),))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    truth = Annotation(Verdict.GENERATED, (Region(Box(5.0, 6.0, 7.0, 8.0), "as it is"),))
    rows = [Row(Sample(f"s{i}", 112, 112, truth, "squares", "cat", f"p{i}"), b"-") for i in range(NUM_ROWS)]
    write_dataset(tmp_path / "a.parquet", rows)
    return Dataset.open(tmp_path / "a.parquet")


class Store:
    """Moves the regions of what is to be changed, and makes it smaller."""

    def __init__(self, dataset: Dataset) -> None:
        self._samples, self.asked = dataset.samples, list[Visit]()

    def fetch(self, visits: Sequence[Visit]) -> list[SeenImage | None]:
        self.asked += visits
        return [
            SeenImage(
                ImageRef(b"-", 1),
                None if visit.change_key is None else replace(self._samples[visit.row], width_px=56, annotation=MOVED),
            )
            for visit in visits
        ]


def drawn(dataset: Dataset, model_dir: Path, *overrides: str, steps: int = 2) -> tuple[list[Visit], list[PromptGroup]]:
    store = Store(dataset)
    source = PromptSource(
        dataset, store.fetch, load_config("tiny", [*overrides, "grpo.prompts_per_step=16"]), model_dir
    )
    return store.asked, [group for step in range(steps) for group in source.of_step("alpha", step)]


def test_images_of_a_share_are_asked_for_changed_and_their_truth_moves_with_them(dataset, random_model_dir):
    asked, groups = drawn(dataset, random_model_dir, "grpo.augment_share=0.5", steps=4)  # two epochs
    assert len({visit.change_key for visit in asked} - {None}) == sum(visit.change_key is not None for visit in asked)
    assert 20 <= sum(visit.change_key is not None for visit in asked) <= 44
    for visit, group in zip(asked, groups, strict=True):
        caption = "as it is" if visit.change_key is None else "moved"
        assert [region.caption for region in group.annotation.regions] == [caption]
        assert group.frame.width_px == (112 if visit.change_key is None else 56)
    again, _ = drawn(dataset, random_model_dir, "grpo.augment_share=0.5", steps=4)
    assert again == asked


def test_changed_images_are_asked_about_in_the_words_that_they_would_be_asked_about_in_as_they_are(
    dataset, random_model_dir
):
    _, plain = drawn(dataset, random_model_dir)
    asked, changed = drawn(dataset, random_model_dir, "grpo.augment_share=1")
    assert all(visit.change_key is not None for visit in asked)
    assert [(each.group_id, each.prompt, each.seed) for each in plain] == [
        (each.group_id, each.prompt, each.seed) for each in changed
    ]


def test_by_default_and_in_evaluation_images_are_asked_about_as_they_are(dataset, random_model_dir):
    asked, _ = drawn(dataset, random_model_dir)
    assert [visit.change_key for visit in asked] == [None] * 32
    store = Store(dataset)
    PromptSource(dataset, store.fetch, load_config("tiny", ["grpo.augment_share=1"]), random_model_dir).of_rows([3, 1])
    assert store.asked == [Visit(3), Visit(1)]
