import subprocess
import sys
from pathlib import Path

import pytest

HOOK = Path(__file__).resolve().parents[2] / "fxray" / "torchvision_hook.py"


def distribution(site: Path, name: str, release: str, **files: str) -> None:
    (site / name).mkdir()
    (site / name / "__init__.py").write_text("")
    (site / f"{name}-{release}.dist-info").mkdir()
    for file, text in files.items():
        (site / name / f"{file}.py").write_text(text)


def ask(site: Path, question: str) -> str:
    """What a fresh interpreter answers that has nothing but `site` and the hook."""
    code = f"import sys; sys.path.insert(0, {str(site)!r}); exec(open({str(HOOK)!r}).read())\n{question}"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


IS_HIDDEN = "import torch, importlib.util; print(importlib.util.find_spec('torchaudio') is None)"


@pytest.mark.parametrize(
    ("cuda", "torchaudio", "is_hidden"),
    [("None", "2.11.0", True), ("None", "2.11.0+cpu", False), ("'13.0'", "2.11.0", False)],
)
def test_torchaudio_looks_absent_where_its_build_does_not_fit(tmp_path, cuda, torchaudio, is_hidden):
    distribution(tmp_path, "torch", "2.13.0", version=f"from typing import Optional\ncuda: Optional[str] = {cuda}\n")
    distribution(tmp_path, "torchaudio", torchaudio)
    assert ask(tmp_path, IS_HIDDEN) == str(is_hidden)


def test_hidden_libraries_raise_what_importers_catch(tmp_path):
    distribution(tmp_path, "torch", "2.13.0", version="cuda = None\n")
    distribution(tmp_path, "torchcodec", "0.17.0")
    assert ask(tmp_path, "import torch, torchcodec").startswith("ModuleNotFoundError")


def test_nothing_happens_without_torch(tmp_path):
    assert ask(tmp_path, "import json; print(json.dumps(1))") == "1"
    assert ask(tmp_path, "import torch") == "ModuleNotFoundError: No module named 'torch'"


def test_an_interpreter_pays_for_no_heavy_module(tmp_path):
    heavy = {"pathlib", "typing", "re", "contextlib", "importlib.util", "torch"}
    assert ask(tmp_path, f"print({heavy} & set(sys.modules))") == "set()"


@pytest.mark.slow
def test_torchvision_imports_in_a_child_of_a_child():
    inner = "import torchvision, torchvision.transforms.v2; print(torchvision.__version__)"
    outer = f"import subprocess, sys; print(subprocess.run([sys.executable, '-c', {inner!r}]).returncode)"
    done = subprocess.run([sys.executable, "-c", outer], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "0"
