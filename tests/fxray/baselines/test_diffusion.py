"""AEROBLADE and DIRE, with tiny random models of diffusers, from folders as these write them."""

import errno
import os
import shutil
import tempfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fxray.baselines import aeroblade, dire
from fxray.baselines.aeroblade import Aeroblade
from fxray.baselines.dire import Dire
from fxray.baselines.measure import PREDICTIONS, Job, measure
from fxray.baselines.pictures import Pictures
from fxray.baselines.ports import Settings
from fxray.baselines.registry import find
from fxray.baselines.run import run_baselines
from fxray.baselines.split import is_generated
from fxray.data.dataset import Dataset
from fxray.errors import ConfigError, ModelError, ResourceError
from fxray.evaluate.evaluation import evaluate
from fxray.evaluate.predictions import read_predictions
from fxray.events import ignore

WEIGHTS = "diffusion_pytorch_model.safetensors"
SHAPE = {"block_out_channels": (4, 8), "norm_num_groups": 2, "layers_per_block": 1}


def write_autoencoder(folder, seed):
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(**SHAPE, **blocks, latent_channels=2).save_pretrained(folder)


@pytest.fixture(scope="module")
def autoencoders(tmp_path_factory):
    """A folder of two: one by itself, one in a pipeline."""
    folder = tmp_path_factory.mktemp("autoencoders")
    write_autoencoder(folder / "one", 1)
    write_autoencoder(folder / "two" / "vae", 2)
    return folder


@pytest.fixture(scope="module")
def diffusion_model(tmp_path_factory):
    from diffusers import UNet2DModel

    folder = tmp_path_factory.mktemp("unet")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    UNet2DModel(sample_size=32, **SHAPE, **blocks).save_pretrained(folder)
    return folder


def scores(baseline, images):
    return np.array([answer.score for answer in baseline.predict(images)])


def test_the_smallest_loss_of_all_autoencoders_counts(autoencoders, toy_sets):
    dataset = Dataset.open(toy_sets[1])
    images = Pictures(dataset, range(8))
    folders = [autoencoders / "one", autoencoders / "two"]
    one, two, both = (Aeroblade(Settings(0, weights=folder)) for folder in (*folders, autoencoders))
    assert both.num_parameters == one.num_parameters + two.num_parameters
    seen = [list(baseline._distances(images)) for baseline in (one, two, both)]
    assert np.allclose(seen[2], np.minimum(seen[0], seen[1]))
    steps = []
    both.fit(images, None, None, lambda *told: steps.append(told[:2]))
    assert steps[-1] == (8, 8)
    found = scores(both, images)
    assert np.array_equal(np.argsort(found), np.argsort(seen[2])[::-1])  # the less is lost, the more generated
    assert np.median(found) == pytest.approx(0.5, abs=0.02)


def test_the_loss_is_that_of_what_the_autoencoder_makes_of_the_image(autoencoders, toy_sets):
    from diffusers import AutoencoderKL

    images = Pictures(Dataset.open(toy_sets[1]), range(2))
    model = AutoencoderKL.from_pretrained(autoencoders / "one")
    image = torch.tensor(images.pixels(1)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        again = model(image).sample.clamp(-1, 1)  # deterministic: the mode of the latent
    expected = (image - again).square().mean().item()
    assert list(Aeroblade(Settings(0, weights=autoencoders / "one"))._distances(images))[1] == pytest.approx(expected)


def test_features_of_vgg_are_compared_where_its_weights_lie_there(tmp_path, toy_sets):
    write_autoencoder(tmp_path, 1)
    widths = ((3, 64), (64, 64), (64, 128), (128, 128))
    names = [f"features.{number}" for number in aeroblade._CONVOLUTIONS]
    weights = {f"{name}.weight": torch.randn(o, i, 3, 3) / i for name, (i, o) in zip(names, widths, strict=True)}
    biases = {f"{name}.bias": torch.zeros(o) for name, (_, o) in zip(names, widths, strict=True)}
    save_file(weights | biases, tmp_path / aeroblade.VGG)
    distance, num_parameters = aeroblade._lpips(tmp_path / aeroblade.VGG, torch.device("cpu"))
    assert num_parameters == 260_160  # VGG-16's first four convolutions
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    assert distance(image, image) == 0
    assert 0 < distance(image, -image) < 4  # of unit vectors
    images = Pictures(Dataset.open(toy_sets[1]), range(2))
    assert all(0 < score < 1 for score in scores(Aeroblade(Settings(0, weights=tmp_path)), images))
    save_file(weights, tmp_path / aeroblade.VGG)
    with pytest.raises(ModelError, match="no weights of VGG-16"):
        Aeroblade(Settings(0, weights=tmp_path))


def test_dire_learns_from_what_does_not_come_back(diffusion_model, toy_sets, tmp_path, monkeypatch):
    monkeypatch.setattr(dire, "NUM_STEPS", 2)
    monkeypatch.setitem(dire._RECIPES, "small", dire.Recipe(6, 16, 2e-3))
    train, test = toy_sets
    settings = Settings(0, weights=diffusion_model)
    measure(Job(find(["dire"])[0], settings, train, test, tmp_path / "dire", {"seed": 0}, {}), ignore)
    said = read_predictions(tmp_path / "dire" / PREDICTIONS)
    evaluation = evaluate(said, Dataset.open(test).samples, num_bootstrap=20, seed=0, has_boxes=False)
    assert evaluation.overall.metrics["balanced_accuracy"].value >= 0.9


def test_what_dire_keeps_on_disk_has_no_name_and_its_room_is_taken_before_the_first_image(
    diffusion_model, toy_sets, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(dire, "NUM_STEPS", 1)
    dataset = Dataset.open(toy_sets[0])
    images, steps, found = Pictures(dataset, range(8)), [], []

    def on_step(done, num, loss):
        steps.append(done)
        found.extend(tmp_path.iterdir())

    baseline, labels_N = Dire(Settings(0, weights=diffusion_model)), is_generated(dataset.samples[:8])
    baseline.fit(images, labels_N, None, on_step)
    assert steps[:8] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found == []
    steps.clear()

    def refuse(descriptor, offset, num_bytes):
        assert num_bytes == 8 * 32 * 32 * 3
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(ResourceError, match=r"no room for 0\.0 MiB .*: No space left on device") as refused:
        baseline.fit(images, labels_N, None, on_step)
    assert "TMPDIR" in refused.value.remedy
    assert steps == []


def test_an_image_goes_to_noise_and_back_as_diffusers_has_it(diffusion_model, toy_sets):
    from diffusers import DDIMInverseScheduler, DDIMScheduler, UNet2DModel

    baseline = Dire(Settings(0, weights=diffusion_model))
    pixels = Pictures(Dataset.open(toy_sets[1]), range(2)).pixels(1)
    model = UNet2DModel.from_pretrained(diffusion_model)
    image = torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    again = image
    with torch.no_grad():
        for kind in (DDIMInverseScheduler, DDIMScheduler):
            schedule = kind(num_train_timesteps=1000, beta_schedule="linear")
            schedule.set_timesteps(20)
            for step in schedule.timesteps:
                again = schedule.step(model(again, step).sample, step, again).prev_sample
    expected = (image - again.clamp(-1, 1)).abs()[0].permute(1, 2, 0).numpy() * 127.5
    np.testing.assert_allclose(baseline.difference(pixels), expected, atol=1.01)


def test_what_is_missing_or_of_another_kind_is_refused(autoencoders, diffusion_model, toy_sets, tmp_path):
    train, test = toy_sets
    assert not {"dire", "aeroblade"} & {entry.name for entry in find([])}
    assert "dire" in {entry.name for entry in find([], with_weights=["dire"])}
    with pytest.raises(ConfigError, match="dire is nothing without a model of diffusers") as refused:
        run_baselines(find(["dire"]), Settings(0), {}, train=train, test=test, out=tmp_path / "out", versions={})
    assert "--weights dire=PATH" in refused.value.remedy
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="holds no UNet2DModel, but AutoencoderKL"):
        Dire(Settings(0, weights=autoencoders / "one"))
    shutil.copytree(diffusion_model, tmp_path / "thin")
    kept = load_file(tmp_path / "thin" / WEIGHTS)
    del kept["conv_in.weight"]
    save_file(kept, tmp_path / "thin" / WEIGHTS)
    with pytest.raises(ModelError, match=r"1 weight of UNet2DModel missing or misshapen, conv_in\.weight"):
        Dire(Settings(0, weights=tmp_path / "thin"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no AutoencoderKL"):
        Aeroblade(Settings(0, weights=tmp_path / "empty"))


@pytest.mark.parametrize("shape", [{}, {"sample_size": 32, "num_class_embeds": 3}])
def test_a_diffusion_model_without_a_size_or_with_classes_is_refused(tmp_path, shape):
    from diffusers import UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    UNet2DModel(**shape, **SHAPE, **blocks).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="give an unconditional diffusion model"):
        Dire(Settings(0, weights=tmp_path))
