"""Folders of dead drivers go, those of living ones and of strangers stay."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fxray.errors import ResourceError
from fxray.launch import leftovers
from fxray.launch.leftovers import clear_leftovers, own_folder

DRIVER = """
import sys, time
from pathlib import Path
from fxray.launch import leftovers
leftovers.PARENT = Path(sys.argv[1])
with leftovers.own_folder() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(leftovers, "PARENT", tmp_path)
    return tmp_path


def test_what_a_killed_driver_left_goes_with_the_next_start(parent: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(parent)], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    left = Path(driver.stdout.readline().strip())
    assert (left / "owner").read_text().startswith(f"pid {driver.pid} on ")
    with own_folder() as mine:
        assert left.is_dir()
        assert clear_leftovers() == []
    driver.kill()
    driver.wait(30)
    with own_folder() as mine:
        assert not left.exists()
        assert mine.is_dir()
    assert list(parent.iterdir()) == []


def test_what_ray_made_again_after_it_was_cleared_away_goes(parent: Path) -> None:
    for name in ("fxray-empty", "fxray-used"):
        session = parent / name / "session_2026-11-27_18-29-54_357544_15577"
        (session / "logs" / "old").mkdir(parents=True)
        (parent / name / "session_latest").symlink_to(session)
    (session / "logs" / "raylet.out").touch()
    assert clear_leftovers() == [parent / "fxray-empty"]
    assert [path.name for path in parent.iterdir()] == ["fxray-used"]


def test_what_is_not_provably_ours_stays(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (parent / "fxray-somebody").mkdir()
    (parent / "fxray-link").symlink_to(parent / "other")
    (parent / "other").mkdir()
    (parent / "other" / "owner").touch()
    assert clear_leftovers() == []
    (parent / "fxray-user").mkdir()
    (parent / "fxray-user" / "owner").touch()
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    assert clear_leftovers() == []
    monkeypatch.undo()
    monkeypatch.setattr(leftovers, "PARENT", parent)
    assert clear_leftovers() == [parent / "fxray-user"]


def test_a_disk_without_room_for_ray_is_said(parent: Path, no_room: Callable[[], AbstractContextManager[None]]) -> None:
    with no_room(), pytest.raises(ResourceError, match=r"/fxray-.*: cannot be written"), own_folder():
        pass
    assert list(parent.iterdir()) == []
