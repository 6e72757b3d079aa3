"""The folds of an experiment."""

import dataclasses

import pytest

from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import DataError
from fxray.events import ignore
from fxray.experiments.data import fold_file, fold_names, prepare_fold, prepare_splits
from fxray.experiments.experiment import SplitSettings, load_experiment
from fxray.experiments.reproduce import reproduce


def test_a_generator_that_is_spelled_in_two_ways_is_held_out_as_one(two_spellings):
    settings, out = SplitSettings(scheme="leave-one-generator-out"), two_spellings.out
    config = two_spellings.configure(())
    assert fold_names(settings, config) == ["BigGAN", "DiT", "SD 1.4", "VAR"]
    prepare_fold(settings, "SD 1.4", prepare_splits(config, out, ignore), out, 0, ignore)
    files = [fold_file(out, settings, "SD 1.4", name) for name in ("train", "test")]
    trained, tested = ({sample.generator for sample in Dataset.open(file).samples} for file in files)
    assert (trained, tested) == ({"BigGAN", "DiT", "VAR", "real"}, {"SD 1.4", "sd-1.4", "real"})


@pytest.mark.parametrize("names", [["table2"], ["table4", "table2"], ["table4"]])
def test_an_image_that_folds_lack_is_told_before_anything_is_trained(names, setting, splits, tmp_path, fake_launch):
    dataset, launch = Dataset.open(splits["validation"]), fake_launch()
    images = [b"not an image" if row == 5 else dataset.image_bytes(row) for row in range(len(dataset))]
    write_dataset(tmp_path / "validation.parquet", map(Row, dataset.samples, images))
    skips = [f"data.validation={tmp_path}/validation.parquet", "data.on_corrupt_image=skip"]
    skipping = dataclasses.replace(setting, configure=lambda more: setting.configure([*skips, *more]))
    experiments = {name: load_experiment(name) for name in names}
    if "table2" not in names:
        assert not reproduce(experiments, skipping, launch=launch.port)["table4"].failures
        return
    with pytest.raises(DataError, match="no image Pillow knows") as caught:
        reproduce(experiments, skipping, launch=launch.port)
    assert caught.value.where == f"{tmp_path}/validation.parquet row 5 (validation-5)"
    assert "folds need every image, whatever data.on_corrupt_image says" in caught.value.remedy
    assert launch.trained == []
