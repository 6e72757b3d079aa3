"""Architectures are those of the papers: counts of parameters, names of weights, what goes in."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fxray.baselines.classifier import in_batches
from fxray.baselines.dmd import build_network
from fxray.baselines.npr import NprNet, up_sampling_residual
from fxray.baselines.ports import Settings
from fxray.baselines.segformer import Segformer
from fxray.baselines.segmenter import mask_loss
from fxray.baselines.training import rate_frac
from fxray.baselines.vit import Vit, build_config
from fxray.baselines.weights import load_weights
from fxray.errors import ModelError


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_npr_has_the_parameters_of_its_public_code():
    # convolutions and norms of the stem, three blocks of 64 and four of 128, shortcuts, and a linear layer of 512 to 1
    stem = 3 * 64 * 9 + 2 * 64

    def block(num_in, width):
        return num_in * width + 9 * width**2 + 4 * width**2 + 2 * (width + width + 4 * width)

    first = block(64, 64) + 64 * 256 + 2 * 256 + 2 * block(256, 64)
    second = block(256, 128) + 256 * 512 + 2 * 512 + 3 * block(512, 128)
    assert count(NprNet()) == stem + first + second + 512 + 1 == 1_437_761


def test_the_published_dmd_is_a_resnet_50_with_one_logit():
    with torch.device("meta"):
        network = build_network("published")
        assert count(network) == 25_557_032 - 1000 * 2049 + 2049  # torchvision's, with another head
        seen = network.maxpool(network.conv1(torch.zeros(1, 3, 96, 96)))
    assert seen.shape[-2:] == (96, 96)  # nothing strides before the second stage


def test_the_published_vit_is_vit_small():
    config = build_config("published")
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (384, 12, 6)
    assert (config.intermediate_size, config.patch_size, config.image_size) == (1536, 16, 384)


def test_the_up_sampling_residual_is_that_of_the_public_code():
    image = torch.rand(2, 3, 8, 6)
    halved = torch.nn.functional.interpolate(image, scale_factor=0.5, mode="nearest", recompute_scale_factor=True)
    again = torch.nn.functional.interpolate(halved, scale_factor=2, mode="nearest", recompute_scale_factor=True)
    assert torch.equal(up_sampling_residual(image), image - again)
    assert not up_sampling_residual(halved.repeat_interleave(2, 2).repeat_interleave(2, 3)).any()
    assert up_sampling_residual(torch.rand(1, 3, 7, 5)).shape == (1, 3, 6, 4)


def test_the_mask_loss_is_least_where_the_mask_is_right_and_dice_skips_images_without_one():
    target = torch.zeros(2, 4, 4)
    target[0, :2] = 1
    right = mask_loss(20 * target - 10, target)
    assert right < 0.01
    assert mask_loss(10 - 20 * target, target) > 10
    only_real = mask_loss(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))
    assert only_real == pytest.approx(0.6931, abs=1e-3)


def test_the_learning_rate_rises_and_falls_to_nothing():
    rates = [rate_frac(step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[99] < 0.001
    assert sorted(rates[5:], reverse=True) == rates[5:]


def test_weights_come_from_safetensors_and_another_architecture_is_refused(tmp_path):
    network, other = build_network("small"), build_network("small")
    save_file({f"module.{name}": tensor for name, tensor in network.state_dict().items()}, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors", new="fc")
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    )
    with pytest.raises(ModelError, match=r"weights do not fit, such as conv1.weight: \(8, 3, 7, 7\), expected \(64,"):
        load_weights(NprNet(), tmp_path / "w.safetensors", new="fc1")
    (tmp_path / "bad.pth").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ModelError, match="safetensors"):
        load_weights(network, tmp_path / "bad.pth", new="fc")


def test_weights_without_counts_of_batches_fit(tmp_path):
    network, other = build_network("small"), build_network("small")
    weights = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert len(weights) < len(network.state_dict())
    save_file(weights, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors", new="fc")
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in weights.items())


def test_a_folder_starts_a_network_of_its_own_size_and_one_of_another_kind_is_refused(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTForImageClassification(ViTConfig(**shape, image_size=24, patch_size=8, num_labels=10))
    model.save_pretrained(tmp_path)
    vit = Vit(Settings(0, weights=tmp_path))
    assert vit.num_parameters == count(model) - 9 * 17  # one logit in place of ten
    loaded = dict(vit._network.model.named_parameters())
    kept = [name for name, _ in model.named_parameters() if not name.startswith("classifier")]
    assert all(torch.equal(loaded[name], dict(model.named_parameters())[name]) for name in kept)
    with pytest.raises(ModelError, match="cannot be loaded"):
        Segformer(Settings(0, weights=tmp_path))


def test_a_vit_of_images_that_are_two_numbers_is_refused(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTForImageClassification(ViTConfig(**shape, image_size=[24, 24], patch_size=8)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"image_size is \[24, 24\], expected one number"):
        Vit(Settings(0, weights=tmp_path))


def test_large_images_are_answered_alone_and_small_ones_together():
    sizes = [(8, 8)] * 18 + [(8, 9)] + [(1500, 1500)] * 3
    batches = list(in_batches(np.zeros((*size, 3), np.uint8) for size in sizes))
    assert [len(batch) for batch in batches] == [16, 2, 1, 1, 1, 1]
    assert [pixels.shape[:2] for batch in batches for pixels in batch] == sizes
