"""Tensors of a file, read one at a time."""

import pytest
import torch
from safetensors.torch import save_file

from fxray.model.tensors import opened_tensors


def test_tensors_of_a_file_are_read_by_name(tmp_path):
    written = {"exp_avg.a": torch.randn(3, 2), "step": torch.tensor(4.0)}
    save_file(written, tmp_path / "state.safetensors")
    with opened_tensors(tmp_path / "state.safetensors") as tensors:
        assert tensors.keys() == written.keys()
        assert all(torch.equal(tensors[name], written[name]) for name in tensors)
        assert len(tensors) == 2
        with pytest.raises(KeyError):
            tensors["exp_avg.b"]
