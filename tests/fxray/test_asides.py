"""What processes that were killed while they wrote a folder leave is cleared away or put back by the next."""

import fcntl
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from fxray.asides import clear_all_abandoned
from fxray.files import atomic_dir, write_atomically

FILLING = """
import platform, sys, time
from pathlib import Path
from fxray.files import atomic_dir
platform.node = lambda: sys.argv[2]
with atomic_dir(Path(sys.argv[1])) as folder:
    (folder / "x").write_text("half")
    print(folder.name, flush=True)
    time.sleep(600)
"""


@contextmanager
def filling(folder: Path, machine: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A process on a machine that is in the midst of writing a folder, and what that is called meanwhile."""
    command = [sys.executable, "-c", FILLING, str(folder), machine]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().decode().strip(), process
        finally:
            process.kill()


def test_what_a_killed_process_left_of_a_folder_is_cleared_away_and_what_a_living_one_fills_is_not(
    tmp_path: Path,
) -> None:
    here = platform.node()
    with filling(tmp_path / "d", here) as (left, killed), filling(tmp_path / "d", here) as (filled, _):
        killed.kill()
        killed.wait(60)
        assert {each.name for each in tmp_path.iterdir()} == {left, filled}
        with atomic_dir(tmp_path / "d") as folder:
            (folder / "x").write_text("whole")
        assert sorted(each.name for each in tmp_path.iterdir()) == [filled, "d"]
        assert (tmp_path / filled / "x").read_text() == "half"


KILLED_BETWEEN = """
import os, signal, sys
from pathlib import Path
from fxray.files import atomic_dir
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
Path.replace = die  # the old folder is aside, and the new one is not in its place yet
with atomic_dir(Path(sys.argv[1])) as folder:
    (folder / "x").write_text("lost")
"""


@pytest.mark.parametrize("is_refused", [True, False])
def test_a_folder_whose_writer_was_killed_as_it_took_its_place_is_put_back_by_the_next(
    tmp_path: Path, is_refused: bool
) -> None:
    write_atomically(tmp_path / "d" / "x", "old")
    killed = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(tmp_path / "d")], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "d").exists()
    with pytest.raises(KeyError) if is_refused else nullcontext(), atomic_dir(tmp_path / "d") as folder:
        assert (tmp_path / "d" / "x").read_text() == "old"
        (folder / "x").write_text("new")
        if is_refused:
            raise KeyError
    assert (tmp_path / "d" / "x").read_text() == ("old" if is_refused else "new")
    assert [each.name for each in tmp_path.iterdir()] == ["d"]


def test_of_a_whole_folder_all_that_was_put_aside_is_put_back_or_deleted(tmp_path: Path) -> None:
    for name in ("final", "step-000002"):
        write_atomically(tmp_path / "grpo" / name / "x", "old")
        subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(tmp_path / "grpo" / name)], check=False, timeout=60)
    write_atomically(tmp_path / "grpo" / "final" / "x", "new")
    write_atomically(tmp_path / "grpo" / ".mine.old", "not ours")
    clear_all_abandoned(tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    found = {str(file.relative_to(tmp_path)): file.read_text() for file in files}
    assert found == {"grpo/final/x": "new", "grpo/step-000002/x": "old", "grpo/.mine.old": "not ours"}


def test_a_folder_that_another_has_locked_is_replaced_without_a_wait(tmp_path: Path) -> None:
    write_atomically(tmp_path / "d" / "x", "old")
    held = os.open(tmp_path / "d", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with atomic_dir(tmp_path / "d") as folder:
            (folder / "x").write_text("new")
    finally:
        os.close(held)
    assert (tmp_path / "d" / "x").read_text() == "new"


def test_a_folder_is_not_put_back_while_its_writer_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "d" / "x", "old")
    real, found = Path.replace, []

    def look(aside: Path, path: Path) -> None:
        monkeypatch.setattr(Path, "replace", real)
        with suppress(KeyError), atomic_dir(path):
            found.append(path.exists())
            raise KeyError
        real(aside, path)

    monkeypatch.setattr(Path, "replace", look)
    with atomic_dir(tmp_path / "d") as folder:
        (folder / "x").write_text("new")
    assert found == [False]
    assert (tmp_path / "d" / "x").read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["d"]


def test_a_half_that_is_left_of_a_folder_is_not_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "d" / "x", "old")
    with monkeypatch.context() as present:
        present.setattr(shutil, "rmtree", lambda *_, **__: None)  # as of a process that was killed in its midst
        with atomic_dir(tmp_path / "d") as folder:
            (folder / "x").write_text("new")
    shutil.rmtree(tmp_path / "d")
    with pytest.raises(KeyError), atomic_dir(tmp_path / "d"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_another_machine_fills_of_a_folder_is_not_cleared_away(tmp_path: Path) -> None:
    with filling(tmp_path / "d", "elsewhere") as (filled, unseen):
        unseen.kill()  # as where the file system does not let the locks of other machines be seen
        unseen.wait(60)
        with atomic_dir(tmp_path / "d") as folder:
            (folder / "x").write_text("whole")
    assert (tmp_path / filled / "x").read_text() == "half"
