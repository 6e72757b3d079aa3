import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
HOOK = {"fxray_torchvision_hook.pth", "fxray_torchvision_hook.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", folder, TOP], check=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def tracked(*patterns):
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=TOP, capture_output=True, text=True, check=True)
    return {line for line in listed.stdout.splitlines() if "torchvision_hook" not in line}


@pytest.mark.slow
def test_the_wheel_holds_the_three_packages_the_configs_the_assets_and_the_hook(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert tracked("fxray", "actors", "rewards") <= names
    assert {f"fxray/{name}" for name in tracked("configs")} <= names
    assert names >= HOOK
    assert "fxray/assets/tiny/model.safetensors" in names
    tops = {name.split("/")[0] for name in names}
    assert tops - {"fxray", "actors", "rewards", *HOOK} == {top for top in tops if top.endswith(".dist-info")}
    assert sum(info.file_size for info in zipfile.ZipFile(wheel).infolist()) < 20 * 2**20


@pytest.mark.slow
def test_an_unpacked_wheel_finds_its_own_configurations(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from fxray.config.load import load_config, shipped_folder\n"
        "from fxray.config.limits import check\n"
        "print(shipped_folder()); print(check(load_config('smoke')))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [str(tmp_path / "fxray" / "configs"), "[]"]


def test_no_host_of_a_registry_is_written_down():
    files = tracked("pyproject.toml", "Makefile", "scripts", "constraints", ".ci", "configs", "*.md", "*.yaml")
    for name in files:
        text = (TOP / name).read_text(errors="replace")
        assert not [word for word in ("pypi.", "download.pytorch", "index-url=http", "/simple") if word in text], name
