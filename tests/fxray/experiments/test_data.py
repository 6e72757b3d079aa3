"""The folds of an experiment."""

from fxray.data.dataset import Dataset
from fxray.events import ignore
from fxray.experiments.data import fold_file, fold_names, prepare_fold, prepare_splits
from fxray.experiments.experiment import SplitSettings


def test_a_generator_that_is_spelled_in_two_ways_is_held_out_as_one(two_spellings):
    settings, out = SplitSettings(scheme="leave-one-generator-out"), two_spellings.out
    config = two_spellings.configure(())
    assert fold_names(settings, config) == ["BigGAN", "DiT", "SD 1.4", "VAR"]
    prepare_fold(settings, "SD 1.4", prepare_splits(config, out, ignore), out, 0, ignore)
    files = [fold_file(out, settings, "SD 1.4", name) for name in ("train", "test")]
    trained, tested = ({sample.generator for sample in Dataset.open(file).samples} for file in files)
    assert (trained, tested) == ({"BigGAN", "DiT", "VAR", "real"}, {"SD 1.4", "sd-1.4", "real"})
