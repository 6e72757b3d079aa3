"""What the two kinds of policy keep."""

import shutil
from pathlib import Path

from fxray.model.load import load_model
from fxray.model.policy import make_policy


def test_a_trained_model_takes_over_what_is_no_weights_of_the_base(random_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(random_model_dir, tmp_path / "base")
    for name in ("optimizer.pt", "pytorch_model.bin", "model.gguf", "training_args.bin", "README.md"):
        (folder / name).write_text("not for a trained model")
    belongs = {"LICENSE", "vocab.json", "merges.txt", "special_tokens_map.json"}
    for name in belongs:
        (folder / name).write_text("of the base")
    policy = make_policy(
        lambda dtype: load_model(folder, dtype=dtype), folder,
        dtype="float32", lora_rank=0, lora_alpha=0, lora_dropout=0, seed=0,
    )  # fmt: skip
    files = policy.to_files({name: parameter.detach() for name, parameter in policy.parameters.items()})
    assert files.keys() == {file.name for file in random_model_dir.iterdir() if file.suffix != ".md"} | belongs
