"""A run directory in object storage: worked on in a folder of this machine, and kept there by a mirror.

    s3://bucket/runs/7b ── pull, at the start ──► ~/.cache/fxray/runs/<hash> ── every 30 s, and at the end ──► s3://...

What is whole over there is listed in `.mirror.json`, which is written after the files that it names; so a driver that
dies while it copies leaves the copy before, and at most the last half minute is learnt again. Files are compared by
size and modification time. A file beside the folder here notes which list it was last equal to: while that one is still
the list over there, nobody else has worked on the run, and what is here alone is newer and stays. Works with every
scheme that `pyarrow.fs` opens: s3, gs, abfs, hdfs; credentials come from the environment, as usual there.

One driver at a time: `.lease.json` names it and is renewed every 30 s, however long a copy takes; one that has not been
renewed for `LEASE_S` seconds, as the storage counts them, is taken over. Whoever it is taken from stops.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import ArrowException
from pyarrow.fs import FileSystem, FileType

from fxray.errors import FxrayError, ResourceError
from fxray.events import Note, OnEvent, ignore
from fxray.files import cache_home, make_folder, remove_empty_folders, settled_files, write_atomically

CONFIG = "config.yaml"
"""No run ever lets it go."""
LIST, LEASE, CLOCK = ".mirror.json", ".lease.json", ".clock"
MIRRORED, READING = ".mirrored", ".reading"
"""Beside the folder here: the digest of the list it was last equal to; the lock of those who copy it to read it."""
PERIOD_S = 30.0
LEASE_S = 4 * PERIOD_S
SETTLE_S = 1.0
"""Between taking a lease and looking whether somebody else took it at the same time."""
MAX_READINGS = 5
"""Of a run whose driver lets files go while they are copied."""
READER_DEADLINE_S = 600.0
"""For another process of this machine to end its copy of the same run."""
REMEDY = "check the address, the credentials in the environment (AWS_ACCESS_KEY_ID, ...) and the network"

Entry = tuple[int, int]
"""Size in bytes and modification time in nanoseconds, of the file here."""


class HeldError(FxrayError):
    """Another driver works on the run."""


def is_remote(run_dir: str) -> bool:
    """Whether a run directory is an address such as s3://bucket/runs/7b, and no path."""
    return "://" in run_dir and not run_dir.startswith("file://")


@contextmanager
def local_folder(run_dir: str, on_event: OnEvent = ignore) -> Iterator[Path]:
    """A folder of this machine to work on a run in.

    Args:
        run_dir: A path, which is given back; or an address in object storage, which is copied here and kept up to date
            until the block ends.
        on_event: Told when a copy fails; it is tried again.

    Raises:
        ResourceError: The storage cannot be reached, or the last copy failed; the folder here has everything.
        HeldError: Another driver works on the run, or has taken it over meanwhile.
    """
    if not is_remote(run_dir):
        yield Path(run_dir.removeprefix("file://"))
        return
    mirror = Mirror(run_dir, cache_folder(run_dir))
    with mirror.held(on_event):
        yield mirror.folder


def local_copy(run_dir: str, names: re.Pattern[str] | None = None) -> Path:
    """A folder of this machine to read a run in: the one that is given, or a copy of the one in object storage.

    Args:
        run_dir: A path or an address.
        names: Of an address, only the files whose whole name matches.

    Raises:
        ResourceError: The storage cannot be read.
    """
    if not is_remote(run_dir):
        return Path(run_dir.removeprefix("file://"))
    mirror = Mirror(run_dir, cache_folder(f"{run_dir}#{names.pattern if names else 'copy'}"))
    mirror.read(names)
    return mirror.folder


def cache_folder(run_dir: str) -> Path:
    """Where a remote run is worked on: always the same folder, so that what is there need not be copied again."""
    return cache_home() / "fxray" / "runs" / hashlib.sha256(run_dir.rstrip("/").encode()).hexdigest()[:16]


class Mirror:
    """Keeps a folder and its copy in object storage equal.

    Args:
        address: Of the copy.
        folder: Here.

    Raises:
        ResourceError: `pyarrow.fs` cannot open the address.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address.rstrip("/"), folder
        self._mirrored, self._reading = (folder.with_name(folder.name + ending) for ending in (MIRRORED, READING))
        self._gone = set[str]()
        self._owner = {"owner": uuid.uuid4().hex, "pid": os.getpid(), "node": platform.node()}
        with self._storage_errors():
            self._storage, self._base = FileSystem.from_uri(self.address)

    @contextmanager
    def held(self, on_event: OnEvent) -> Iterator[None]:
        """Takes the lease, copies here what is there, and copies back until the block ends.

        Raises:
            ResourceError: See `local_folder`.
            HeldError: Likewise.
        """
        self._take_lease()
        try:
            with _every_period("lease", lambda: self._renew(on_event)):
                self.pull()
                try:
                    with _every_period("mirror", lambda: self._try_to_push(on_event)):
                        yield
                finally:
                    self.push()
        finally:
            self._drop_lease()

    def pull(self) -> None:
        """Makes the folder here equal to what is listed there.

        What is here alone, or differs here, is of a driver that another one has followed, and goes; unless the list is
        still the one that this folder was last equal to: then it is newer than the copy, and stays.

        Raises:
            ResourceError: The storage cannot be read, or holds nothing any more of what is here.
        """
        make_folder(self.folder)
        with self._storage_errors():
            content, note, here = self._read(LIST), self._mirrored, self._files_here()
            is_ahead = note.exists() and note.read_text() == _digest(content)
            if here and content is None and note.exists() and not is_ahead:
                what = f"the copy of the run is gone, of which {self.folder} may be the last one"
                raise ResourceError(what, where=self.address, remedy="copy that folder, or delete it to start anew")
            if not is_ahead:
                note.unlink(missing_ok=True)
            there = self._listed(content)
            wanted = {name: there[name] for name in there if not (is_ahead and name in here)}
            self._make_equal(wanted, keeps_others=is_ahead)
            write_atomically(note, _digest(content))

    def read(self, names: re.Pattern[str] | None = None) -> None:
        """Makes the folder here equal to what is listed there, while the run's driver may go on and others read too.

        Args:
            names: Only what matches is taken.

        Raises:
            ResourceError: The storage cannot be read.
        """
        make_folder(self.folder)
        with self._storage_errors(), self._only_reader():
            for _ in range(MAX_READINGS):
                there = self._listed(self._read(LIST))
                wanted = {name: entry for name, entry in there.items() if names is None or names.fullmatch(name)}
                try:
                    self._make_equal(wanted, keeps_others=False)
                    return
                except FileNotFoundError as error:  # let go since it was listed
                    missing = error
                time.sleep(SETTLE_S)
            raise ResourceError(
                f"files of the run went while they were copied, {MAX_READINGS} times: {missing}",
                where=self.address,
                remedy="try again; if the run is not being trained, its copy lacks what its list names",
            )

    def push(self) -> None:
        """Copies what is new or changed here, says what is whole there, and removes there what is no more here.

        Raises:
            ResourceError: The storage cannot be written, or the folder here was emptied: what is there stays.
            HeldError: Another driver has taken the run over.
        """
        with self._storage_errors():
            self._refuse_if_held()
            there = self._listed(self._read(LIST))
            found = self._files_here()
            if CONFIG in there and CONFIG not in found:
                raise ResourceError(
                    f"{CONFIG} is gone, so the folder was emptied by somebody else; what was copied before stays",
                    where=str(self.folder),
                    remedy=f"end the run; the same command then goes on from {self.address}",
                )
            here = {name: found[name] for name in found if there.get(name) == found[name] or self._send(name)}
            if here != there:
                self._refuse_if_held()
                content = json.dumps({"format": 1, "files": here})
                self._write(LIST, content)
                write_atomically(self._mirrored, _digest(content.encode()))
            self._gone = (self._gone | there.keys()) - here.keys()
            for name in sorted(self._gone):  # what was not deleted is listed no more, and is tried again
                with suppress(FileNotFoundError):
                    self._storage.delete_file(self._path(name))
                self._gone.discard(name)

    def is_led(self) -> bool:
        """Whether a driver keeps its lease young, by this machine's clock: a reader may not write over there."""
        with self._storage_errors():
            lease = self._storage.get_file_info(self._path(LEASE))
        return time.time() - (lease.mtime_ns or 0) / 1e9 < LEASE_S

    def _make_equal(self, there: Mapping[str, Entry], keeps_others: bool) -> None:
        """Fetches what is listed and is not the same here; what is not listed goes, unless it is kept."""
        here = self._files_here()
        for name in () if keeps_others else here.keys() - there.keys():
            (self.folder / name).unlink(missing_ok=True)
        for name, entry in there.items():
            if here.get(name) != entry:
                self._fetch(name, entry)
        remove_empty_folders(self.folder)

    @contextmanager
    def _only_reader(self) -> Iterator[None]:
        """Waits until no other process of this machine copies into the folder."""
        deadline_s = time.monotonic() + READER_DEADLINE_S
        with self._reading.open("a") as held:
            while True:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline_s:
                        raise ResourceError(
                            f"another process has been copying this run to read it for {READER_DEADLINE_S:.0f} s",
                            where=str(self.folder),
                            remedy="end it, or read the run on another machine",
                        ) from None
                    time.sleep(0.05)
            yield

    def _try_to_push(self, on_event: OnEvent) -> bool:
        """Whether it shall be tried again: not when another driver has the run, of which `_renew` tells."""
        try:
            self.push()
        except HeldError:
            return False
        except FxrayError as error:
            on_event(Note(f"not copied, will be tried again: {error}", is_warning=True))
        return True

    def _renew(self, on_event: OnEvent) -> bool:
        """Keeps the lease young, or ends this driver when another one has it; whether it is to be done again."""
        try:
            with self._storage_errors():
                self._refuse_if_held()
                self._renew_lease()
        except HeldError as error:
            on_event(Note(f"this driver stops: {error.message}", is_warning=True))
            is_ignored = not callable(signal.getsignal(signal.SIGINT))  # as in a shell's background
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM if is_ignored else signal.SIGINT)
            return False
        except FxrayError as error:
            on_event(Note(f"its lease is not renewed, will be tried again: {error}", is_warning=True))
        return True

    def _files_here(self) -> dict[str, Entry]:
        return {name: (each.st_size, each.st_mtime_ns) for name, each in settled_files(self.folder).items()}

    def _listed(self, content: bytes | None) -> dict[str, Entry]:
        files = {} if content is None else json.loads(content)["files"]
        # Those that are listed by this module are plain paths: no part is empty, or begins with a dot.
        if odd := [name for name in files if any(part[:1] in {"", "."} for part in name.split("/"))]:
            raise ResourceError(
                f"the list of its files names {odd[0]!r}, which would not lie in the run's folder",
                where=f"{self.address}/{LIST}",
                remedy="whoever wrote it is not to be trusted; fxray lists no such file",
            )
        return {name: (size, time_ns) for name, (size, time_ns) in files.items()}

    def _fetch(self, name: str, entry: Entry) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.tmp")
        with self._storage.open_input_stream(self._path(name)) as source, aside.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 22)
        os.utime(aside, ns=(entry[1], entry[1]))
        aside.replace(target)

    def _send(self, name: str) -> bool:
        """Copies a file there, unless it has vanished meanwhile."""
        try:
            source = (self.folder / name).open("rb")
        except FileNotFoundError:
            return False
        with source, self._storage.open_output_stream(self._path(name)) as sink:
            shutil.copyfileobj(source, sink, 1 << 22)
        return True

    def _take_lease(self) -> None:
        with self._storage_errors():
            self._refuse_if_held()
            self._renew_lease()
            time.sleep(SETTLE_S)
            self._refuse_if_held()

    def _refuse_if_held(self) -> None:
        content = self._read(LEASE)
        lease = json.loads(content) if content else {}
        if lease.get("owner") in (None, self._owner["owner"]) or self._age_s(LEASE) > LEASE_S:
            return
        raise HeldError(
            f"another driver (pid {lease['pid']} on {lease['node']}) works on this run",
            where=self.address,
            remedy=f"wait for it, end it, or choose another --run-dir; if it is dead, its lease ends {LEASE_S:.0f} s "
            "after its last copy",
        )

    def _age_s(self, name: str) -> float:
        """How long ago something was written, by the storage's own clock: those of two machines may differ."""
        clock = f"{CLOCK}-{uuid.uuid4().hex}"  # several threads ask
        self._write(clock, "")
        written, now = self._storage.get_file_info([self._path(name), self._path(clock)])
        self._storage.delete_file(self._path(clock))
        return float((now.mtime_ns or 0) - (written.mtime_ns or 0)) / 1e9

    def _renew_lease(self) -> None:
        self._write(LEASE, json.dumps(self._owner))

    def _drop_lease(self) -> None:
        with self._storage_errors():
            content = self._read(LEASE)
            if content and json.loads(content)["owner"] == self._owner["owner"]:
                self._storage.delete_file(self._path(LEASE))

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _read(self, name: str) -> bytes | None:
        if self._storage.get_file_info(self._path(name)).type == FileType.NotFound:
            return None
        with self._storage.open_input_stream(self._path(name)) as source:
            return source.read()

    def _write(self, name: str, content: str) -> None:
        with self._storage.open_output_stream(self._path(name)) as sink:
            sink.write(content.encode())

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except FxrayError:
            raise
        except (OSError, ArrowException, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ResourceError(f"the storage cannot be used: {reason}", where=self.address, remedy=REMEDY) from error


@contextmanager
def _every_period(name: str, act: Callable[[], bool]) -> Iterator[None]:
    """Does something every `PERIOD_S` seconds in a thread of its own, until it says no more or the block ends."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(PERIOD_S) and act():
            pass

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _digest(content: bytes | None) -> str:
    """Of a list, or of none."""
    return hashlib.sha256(content or b"").hexdigest()
