"""Lets torchvision be imported beside CPU torch, and hides torchaudio and torchcodec builds that cannot load there.

The public wheels of the three are CUDA builds. With CPU torch, `import torchvision` dies with "operator
torchvision::nms does not exist", and importing the other two raises an OSError that transformers and vLLM do not catch.
fxray needs torchvision's Python part alone (the processor of Qwen2.5-VL imports it), and neither of the others.

`fxray_torchvision_hook.pth` installs the hook when an interpreter starts, so that it also works in the processes of Ray
and vLLM; `import fxray` would come too late there. It costs one look at each import of a top-level module until
torch's family is first asked for, and changes nothing where torch is a CUDA build or the libraries load.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

TRIGGERS = frozenset(("torch", "torchvision", "torchaudio", "torchcodec", "transformers", "vllm"))
HIDDEN = ("torchaudio", "torchcodec")


class TorchFamilyFinder:
    """Sees the first import of each of torch's family; it finds nothing itself."""

    def __init__(self) -> None:
        self._is_cpu: bool | None = None

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Prepares torch's family on the way past; always None."""
        if name not in TRIGGERS:
            return None
        if self._is_cpu is None:
            self._is_cpu = is_cpu_torch()
            if self._is_cpu:
                hide_cuda_builds()
        if name == "torchvision" and self._is_cpu:
            declare_missing_operators()
        return None


def install() -> None:
    """Puts the finder in front, once per interpreter."""
    if not any(isinstance(finder, TorchFamilyFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchFamilyFinder())


def is_cpu_torch() -> bool:
    """True where the installed torch is built without CUDA; read from its version file, without importing it."""
    spec = PathFinder.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        lines = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(line.startswith("cuda") and line.endswith("= None") for line in lines)


def hide_cuda_builds() -> None:
    """Makes torchaudio and torchcodec look absent where their build does not fit CPU torch."""
    for name in HIDDEN:
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin is not None and not _is_cpu_build(name, Path(spec.origin).parent.parent):
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def _is_cpu_build(name: str, site: Path) -> bool:
    return sys.platform != "linux" or any(site.glob(f"{name}-*+cpu.dist-info"))


def declare_missing_operators() -> None:
    """Declares the two operators that torchvision registers at import, where its own library does not load."""
    import torch

    spec = PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch, "_fxray_torchvision"):
        return
    for library in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return
    fragment: Any = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        fragment.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch._fxray_torchvision = fragment  # type: ignore[attr-defined]  # it must outlive this call


install()
