"""Random checkpoints of real shapes."""

import filecmp
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedConfig

from fxray.errors import ConfigError, ResourceError
from fxray.model import random
from fxray.model.folder import refuse_unless_model, resolve_model_path
from fxray.model.images import load_image_processor
from fxray.model.load import load_model
from fxray.model.prompts import load_tokenizer
from fxray.model.random import shape_config, weights, write_random_model


def write(out_dir: Path, **changes: int) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    arguments = {"num_layers": 1, "seed": 0} | changes
    write_random_model(out_dir, "qwen2.5-vl-3b", progress=lambda *each: told.append(each), **arguments)
    return told


@pytest.mark.parametrize(
    ("like", "num_parameters"),
    [
        ("qwen2.5-vl-3b", 3_754_622_976),
        ("qwen2.5-vl-7b", 8_292_166_656),
        ("qwen2.5-vl-32b", 33_452_718_336),
        ("qwen3-vl-2b", 2_127_532_032),
        ("qwen3-vl-4b", 4_437_815_808),
        ("qwen3-vl-8b", 8_767_123_696),
        ("qwen3-vl-32b", 33_357_390_064),
    ],
)
def test_a_shape_has_as_many_parameters_as_the_published_model(like: str, num_parameters: int) -> None:
    assert sum(math.prod(tensor.shape) for tensor in weights(shape_config(like))) == num_parameters


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three billion's widths, one layer deep, in small shards."""
    folder = tmp_path_factory.mktemp("random") / "3b-1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "SHARD_BYTES", 2**28)
        told = write(folder)
    assert (
        told[-1][0]
        == told[-1][1]
        == sum(tensor.num_bytes for tensor in weights(shape_config("qwen2.5-vl-3b", num_layers=1)))
    )
    return folder


def test_its_index_names_every_weight_and_where_it_lies(small: Path) -> None:
    index = json.loads((small / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 1
    size = 0
    for shard in shards:
        with safe_open(small / shard, "pt") as file:
            assert set(file.keys()) == {name for name, where in index["weight_map"].items() if where == shard}
            size += sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert size == index["metadata"]["total_size"]


def test_it_loads_whole_with_the_tiny_tokenizer_and_processor(small: Path) -> None:
    folder = resolve_model_path(str(small))
    model = load_model(folder, dtype="bfloat16")
    assert model.config.text_config.hidden_size == 2048
    assert model.config.image_token_id == load_tokenizer(folder).convert_tokens_to_ids("<|image_pad|>")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    matrix = model.model.language_model.layers[0].mlp.gate_proj.weight.float()
    assert matrix.std().item() == pytest.approx(0.02, rel=0.01)
    assert torch.equal(model.model.language_model.norm.weight, torch.ones(2048, dtype=torch.bfloat16))
    assert load_image_processor(folder, min_pixels=3136, max_pixels=12544).patch_size == 14


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_few_tokens(like: str, *, num_layers: int | None) -> PreTrainedConfig:
        config = shape_config(like, num_layers=num_layers)
        config.text_config.vocab_size = 8192  # the published number makes four fifths of the weights
        return config

    monkeypatch.setattr(random, "shape_config", of_few_tokens)
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        write(tmp_path / name, seed=seed)
    files = {name: tmp_path / name / "model-00001-of-00001.safetensors" for name in ("first", "again", "other")}
    assert filecmp.cmp(files["first"], files["again"], shallow=False)
    with safe_open(files["first"], "pt") as first, safe_open(files["other"], "pt") as other:
        name = next(name for name in first.keys() if name.endswith("qkv.weight"))  # noqa: SIM118
        assert not torch.equal(first.get_tensor(name), other.get_tensor(name))


def test_an_unknown_shape_and_a_full_disk_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no shape 'qwen3'.*\n.*qwen2.5-vl-3b"):
        write_random_model(tmp_path / "out", "qwen3", num_layers=None, seed=0, progress=lambda *_: None)
    monkeypatch.setattr(random.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(ResourceError, match=r"do not fit into 0\.0 GB"):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.long
def test_writing_needs_little_memory(tmp_path: Path) -> None:
    """What writing adds to the imports is a small part of the weights, whatever these weigh."""
    code = (
        "import sys; from pathlib import Path; from fxray.model.random import write_random_model as write\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) * 1024\n"
        "before, sizes = peak(), []\n"
        "write(Path(sys.argv[1]), 'qwen2.5-vl-3b', num_layers=3, seed=0, progress=lambda *each: sizes.append(each))\n"
        "print(sizes[-1][1], before, peak())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    num_bytes, before, peak = map(int, done.stdout.split())
    assert num_bytes > 1e9
    assert peak - before < num_bytes / 8
    assert peak < 900e6


def test_a_folder_that_is_no_model_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ConfigError, match="nothing was changed"):
        write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["letters.txt"]


def test_only_a_model_as_fxray_writes_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    shutil.copytree(resolve_model_path("tiny"), own)
    refuse_unless_model(own)
    refuse_unless_model(tmp_path / "absent")
    with monkeypatch.context() as there:
        there.chdir(own)
        with pytest.raises(ConfigError, match="in which the command runs"):
            refuse_unless_model(Path())
    trained = shutil.copytree(own, tmp_path / "trained")
    tokenizer = json.loads((trained / "tokenizer.json").read_text())
    tokenizer["added_tokens"].pop()
    (trained / "tokenizer.json").write_text(json.dumps(tokenizer))
    (own / "training_args.bin").write_text("of somebody else")
    program = tmp_path / "program"
    program.mkdir()
    (program / "config.json").write_text('{"port": 80}')
    refused = (own, "holds training_args.bin"), (program, "model_type is None"), (trained, "tokenizer is another")
    for other, reason in refused:
        with pytest.raises(ConfigError, match=rf"{reason}.*\n.*nothing was changed"):
            write(other)
    assert {file.name for file in program.iterdir()} == {"config.json"}
