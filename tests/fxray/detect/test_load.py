"""What is known of a detector before its engine starts."""

import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file

from fxray.config.load import load_config
from fxray.detect.load import describe_detector
from fxray.model.folder import resolve_model_path


def test_base_models_of_one_name_and_other_weights_or_precision_are_other_detectors(tmp_path: Path) -> None:
    paths = [tmp_path / version / "merged" for version in ("v1", "v2", "copy")]
    for path in paths:
        shutil.copytree(resolve_model_path("tiny"), path)
    file = paths[1] / "model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    first, second, copy = (
        describe_detector(load_config("tiny", [f"model.path={path}"]), None).summary() for path in paths
    )
    assert first == copy
    assert {name for name in first if first[name] != second[name]} == {"base_fingerprint"}
    half = load_config("tiny", [f"model.path={paths[0]}", "model.dtype=bfloat16", "rollout.probe_tolerance_nats=0.1"])
    assert describe_detector(half, None).summary() == first | {"dtype": "bfloat16"}
