"""Files of a configuration are looked at before anything is trained on them."""

from pathlib import Path

import pytest

from fxray.data.dataset import Row, write_dataset
from fxray.errors import DataError
from fxray.launch.data import Splits, refuse_shared_samples
from fxray.schema import Annotation, Sample, Verdict


def splits_of(folder: Path, train: str, validation: str, test: str) -> Splits:
    """A dataset each, one row per letter."""
    paths = []
    for name, ids in (("train", train), ("validation", validation), ("test", test)):
        rows = [Row(Sample(i, 56, 56, Annotation(Verdict.REAL), "real", "cat", i), b"-") for i in ids]
        paths.append(folder / f"{name}.parquet")
        write_dataset(paths[-1], rows)
    return Splits(*paths, is_synthetic=False)


def test_what_trains_is_not_what_is_scored(tmp_path: Path) -> None:
    refuse_shared_samples(splits_of(tmp_path, "abc", "de", "fgd"))
    with pytest.raises(
        DataError, match=r"validation.parquet row 1: .* 1 samples .*train.parquet too, such as 'c' in its row 2"
    ):
        refuse_shared_samples(splits_of(tmp_path, "abc", "dc", "e"))
    with pytest.raises(
        DataError, match=r"test.parquet row 0: .* 2 samples .*train.parquet too, such as 'b' in its row 1"
    ):
        refuse_shared_samples(splits_of(tmp_path, "abc", "d", "ba"))


def test_all_three_must_be_there(tmp_path: Path) -> None:
    splits = splits_of(tmp_path, "a", "b", "c")
    splits.test.unlink()
    with pytest.raises(DataError, match="no such dataset file"):
        refuse_shared_samples(splits)
