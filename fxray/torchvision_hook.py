"""Lets torchvision be imported beside CPU torch, and hides torchaudio and torchcodec builds that cannot load there.

The public wheels of the three are CUDA builds. With CPU torch, `import torchvision` dies with "operator
torchvision::nms does not exist", and importing the other two raises an OSError that transformers and vLLM do not catch.
fxray needs torchvision's Python part alone (the processor of Qwen2.5-VL imports it), and neither of the others.

Installed as `fxray_torchvision_hook`, which a `.pth` file imports when an interpreter starts, so that it also works in
the processes of Ray and vLLM; `import fxray` would come too late there. Nothing changes where torch is a CUDA build or
the libraries load. Only what Python itself has already loaded is imported here: every interpreter of the environment
pays for it.
"""

import os
import sys
from importlib.machinery import PathFinder

TRIGGERS = frozenset(("torch", "torchvision", "torchaudio", "torchcodec", "transformers", "vllm"))
HIDDEN = ("torchaudio", "torchcodec")


class TorchFamilyFinder:
    """Sees the first import of each of torch's family; it finds nothing itself."""

    is_cpu: bool | None = None

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002
        """Prepares torch's family on the way past."""
        if name not in TRIGGERS:
            return
        if self.is_cpu is None:
            self.is_cpu = is_cpu_torch()
            if self.is_cpu:
                hide_cuda_builds()
        if name == "torchvision" and self.is_cpu:
            declare_missing_operators()


def install() -> None:
    """Puts the finder in front, once per interpreter."""
    if not any(isinstance(finder, TorchFamilyFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchFamilyFinder())


def package_folder(name: str) -> str | None:
    """Where a package lies, without importing it."""
    spec = PathFinder.find_spec(name)
    return os.path.dirname(spec.origin) if spec is not None and spec.origin else None


def is_cpu_torch() -> bool:
    """True where the installed torch is built without CUDA, by its version file."""
    folder = package_folder("torch")
    try:
        with open(os.path.join(folder or "", "version.py"), encoding="utf-8") as file:
            return any(line.startswith("cuda") and line.rstrip().endswith("= None") for line in file)
    except OSError:
        return False


def hide_cuda_builds() -> None:
    """Makes torchaudio and torchcodec look absent where their build does not fit CPU torch."""
    for name in HIDDEN:
        folder = package_folder(name)
        if folder is not None and not _is_cpu_build(name, os.path.dirname(folder)):
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def _is_cpu_build(name: str, site: str) -> bool:
    is_tagged = any(entry.startswith(f"{name}-") and "+cpu" in entry for entry in os.listdir(site))
    return sys.platform != "linux" or is_tagged


def declare_missing_operators() -> None:
    """Declares the two operators that torchvision registers at import, where its own library does not load."""
    import torch

    folder = package_folder("torchvision")
    if folder is None or hasattr(torch, "_fxray_torchvision"):
        return
    for entry in os.listdir(folder):
        if not entry.startswith("_C."):
            continue
        try:
            torch.ops.load_library(os.path.join(folder, entry))
        except OSError:
            continue
        return
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        fragment.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch._fxray_torchvision = fragment  # type: ignore[attr-defined]  # it must outlive this call


install()
