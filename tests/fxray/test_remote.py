"""A run directory in object storage, against a server that speaks S3 on loopback."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest
from pyarrow.fs import FileSelector, FileSystem

from fxray import remote
from fxray.errors import FxrayError, ResourceError
from fxray.events import Event
from fxray.remote import LEASE_S, HeldError, Mirror, is_remote, local_copy, local_folder
from fxray.status.record import StatusRecord, write_record
from fxray.status.summary import read_remote_status

SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(*server.get_host_and_port(), sep=":", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """In a process of its own: a stream that pyarrow destroys after an interrupt is written while this one waits."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@pytest.fixture
def address(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where a run may lie, in a bucket of its own."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "SETTLE_S", 0.0)
    bucket = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:40]
    storage, _ = FileSystem.from_uri(f"s3://{bucket}?allow_bucket_creation=true")
    storage.create_dir(bucket)
    return f"s3://{bucket}/runs/7b"


def write(folder: Path, name: str, content: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)


def contents(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    return {file.relative_to(folder).as_posix(): file.read_text() for file in files}


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From here on this is another machine: nothing of the run lies here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{time.monotonic_ns()}"))


@pytest.mark.parametrize("run_dir", ["runs/7b", "/shared/7b", "file:///shared/7b"])
def test_a_path_is_worked_on_where_it_is(run_dir: str) -> None:
    assert not is_remote(run_dir)
    with local_folder(run_dir) as folder:
        assert folder == Path(run_dir.removeprefix("file://"))
    assert local_copy(run_dir) == folder


def test_a_new_run_begins_in_an_empty_folder(address: str) -> None:
    with local_folder(address) as folder:
        assert list(folder.iterdir()) == []
        write(folder, "config.yaml", "seed: 0")
    assert [file.name for file in local_copy(address).iterdir()] == ["config.yaml"]


def test_another_machine_goes_on_with_what_the_first_left(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with local_folder(address) as folder:
        write(folder, "config.yaml", "seed: 0")
        write(folder, "a\\b c.txt", "any name")
        write(folder, "grpo/alpha/step-000020/state.json", "{}")
        write(folder, "grpo/alpha/.step-000040.1.tmp/state.json", "half")
        write(folder, ".lock", "pid 1")
    elsewhere(monkeypatch, tmp_path)
    with local_folder(address) as second:
        assert second != folder
        kept = {"config.yaml": "seed: 0", "a\\b c.txt": "any name"}
        assert contents(second) == kept | {"grpo/alpha/step-000020/state.json": "{}"}
        write(second, "grpo/alpha/step-000040/state.json", "{}")
        (second / "grpo/alpha/step-000020/state.json").unlink()
    elsewhere(monkeypatch, tmp_path)
    assert contents(local_copy(address)) == kept | {"grpo/alpha/step-000040/state.json": "{}"}
    assert not (local_copy(address) / "grpo/alpha/step-000020").exists()


def test_only_what_changed_is_copied(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    send = Mirror._send
    monkeypatch.setattr(Mirror, "_send", lambda self, name: sent.append(name) or send(self, name))
    with local_folder(address) as folder:
        write(folder, "data/train.parquet", "x" * 1000)
        write(folder, "metrics.jsonl", "1\n")
    sent.clear()
    with local_folder(address) as folder:
        write(folder, "metrics.jsonl", "1\n2\n")
    assert sent == ["metrics.jsonl"]


def test_a_driver_that_dies_while_it_copies_leaves_the_copy_before(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with local_folder(address) as folder:
        write(folder, "grpo/alpha/step-000020/state.json", "20")
    mirror = Mirror(address, folder)
    mirror._take_lease()
    write(folder, "grpo/alpha/step-000040/adapter.bin", "40")
    write(folder, "grpo/alpha/step-000040/state.json", "40")
    assert mirror._send("grpo/alpha/step-000040/adapter.bin")  # and no more: the list still names the copy before
    elsewhere(monkeypatch, tmp_path)
    monkeypatch.setattr(remote, "LEASE_S", -1.0)
    with local_folder(address) as second:
        assert contents(second) == {"grpo/alpha/step-000020/state.json": "20"}


def fails(*_: object) -> bool:
    raise OSError("no route to host")


@pytest.mark.parametrize("is_first", [True, False])
def test_what_a_failed_last_copy_left_here_is_gone_on_with_by_the_same_command(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_first: bool
) -> None:
    if not is_first:
        with local_folder(address) as folder:
            write(folder, "step-100", "a")
            write(folder, "metrics.jsonl", "1")

    def train() -> None:
        with local_folder(address) as folder:
            write(folder, "final", "b")
            write(folder, "metrics.jsonl", "1 2")
            (folder / "step-100").unlink(missing_ok=True)

    with monkeypatch.context() as broken:
        broken.setattr(Mirror, "_send", fails)
        with pytest.raises(ResourceError, match="no route to host"):
            train()
    with local_folder(address) as again:
        assert contents(again) | {"step-100": "a"} == {"final": "b", "metrics.jsonl": "1 2", "step-100": "a"}
        (again / "step-100").unlink(missing_ok=True)
    elsewhere(monkeypatch, tmp_path)
    assert contents(local_copy(address)) == {"final": "b", "metrics.jsonl": "1 2"}


def test_what_another_driver_went_on_with_replaces_what_is_here(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with local_folder(address) as here:
        write(here, "step-100", "a")
    write(here, "final", "mine")
    with monkeypatch.context() as other:
        elsewhere(other, tmp_path)
        with local_folder(address) as there:
            write(there, "step-200", "theirs")
    with local_folder(address) as again:
        assert again == here
        assert contents(again) == {"step-100": "a", "step-200": "theirs"}


def test_what_was_deleted_here_by_hand_comes_back(address: str) -> None:
    with local_folder(address) as folder:
        write(folder, "step-100", "a")
        write(folder, "step-200", "b")
    (folder / "step-100").unlink()
    with local_folder(address) as again:
        assert contents(again) == {"step-100": "a", "step-200": "b"}


@pytest.mark.parametrize("slow", ["_send", "_fetch"])
def test_the_lease_stays_young_however_long_a_copy_takes(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slow: str
) -> None:
    monkeypatch.setattr(remote, "PERIOD_S", 0.1)
    monkeypatch.setattr(remote, "LEASE_S", 2.5)  # times over there are whole seconds
    with local_folder(address) as folder:
        write(folder, "adapter", "x")
    does, refused = getattr(Mirror, slow), []

    def slowly(self: Mirror, *arguments: object) -> object:
        end_s = time.monotonic() + 4.5
        while time.monotonic() < end_s:
            with pytest.raises(HeldError):
                Mirror(address, tmp_path / "other")._refuse_if_held()
            refused.append(slow)
            time.sleep(0.2)
        return does(self, *arguments)

    elsewhere(monkeypatch, tmp_path)
    monkeypatch.setattr(Mirror, slow, slowly)
    with local_folder(address) as folder:
        if slow == "_send":
            write(folder, "adapter", "y")
    assert len(refused) > 5


def test_a_second_driver_is_refused_until_the_lease_of_a_dead_one_ends(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, age_s = Mirror(address, tmp_path / "first"), Mirror._age_s
    with first.held(lambda _: None):
        elsewhere(monkeypatch, tmp_path)
        with pytest.raises(FxrayError, match=f"another driver .pid {os.getpid()} on .* works on this run"):
            local_folder(address).__enter__()
        now_s = time.time()
        with monkeypatch.context() as ahead:  # this machine's clock counts for nothing
            ahead.setattr(remote.time, "time", lambda: now_s + LEASE_S + 1)
            with pytest.raises(HeldError):
                local_folder(address).__enter__()
        monkeypatch.setattr(Mirror, "_age_s", lambda *_: LEASE_S + 1)
        with local_folder(address) as folder:
            write(folder, "config.yaml", "second")
            write(first.folder, "config.yaml", "first")
            monkeypatch.setattr(Mirror, "_age_s", age_s)
            with pytest.raises(HeldError, match="another driver"):  # it was not dead: it stops writing
                first.push()
        write(first.folder, "config.yaml", "second")
    assert contents(local_copy(address)) == {"config.yaml": "second"}


def test_a_lease_is_as_old_as_the_storage_says(address: str, tmp_path: Path) -> None:
    mirror = Mirror(address, tmp_path / "first")
    mirror._take_lease()
    assert 0 <= mirror._age_s(remote.LEASE) < 60
    time.sleep(1.1)  # times over there are whole seconds
    assert mirror._age_s(remote.LEASE) >= 1
    mirror._drop_lease()
    storage, base = FileSystem.from_uri(address)
    assert [info.path for info in storage.get_file_info(FileSelector(base, allow_not_found=True))] == []


@contextmanager
def renewed(other: Mirror) -> Iterator[None]:
    """Another driver renews the lease as often, in a thread: an interrupt would cut what the main one writes."""
    with remote._every_period("other", lambda: other._renew_lease() is None):
        yield


def test_a_driver_whose_run_was_taken_over_stops(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "PERIOD_S", 0.05)
    events: list[Event] = []
    start_s = time.monotonic()

    def work() -> None:
        with local_folder(address, events.append), renewed(Mirror(address, tmp_path / "other")):
            time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in a script's background ignore it
    try:
        with pytest.raises(HeldError, match="another driver"):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start_s < 30
    assert [str(event) for event in events if "this driver stops: another driver" in str(event)]


@pytest.mark.parametrize("name", ["../../owned", "/tmp/owned", "a/../../owned", ".ssh/owned", "a//b", "..\\owned", ""])
def test_a_list_that_leads_out_of_the_folder_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    with local_folder(address) as folder:
        write(folder, "config.yaml", "seed: 0")
    elsewhere(monkeypatch, tmp_path)
    Mirror(address, tmp_path / "evil")._write(remote.LIST, json.dumps({"format": 1, "files": {name: [5, 1]}}))
    with pytest.raises(ResourceError, match="would not lie in the run's folder"):
        local_copy(address)


def test_a_copy_that_fails_is_told_and_tried_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    monkeypatch.setattr(remote, "PERIOD_S", 0.05)
    with local_folder(address, events.append) as folder:
        write(folder, "metrics.jsonl", "1")
        with monkeypatch.context() as broken:
            broken.setattr(Mirror, "_send", fails)
            deadline_s = time.monotonic() + 20
            while not events and time.monotonic() < deadline_s:
                time.sleep(0.01)
    assert "no route to host" in str(events[0])
    assert contents(local_copy(address)) == {"metrics.jsonl": "1"}


def test_a_checkpoint_that_is_let_go_while_the_run_is_copied_is_copied_without(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with local_folder(address) as folder:
        write(folder, "step-10", "a")
        write(folder, "step-20", "b")
    trainer, fetch = Mirror(address, folder), Mirror._fetch

    def goes_on(self: Mirror, name: str, entry: remote.Entry) -> None:
        if (folder / "step-10").exists():
            (folder / "step-10").unlink()
            write(folder, "step-30", "c")
            trainer.push()
        fetch(self, name, entry)

    elsewhere(monkeypatch, tmp_path)
    monkeypatch.setattr(Mirror, "_fetch", goes_on)
    assert contents(local_copy(address)) == {"step-20": "b", "step-30": "c"}


def test_a_copy_that_lacks_what_its_list_names_is_one_error(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with local_folder(address) as folder:
        write(folder, "step-10", "a")
    mirror = Mirror(address, folder)
    mirror._storage.delete_file(mirror._path("step-10"))
    elsewhere(monkeypatch, tmp_path)
    with pytest.raises(ResourceError, match=r"went while they were copied, 5 times.*step-10"):
        local_copy(address)


def test_one_process_at_a_time_copies_a_run_to_read_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_folder(address) as folder:
        write(folder, "step-10", "a")
    copying, at_once, fetch = [], [], Mirror._fetch

    def watched(self: Mirror, name: str, entry: remote.Entry) -> None:
        copying.append(name)
        at_once.append(len(copying))
        time.sleep(0.3)
        fetch(self, name, entry)
        copying.remove(name)

    monkeypatch.setattr(Mirror, "_fetch", watched)
    with ThreadPoolExecutor(3) as pool:
        copies = [each.result() for each in [pool.submit(local_copy, address) for _ in range(3)]]
    assert at_once == [1]  # the others find it there
    assert [contents(copy) for copy in copies] == [{"step-10": "a"}] * 3


def test_a_reader_that_never_ends_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READER_DEADLINE_S", 0.2)
    mirror = Mirror(address, local_copy(address))
    with mirror._only_reader(), pytest.raises(ResourceError, match="another process has been copying this run"):
        local_copy(address)


def test_the_status_of_a_run_over_there_takes_its_small_files_alone(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with local_folder(address) as folder:
        write(folder, "config.yaml", "seed: 0")
        write(folder, "metrics.jsonl", '{"phase": "alpha", "step": 20, "time": 1.0, "metrics": {"reward": 1.5}}\n')
        write(folder, "grpo/alpha/step-000020/state.json", '{"step": 20}')
        write(folder, "grpo/alpha/step-000020/optimizer.safetensors", "x" * 1000)
    elsewhere(monkeypatch, tmp_path)
    status = read_remote_status(address)
    assert (status.run_dir, status.step, status.recent["reward"], status.checkpoint.step) == (address, 20, 1.5, 20)
    (copied,) = (path for path in tmp_path.glob("cache-*/fxray/runs/*") if path.is_dir())
    assert set(contents(copied)) == {"config.yaml", "metrics.jsonl", "grpo/alpha/step-000020/state.json"}


def test_a_driver_whose_lease_is_young_is_alive_however_old_its_record_is(address: str, tmp_path: Path) -> None:
    with (mirror := Mirror(address, tmp_path / "run")).held(lambda _: None):
        write_record(mirror.folder, StatusRecord("running", "elsewhere", 1, "fxray train", started=0.0, time=0.0))
        mirror.push()
        assert read_remote_status(address).state == "running"
    assert read_remote_status(address).state == "dead"


@pytest.mark.parametrize("wrong", ["nosuch://bucket/run", "s3://"])
def test_an_address_that_cannot_be_opened_is_one_error(wrong: str) -> None:
    with pytest.raises(ResourceError, match="the storage cannot be used"):
        local_folder(wrong).__enter__()


def test_a_storage_that_does_not_answer_is_one_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ResourceError, match=r"s3://.*the storage cannot be used"):
        local_copy(f"{address}-other")
