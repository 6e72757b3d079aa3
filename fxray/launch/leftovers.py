"""Folders for Ray's files: one per run, and those of dead runs are cleared away.

A driver that is killed cannot clear up after itself. Its folder says whose it is by a file that is locked as long as
the driver lives; the kernel frees the lock with the process, however it ends. So a folder whose file can be locked is
of a dead driver, and one without the file, or of another user, is none of ours. But for one case: a process of Ray that
outlives its driver for a minute may make its empty folders again when it ends, after ours were cleared away.
"""

import fcntl
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fxray.files import disk_errors

PARENT = Path("/tmp")  # unix sockets below it allow 107 characters
PREFIX = "fxray-"
OWNER_FILE = "owner"


@contextmanager
def own_folder() -> Iterator[Path]:
    """Gives a new folder that ends with the block; what killed drivers left is cleared away first.

    Raises:
        ResourceError: The disk of `PARENT` is full or not writable.
    """
    clear_leftovers()
    with disk_errors(PARENT / PREFIX):
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT))
    try:
        with disk_errors(folder):
            owner = (folder / f"{OWNER_FILE}.new").open("wb", buffering=0)
        with owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            with disk_errors(folder):
                owner.write(f"pid {os.getpid()} on {platform.node()}\n".encode())
            (folder / f"{OWNER_FILE}.new").rename(folder / OWNER_FILE)  # locked before it can be found
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_leftovers() -> list[Path]:
    """Deletes the folders of dead drivers of this user; returns them."""
    cleared = []
    for folder in PARENT.glob(f"{PREFIX}*"):
        with suppress(OSError):  # gone meanwhile, of another user, or owned by a driver that lives
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            if _is_made_again(folder):
                shutil.rmtree(folder, ignore_errors=True)
                cleared.append(folder)
                continue
            with (folder / OWNER_FILE).open("r+") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                cleared.append(folder)
    return cleared


def _is_made_again(folder: Path) -> bool:
    """Whether a folder holds a session of Ray's without a single file; Ray finds ours with the owner's file in it."""
    link = folder / "session_latest"
    return link.is_symlink() and not any(path.is_file() for path in folder.rglob("*"))
