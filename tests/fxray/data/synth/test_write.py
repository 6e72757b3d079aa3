"""The synthetic datasets as files."""

from collections import Counter
from pathlib import Path

import pytest

from fxray.data.check.check import check
from fxray.data.check.rules import Severity
from fxray.data.dataset import Dataset
from fxray.data.synth.families import FAMILIES
from fxray.data.synth.write import synthesise
from fxray.schema import Verdict


def _write(out_dir: Path, seed: int) -> None:
    synthesise(out_dir, num_train=40, num_validation=4, num_test=20, size_px=168, seed=seed, progress=lambda *_: None)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        _write(tmp_path / name, seed)
    for split in ("train", "validation", "test"):
        content = [(tmp_path / name / f"{split}.parquet").read_bytes() for name in "abc"]
        assert content[0] == content[1] != content[2]


def test_splits_are_balanced_and_share_no_photograph(tmp_path: Path) -> None:
    _write(tmp_path, 0)
    sources = []
    for split in ("train", "validation", "test"):
        opened = Dataset.open(tmp_path / f"{split}.parquet")
        assert check([opened.path]).severities()[Severity.ERROR] == 0
        labels = Counter(sample.annotation.verdict for sample in opened.samples)
        assert labels[Verdict.REAL] == labels[Verdict.GENERATED]
        sources.append({sample.source for sample in opened.samples})
    assert len(set.union(*sources)) == sum(map(len, sources))
    train = Counter(sample.generator for sample in Dataset.open(tmp_path / "train.parquet").samples)
    assert train == {"real": 20} | {family.name: 2 for family in FAMILIES}


@pytest.mark.parametrize("seed", range(3))
def test_the_smallest_size_that_may_be_asked_for_is_made(tmp_path, seed):
    synthesise(
        tmp_path, num_train=40, num_validation=4, num_test=4, size_px=56, seed=seed, progress=lambda *_: None
    )  # fmt: skip
    assert {sample.width_px for sample in Dataset.open(tmp_path / "train.parquet").samples} == {56}
