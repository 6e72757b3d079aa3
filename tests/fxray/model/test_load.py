import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fxray.errors import ModelError
from fxray.model.folder import base_fingerprint, resolve_model_path, weights_fingerprint
from fxray.model.images import load_image_processor
from fxray.model.load import load_model, placeholder_ids
from fxray.model.prompts import load_tokenizer


@pytest.fixture
def copy(random_model_dir, tmp_path):
    return shutil.copytree(random_model_dir, tmp_path / "copy")


def test_a_folder_resolves_to_itself(random_model_dir):
    assert resolve_model_path(str(random_model_dir)) == random_model_dir


@pytest.mark.parametrize("name", ["nobody/no-such-model", "not a name", "/nowhere/at/all"])
def test_what_is_not_on_this_machine_is_refused(name):
    with pytest.raises(ModelError, match="is neither a folder nor a model in the local cache"):
        resolve_model_path(name)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "processor_config.json"])
def test_a_missing_file_is_named(copy, name):
    for file in copy.glob(f"*{name}"):
        file.unlink()
    with pytest.raises(ModelError, match=name):
        resolve_model_path(str(copy))


def test_a_missing_shard_is_named(copy):
    (copy / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    with pytest.raises(ModelError, match="model-00001-of-00002"):
        resolve_model_path(str(copy))


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "version https://git-lfs.github.com/spec/v1"],
)
def test_a_damaged_list_of_shards_is_named(copy, text):
    (copy / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json is no list of weight files"):
        resolve_model_path(str(copy))


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize("text", ["", '{"model": {', "version https://git-lfs.github.com/spec/v1"])
def test_a_damaged_tokenizer_or_processor_is_named_before_anything_reads_it(copy, name, text):
    (copy / name).write_text(text)
    with pytest.raises(ModelError, match=rf"{name}: is not readable JSON: .*\n.*fetch the model again"):
        resolve_model_path(str(copy))


@pytest.mark.parametrize(("text", "words"), [('{"model_type": "llama"}', "'llama'"), ("{", "not JSON"), ("[]", "None")])
def test_another_kind_of_model_is_refused(copy, text, words):
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        resolve_model_path(str(copy))


def test_quantised_weights_are_refused(copy):
    config = json.loads((copy / "config.json").read_text()) | {
        "quantization_config": {"quant_method": "awq", "bits": 4}
    }
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="holds quantised weights"):
        resolve_model_path(str(copy))


def test_the_fingerprint_tells_models_apart(copy, random_model_dir):
    assert base_fingerprint(copy) == base_fingerprint(random_model_dir)
    weights = {name: tensor + 1 for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert base_fingerprint(copy) != base_fingerprint(random_model_dir)


def test_models_that_differ_between_their_first_and_last_tensors_are_told_apart_by_weights(copy, random_model_dir):
    assert weights_fingerprint(copy) == weights_fingerprint(random_model_dir)
    weights = {
        name: tensor + 1 if ".layers." in name and name.endswith("proj.weight") else tensor
        for name, tensor in load_file(copy / "model.safetensors").items()
    }
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert weights_fingerprint(copy) != weights_fingerprint(random_model_dir)


def test_weights_that_are_no_file_have_no_fingerprint_and_say_so(copy):
    (copy / "model-2.safetensors").mkdir()
    with pytest.raises(ModelError, match=r"model-2\.safetensors: cannot be read: Is a directory"):
        weights_fingerprint(copy)


def test_a_weight_file_whose_copy_was_cut_off_is_named_with_its_bytes(copy):
    whole = (copy / "model.safetensors").read_bytes()
    num_bytes = len(whole) - 8 - int.from_bytes(whole[:8], "little")
    for missing in (1, num_bytes // 2):
        (copy / "model.safetensors").write_bytes(whole[:-missing])
        words = rf"is cut off.* holds {num_bytes - missing} bytes of tensors and announces {num_bytes}\n.*fetch"
        with pytest.raises(ModelError, match=words):
            resolve_model_path(str(copy))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1", bytes([2, *[0] * 7]) + b"[]"])
def test_weights_that_are_something_else_are_named(copy, content):
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors: is cut off, or no safetensors file"):
        resolve_model_path(str(copy))


def test_a_damaged_weight_file_is_named(copy):
    (copy / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(ModelError, match=r"model\.safetensors: is not a safetensors file"):
        base_fingerprint(copy)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(copy, dtype="float32")


def test_missing_weights_are_refused(copy):
    weights = load_file(copy / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("blocks.0.attn.qkv.weight"))]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weight is missing or misshapen, model\.visual\.blocks\.0\.attn\.qkv"):
        load_model(copy, dtype="float32")


def test_stored_halves_load_in_the_type_that_is_asked_for(random_model_dir):
    assert {t.dtype for t in load_file(random_model_dir / "model.safetensors").values()} == {torch.float16}
    for dtype in ("float32", "bfloat16"):
        model = load_model(random_model_dir, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
        assert not any(p.requires_grad for p in model.parameters())


def test_image_bounds_are_those_that_are_asked_for(random_model_dir):
    processor = load_image_processor(random_model_dir, min_pixels=28 * 28, max_pixels=56 * 56)
    assert (processor.size.shortest_edge, processor.size.longest_edge) == (28 * 28, 56 * 56)


def test_placeholders_are_the_tokens_of_the_vocabulary(random_model_dir):
    tokenizer = load_tokenizer(random_model_dir)
    expected = set(tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"]))
    assert placeholder_ids(load_model(random_model_dir, dtype="float32").config) == expected


def test_patches_are_embedded_as_the_convolution_would(random_model_dir):
    embedding = load_model(random_model_dir, dtype="float32").model.visual.patch_embed.proj
    patches = torch.randn(12, 3, 2, 14, 14, generator=torch.Generator().manual_seed(0))

    convolved = torch.nn.Conv3d.forward(embedding, patches)

    torch.testing.assert_close(embedding(patches), convolved.flatten(1), rtol=1e-5, atol=1e-5)


def test_a_path_that_is_a_pattern_to_vllm_is_refused_before_anything_starts(copy):
    for name in ("base[1]", "best?", "a*"):
        folder = copy.rename(copy.with_name(name))
        with pytest.raises(ModelError, match=r"has \*, \? or \[ in its path"):
            resolve_model_path(str(folder))
        copy = folder
