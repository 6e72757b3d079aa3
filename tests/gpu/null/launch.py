"""Runs a command on the null GPU, which is built first: `python tests/gpu/null/launch.py -m pytest tests/gpu --null`.

It wants PyTorch's CUDA build (`make test-null-gpu` puts one into a folder of its own), a C compiler and `nm`.
"""

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import torch

HERE = Path(__file__).parent
TORCH = Path(torch.__file__).parent
PACKAGES = TORCH.parent
PREFIXES = ("cuda", "cu", "cublas", "nccl", "__cudaLaunch", "__cudaGetKernel")
OF_THE_REAL_ONES = ("cuFile", "cufft", "cusparse", "cusolver", "curand", "cudnn", "cudss", "cupti")
"""Libraries that work, or are not called, without a driver."""
TELLING = {
    "cudaGetErrorName",
    "cudaGetErrorString",
    "cudaRuntimeGetVersion",
    "cublasLtGetVersion",
    "cublasGetStatusString",
}
TELLING |= {"ncclGetErrorString", "ncclGetLastError"}
"""What gives text or a version, and needs no driver either."""
OF_TRITON = {"cuCtxGetLimit", "cuCtxSetLimit", "cuCtxSetCurrent", "cuFuncSetCacheConfig", "cuLaunchKernelEx", "cuInit"}
OF_TRITON |= {"cuOccupancyMaxActiveClusters", "cuMemSetAccess", "cuMemAddressFree"}
"""Names of the driver that are first wanted while something runs."""


def main() -> None:
    if len(sys.argv) == 1:
        raise SystemExit(__doc__)
    if not torch.version.cuda:
        raise SystemExit(f"{TORCH} is no CUDA build of PyTorch; `make test-null-gpu` brings one")
    if lacking := [tool for tool in ("cc", "nm") if shutil.which(tool) is None]:
        raise SystemExit(f"the null GPU is built with {' and '.join(lacking)}: install a C compiler and binutils")
    if "libcuda.so.1" in os.environ.get("LD_PRELOAD", ""):
        run(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="fxray-null-gpu-") as name:
        folder = Path(name)
        library = build(folder)
        for link in ("libcuda.so", "libnvidia-ml.so.1"):
            (folder / link).symlink_to(library)
        told = {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": name, "TRITON_LIBCUDA_PATH": name}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=os.environ | told, check=False).returncode)


def run(command: list[str]) -> NoReturn:
    """Runs what Python would, and ends at once: PyTorch's threads do not end by themselves without a GPU."""
    status: object = 0
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        status = end.code
    except Exception:  # noqa: BLE001  shown, as Python does
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1 if status else 0)


def build(folder: Path) -> Path:
    """Compiles the library, and returns its path."""
    own = HERE / "null_gpu.c"
    library, rest = folder / "libcuda.so.1", folder / "rest.c"
    includes = [f"-I{PACKAGES / part}" for part in ("nvidia/cu13/include", "triton/backends/nvidia/include")]
    compiler = ["cc", "-w", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", str(library), *includes]
    subprocess.run([*compiler, str(own), "-ldl", "-lpthread"], check=True)
    missing = (wanted() | OF_TRITON) - defined(library)
    rest.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(missing)))
    subprocess.run([*compiler, str(own), str(rest), "-ldl", "-lpthread"], check=True)
    return library


def wanted() -> set[str]:
    """Names that PyTorch's libraries, and those of vLLM's CUDA build where it comes first, want of CUDA's."""
    vllm = find_spec("vllm")
    folders = [Path(folder) for folder in (vllm.submodule_search_locations or () if vllm else ())]
    found = {
        name
        for library in [*(TORCH / "lib").glob("lib*.so"), *(file for folder in folders for file in folder.glob("*.so"))]
        for name in symbols(library, "--undefined-only")
        if name.startswith(PREFIXES) and not name.startswith(OF_THE_REAL_ONES)
    }
    return found - TELLING


def defined(library: Path) -> set[str]:
    return symbols(library, "--defined-only")


def symbols(library: Path, which: str) -> set[str]:
    listed = subprocess.run(["nm", "-D", which, str(library)], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in listed.splitlines()}


if __name__ == "__main__":
    main()
