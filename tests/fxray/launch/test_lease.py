"""A run belongs to one driver at a time, on one machine or on several that share its folder."""

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fxray.errors import FxrayError, ResourceError
from fxray.launch import lease
from fxray.launch.lease import LEASE_FILE, LEASE_S, LOCK_FILE, Owner, hold

ELSEWHERE = replace(Owner(), boot="another kernel", text="pid 7 on node-b")


def leave(root: Path, owner: Owner, age_s: float) -> None:
    """What a driver leaves that gave its last sign of life some time ago."""
    (root / LEASE_FILE).write_text(json.dumps(asdict(owner)))
    then_s = time.time() - age_s
    os.utime(root / LEASE_FILE, (then_s, then_s))


def refuse(error: int) -> Callable[..., NoReturn]:
    def flock(*_: object) -> NoReturn:
        raise OSError(error, os.strerror(error))

    return flock


def test_a_lease_ends_with_its_holder(tmp_path: Path) -> None:
    with hold(tmp_path) as held:
        assert (tmp_path / LEASE_FILE).exists()
        held.check()
    assert not (tmp_path / LEASE_FILE).exists()


def test_a_driver_of_another_machine_that_lives_is_respected(tmp_path: Path) -> None:
    leave(tmp_path, ELSEWHERE, age_s=20)
    message = r"another process \(pid 7 on node-b\) works in this folder\n.*its lease runs out in (39|40) s"
    with pytest.raises(FxrayError, match=message), hold(tmp_path):
        pass


@pytest.mark.parametrize(
    ("owner", "age_s"), [(ELSEWHERE, LEASE_S + 1), (replace(Owner(), text="pid 8 here"), 0.0)], ids=["silent", "here"]
)
def test_a_dead_owner_is_followed(tmp_path: Path, owner: Owner, age_s: float) -> None:
    leave(tmp_path, owner, age_s)
    with hold(tmp_path) as held:
        held.check()


def test_without_file_locks_the_lease_alone_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    with hold(tmp_path), pytest.raises(FxrayError, match="works in this folder"), hold(tmp_path):
        pass
    leave(tmp_path, Owner(), LEASE_S + 1)
    with hold(tmp_path):
        pass


def test_a_driver_that_was_given_up_stops_and_leaves_the_run_to_the_other(tmp_path: Path) -> None:
    with hold(tmp_path) as held:
        leave(tmp_path, ELSEWHERE, age_s=0)
        with pytest.raises(FxrayError, match="pid 7 on node-b took this run over"):
            held.check()
    assert json.loads((tmp_path / LEASE_FILE).read_text())["text"] == "pid 7 on node-b"


def test_a_file_server_that_is_away_for_a_moment_ends_no_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold(tmp_path) as held:
        with monkeypatch.context() as away:
            away.setattr(Path, "read_text", refuse(errno.ESTALE))
            held.check()
        leave(tmp_path, ELSEWHERE, age_s=0)
        with pytest.raises(FxrayError, match="pid 7 on node-b took this run over"):
            held.check()
        monkeypatch.setattr(Path, "read_text", refuse(errno.ESTALE))


def test_an_owner_that_ends_while_it_is_looked_at_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path, ELSEWHERE, age_s=0)
    touch = Path.touch

    def touch_and_end(path: Path) -> None:
        touch(path)
        (tmp_path / LEASE_FILE).unlink()

    monkeypatch.setattr(Path, "touch", touch_and_end)
    with hold(tmp_path) as held:
        held.check()


def test_a_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    with hold(tmp_path):
        os.utime(tmp_path / LEASE_FILE, (0, 0))
        end_s = time.monotonic() + 10
        while (tmp_path / LEASE_FILE).stat().st_mtime == 0 and time.monotonic() < end_s:
            time.sleep(0.02)
        assert time.time() - (tmp_path / LEASE_FILE).stat().st_mtime < 30


def test_a_disk_without_room_for_the_lock_is_said(
    tmp_path: Path, no_room: Callable[[], AbstractContextManager[None]]
) -> None:
    with no_room(), pytest.raises(ResourceError, match=r"\.lock: cannot be written"), hold(tmp_path):
        pass
    with hold(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text().startswith("pid ")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = Path.open

    def open_unless_lock(path: Path, *args: Any, **kwargs: Any) -> Any:
        return refuse(errno.EROFS)() if path.name == LOCK_FILE else open_file(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_unless_lock)
    with pytest.raises(ResourceError, match=r"\.lock: cannot be written: Read-only file system"), hold(tmp_path):
        pass
