"""The prompts of a step, where images cannot be read and the configuration lets them be left out."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fxray.config.load import load_config
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.data.order import rows_of_step
from fxray.grpo.types import ImageRef, SeenImage, Visit
from fxray.launch.prompts import MOST_BATCHES, PromptSource
from fxray.schema import Annotation, Sample, Verdict

NUM_ROWS = 24


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    samples = [Sample(f"s{i}", 56, 56, Annotation(Verdict.REAL), "real", "cat", f"p{i}") for i in range(NUM_ROWS)]
    write_dataset(tmp_path / "a.parquet", [Row(sample, b"-") for sample in samples])
    return Dataset.open(tmp_path / "a.parquet")


def drawn(dataset: Dataset, model_dir: Path, batch_size: int, bad: set[int], step: int) -> list[tuple[str, str]]:
    """Ids of groups and samples."""

    def fetch(visits: Sequence[Visit]) -> list[SeenImage | None]:
        return [None if visit.row in bad else SeenImage(ImageRef(b"-", 1)) for visit in visits]

    config = load_config("tiny", [f"grpo.prompts_per_step={batch_size}"])
    groups = PromptSource(dataset, fetch, config, model_dir).of_step("alpha", step)
    assert len({group.seed for group in groups}) == len(groups)
    return [(group.group_id, group.sample_id) for group in groups]


def rows_of(batch_size: int, step: int) -> list[int]:
    visits = rows_of_step(0, "alpha", num_rows=NUM_ROWS, batch_size=batch_size, step=step)
    return [row for _, row in visits]


def test_an_image_that_is_left_out_makes_its_step_smaller(dataset: Dataset, random_model_dir: Path) -> None:
    first, second, third = rows_of(3, 2)
    assert drawn(dataset, random_model_dir, 3, {second}, 2) == [
        ("alpha/2/0", f"s{first}"),
        ("alpha/2/2", f"s{third}"),
    ]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_step_of_which_nothing_is_left_takes_the_rows_after_it(
    dataset: Dataset, random_model_dir: Path, batch_size: int
) -> None:
    bad = {row for step in (2, 3) for row in rows_of(batch_size, step)}
    taken = [(f"alpha/2/{i}", f"s{row}") for i, row in enumerate(rows_of(batch_size, 4))]
    assert drawn(dataset, random_model_dir, batch_size, bad, 2) == taken


def test_a_disk_that_is_gone_is_not_asked_for_every_image(dataset: Dataset, random_model_dir: Path) -> None:
    bad = {row for step in range(MOST_BATCHES) for row in rows_of(1, step)}
    assert drawn(dataset, random_model_dir, 1, bad, 0) == []
