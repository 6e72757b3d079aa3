"""Who works on a run directory: one driver at a time, on this machine or on any that shares the folder.

    .lock     flock: the kernel frees it when its owner dies, at once; it reaches as far as the filesystem lets it
    .lease    owner, host and a heartbeat (the file's time, as the file server counts it), for the other machines

A lease of another machine holds while its heartbeat is younger than `LEASE_S`, so a dead one never holds for ever. The
heartbeat is compared with a file that is written now, into the same folder: clocks of two machines are never compared.
"""

import errno
import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from fxray.errors import FxrayError
from fxray.files import disk_errors, write_atomically

LEASE_S = 60.0
HEARTBEAT_S = 10.0
LOOK_EVERY_S = 0.2
LOCK_FILE, LEASE_FILE = ".lock", ".lease"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


@dataclass(frozen=True, slots=True)
class Owner:
    """A driver.

    Attributes:
        token: Its own, unique.
        boot: Of the kernel that it runs under: a lock is certain between processes of one kernel.
        text: Who it is, for people.
    """

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    boot: str = field(default_factory=_boot_id)
    text: str = field(default_factory=lambda: f"pid {os.getpid()} on {platform.node()}")


class Lease:
    """The right to write to a run directory, as long as `check` lets it pass; a thread keeps it fresh.

    Args:
        root: The run directory.
        owner: This driver.
    """

    def __init__(self, root: Path, owner: Owner) -> None:
        self._root, self._owner = root, owner
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Returns while the run is this driver's, as far as the file server tells.

        Raises:
            FxrayError: Another driver took it over, for this one gave no sign of life.
        """
        found = self._found()
        if found is not None and found != self._owner:
            raise FxrayError(
                f"{found.text} took this run over, as this process gave no sign of life for {LEASE_S:g} s",
                where=str(self._root),
                remedy="let the other one work, or end it and run the same command again",
            )

    def end(self) -> None:
        """Gives the run back."""
        self._is_over.set()
        self._thread.join(HEARTBEAT_S)
        with suppress(OSError):  # where it stays, it runs out
            if self._found() == self._owner:
                (self._root / LEASE_FILE).unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._is_over.wait(HEARTBEAT_S):
            with suppress(OSError):
                if self._found() == self._owner:
                    os.utime(self._root / LEASE_FILE)

    def _found(self) -> Owner | None:
        """Who holds the lease; None where the file server, away for a moment, does not tell."""
        try:
            return _read(self._root)
        except OSError:
            return None


@contextmanager
def hold(root: Path) -> Iterator[Lease]:
    """Holds a run directory.

    Raises:
        FxrayError: Another driver works on it, here or on another machine.
        ResourceError: The folder is not writable.
    """
    owner = Owner()
    with disk_errors(root / LOCK_FILE):
        file = (root / LOCK_FILE).open("a+")
    with file:
        _take(root, owner, is_locked=_lock(root, file, owner))
        lease = Lease(root, owner)
        try:
            yield lease
        finally:
            lease.end()


def await_leaving(roots: Iterable[Path], deadline_s: float) -> list[Path]:
    """Waits until no driver of this machine holds any of these run directories.

    Args:
        roots: Run directories; they may be missing.
        deadline_s: For all of them together.

    Returns:
        Those that are held all the same.
    """
    held, end_s = [root for root in roots if _is_locked(root)], time.monotonic() + deadline_s
    while held and time.monotonic() < end_s:
        time.sleep(LOOK_EVERY_S)
        held = [root for root in held if _is_locked(root)]
    return held


def _is_locked(root: Path) -> bool:
    try:
        with (root / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it is not there, or the filesystem knows no locks
        return False
    return False


def _lock(root: Path, file: IO[str], owner: Owner) -> bool:
    """Takes the lock file; False where the filesystem knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        _refuse(root, file.read().strip() or "unknown", "wait for it, end it, or choose another folder")
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    with disk_errors(root / LOCK_FILE):
        file.truncate(0)
        os.write(file.fileno(), owner.text.encode())  # what stays in a buffer fails again when the file is closed
    return True


def _take(root: Path, owner: Owner, *, is_locked: bool) -> None:
    """Writes this driver's lease, unless another one's is fresh."""
    path, found = root / LEASE_FILE, _read(root)
    if found is not None and not (is_locked and found.boot == owner.boot):
        clock = root / f"{LEASE_FILE}.{owner.token}.tmp"
        clock.touch()
        try:
            age_s = clock.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:  # its owner has ended just now
            age_s = LEASE_S
        clock.unlink()
        if age_s < LEASE_S:
            left_s = LEASE_S - age_s
            _refuse(root, found.text, f"wait for it or end it; if it is dead, its lease runs out in {left_s:.0f} s")
    write_atomically(path, json.dumps(asdict(owner)))


def _refuse(root: Path, who: str, remedy: str) -> NoReturn:
    raise FxrayError(f"another process ({who}) works in this folder", where=str(root), remedy=remedy)


def _read(root: Path) -> Owner | None:
    """Who holds the lease; None where nobody does, or nobody can be made out."""
    try:
        content: dict[str, Any] = json.loads((root / LEASE_FILE).read_text())
        return Owner(**content)
    except (FileNotFoundError, ValueError, TypeError):
        return None
