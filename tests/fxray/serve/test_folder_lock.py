import errno
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from fake_service import settings_of

from fxray.errors import ResourceError
from fxray.serve import folder_lock
from fxray.serve.folder_lock import lock_folder
from fxray.serve.gateway import Gateway


def gateway(tmp_path, takeover_deadline_s=0.0):
    handle = SimpleNamespace(options=lambda **_: None)
    return Gateway(handle, settings_of(tmp_path), {"default": ""}, "a", takeover_deadline_s)


def test_two_gateways_never_share_a_folder(tmp_path):
    first = gateway(tmp_path)
    coming_in = tmp_path / "data" / "batches" / f".{'0' * 32}.1.tmp"
    coming_in.mkdir()
    with pytest.raises(ResourceError, match=r"(?s)another service \(pid \d+ on .*--data-dir"):
        gateway(tmp_path)
    assert coming_in.is_dir()  # what the first one is writing is no leftover
    del first
    gateway(tmp_path)
    assert not coming_in.exists()


def test_a_gateway_waits_for_the_one_that_it_replaces(tmp_path):
    held = lock_folder(tmp_path / "data", wait_s=0)
    threading.Timer(0.3, held.close).start()
    replacing = gateway(tmp_path, takeover_deadline_s=20)
    assert held.closed
    with pytest.raises(ResourceError, match="another service"):
        gateway(tmp_path)
    del replacing


def test_a_process_that_is_killed_holds_no_folder(tmp_path):
    program = "import pathlib, sys; from fxray.serve.folder_lock import lock_folder\n"
    program += "lock = lock_folder(pathlib.Path(sys.argv[1]), wait_s=0); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ResourceError, match=f"pid {other.pid} "):
            lock_folder(tmp_path, wait_s=0)
        other.kill()
    lock_folder(tmp_path, wait_s=0).close()


def test_a_filesystem_without_locks_refuses_nobody(tmp_path, monkeypatch):
    def unknown(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", unknown)
    with lock_folder(tmp_path, wait_s=0) as first, lock_folder(tmp_path, wait_s=0) as second:
        assert not first.closed
        assert not second.closed


def test_a_disk_without_room_for_the_lock_is_said(tmp_path, no_room):
    with no_room(), pytest.raises(ResourceError, match=r"\.lock: cannot be written"):
        lock_folder(tmp_path, wait_s=0)
    lock_folder(tmp_path, wait_s=0).close()
    assert (tmp_path / ".lock").read_text().startswith("pid ")
