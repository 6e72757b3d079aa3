"""Folders that are filled aside and take another's place, and what killed writers left of them.

A folder aside is locked by who fills it, so the next writer of the same place can tell what is abandoned.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def own_folder(aside: Path) -> Iterator[None]:
    """Makes a folder that is locked until the block ends, or its process does, however that happens."""
    unseen = aside.with_suffix(".new")
    unseen.mkdir()
    try:
        with _locked(unseen):
            unseen.rename(aside)  # locked before it can be found
            yield
    finally:
        with suppress(OSError):  # it has another name by now, if all went well
            unseen.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a folder's lock, under whatever name it comes to have, until the block ends or this process does."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # no locks here, so nobody can tell that it is abandoned; or another has it: no wait
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(held)


def take_place(aside: Path, path: Path) -> None:
    """Puts a folder where another may be, of which a disk may refuse to delete a part: that goes last, if it can."""
    if not path.is_dir():
        aside.replace(path)
        return
    old = new_aside(path).with_suffix(".old")
    with _locked(path):  # or the next writer would put it back in the midst of this
        path.rename(old)
        try:
            aside.replace(path)
        except OSError:
            old.rename(path)
            raise
        _delete(old, path)


def _delete(old: Path, path: Path) -> None:
    """Deletes what lay at `path`, under a name from which it is not put back: of a half of it nothing is."""
    unwanted = new_aside(path)
    old.rename(unwanted)
    shutil.rmtree(unwanted, ignore_errors=True)


def new_aside(path: Path) -> Path:
    return path.with_name(f"{_start_of_asides(path)}{os.urandom(3).hex()}.tmp")


def _start_of_asides(path: Path) -> str:
    """How the names of this machine's folders beside `path` begin: no other sees the lock of a folder on NFS."""
    return f".{path.name}.{hashlib.sha256(platform.node().encode()).hexdigest()[:6]}-"


def clear_abandoned(path: Path) -> None:
    """Deletes what processes of this machine that were killed in an `atomic_dir` of this path have left.

    That may be gigabytes, of a model. What lay at the path is put back if they had nothing in its place yet.
    """
    try:
        beside = list(path.parent.iterdir())
    except PermissionError:  # a folder may be written to, and not read
        return
    for folder in beside:
        if not re.fullmatch(rf"{re.escape(_start_of_asides(path))}[0-9a-f]{{6}}\.(tmp|old)", folder.name):
            continue
        with suppress(OSError):  # somebody fills it, or it is a file
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if folder.suffix == ".tmp":
                    shutil.rmtree(folder, ignore_errors=True)
                elif path.exists():
                    _delete(folder, path)
                else:
                    folder.rename(path)
            finally:
                os.close(held)


def clear_all_abandoned(root: Path) -> None:
    """Deletes what processes that were killed left anywhere below a folder to which nobody else writes.

    A folder that was only put aside, for another that did not come, is put back.
    """
    for left in list(root.rglob(".*.tmp")):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    for old in list(root.rglob(".*.old")):
        if name := re.fullmatch(r"\.(.+)\.[0-9a-f]{6}-[0-9a-f]{6}\.old", old.name):
            path = old.with_name(name[1])
            with suppress(OSError):  # a disk that refuses this is told of at the next write
                _delete(old, path) if path.exists() else old.rename(path)
