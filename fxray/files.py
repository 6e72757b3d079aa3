"""Files appear whole or not at all: written aside, flushed, renamed."""

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fxray.asides import clear_abandoned, new_aside, own_folder, take_place
from fxray.errors import ConfigError, FxrayError, ResourceError

_MAKE_ROOM = "free some space there and try again, or choose another folder; what was there before is untouched"
_GIVE_RIGHTS = "let this user do that there, or choose another folder"
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: "choose a folder on a disk that takes larger files, or see `ulimit -f`",
    errno.EACCES: _GIVE_RIGHTS,
    errno.EPERM: _GIVE_RIGHTS,
    errno.EROFS: "have it mounted for writing, or choose another folder",
    errno.EIO: "look after the disk and try again, or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What a disk refuses, and what to do about it."""


@contextmanager
def atomic_path(path: Path, *, makes_folder: bool = True) -> Iterator[Path]:
    """Gives a path beside `path` to write a file at; it takes the place of `path` when the block ends well.

    Args:
        path: The file.
        makes_folder: False where the folder is to be there: one that was deleted stays deleted.

    Raises:
        FileNotFoundError: The folder is not there, and is not to be made.
        ResourceError: The disk is full or not writable, or `path` is a folder, a device or a pipe; it is untouched.
    """
    with disk_errors(path):
        if path.is_dir():
            raise ResourceError("is a folder, expected a file to write", where=str(path), remedy="name a file in it")
        if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null itself
            raise ResourceError(
                "is a device or a pipe, expected a file to write", where=str(path), remedy="name a file"
            )
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if makes_folder:
        make_folder(path.parent)
    try:
        with disk_errors(path), _under_its_name(path, aside):
            yield aside
            with aside.open("rb") as written:
                os.fsync(written.fileno())
            aside.replace(path)
    finally:
        with suppress(OSError):  # a read-only disk refuses to delete even what is not there
            aside.unlink()


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Gives an empty folder beside `path` to fill; it takes the place of `path` when the block ends well.

    Args:
        path: The folder; where it is a link, what that leads to.

    Raises:
        ConfigError: It is the folder in which the command runs, or a mounted one, or a link that leads in a circle.
        ResourceError: The disk is full or not writable; `path` is untouched.
    """
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.is_symlink():
        raise ConfigError("is a link that leads in a circle", where=str(path), remedy="name another folder")
    refuse_working_folder(path)
    _refuse_mounted(path)
    aside = new_aside(path)
    make_folder(path.parent)
    clear_abandoned(path)
    try:
        with disk_errors(path), _under_its_name(path, aside), own_folder(aside):
            yield aside
            for file in aside.rglob("*"):
                if file.is_file():
                    with file.open("rb") as written:
                        os.fsync(written.fileno())
            take_place(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _under_its_name(path: Path, aside: Path) -> Iterator[None]:
    """Lets errors of the block name what was to be written; the path aside is gone when they are read."""
    try:
        yield
    except FxrayError as error:
        error.where = error.where.replace(str(aside), str(path))
        raise


def refuse_to_replace(path: Path, *, unless_all_are: Collection[str]) -> None:
    """Keeps `atomic_dir` from deleting what else lies in a folder, notes or the data themselves.

    Args:
        path: What is about to be replaced; where there is nothing, or an empty folder, all is well.
        unless_all_are: Names of the files that are written there, and that may be replaced.

    Raises:
        ConfigError: It is a file, or a folder with other things in it.
    """
    if not path.exists():
        return
    others = sorted({file.name for file in path.iterdir()} - set(unless_all_are)) if path.is_dir() else []
    if others or not path.is_dir():
        raise ConfigError(
            f"is there already, and {f'holds {others[0]}' if others else 'is no folder'}",
            where=str(path),
            remedy="name a new or an empty folder; nothing was changed",
        )


def refuse_working_folder(path: Path) -> None:
    """Keeps a command from replacing the folder in which it runs: whoever is in there would be left in a deleted one.

    Raises:
        ConfigError: It is that folder.
    """
    if path.exists() and path.samefile("."):
        raise ConfigError(
            "is the folder in which the command runs, and cannot be replaced",
            where=str(path),
            remedy="name a folder in it; nothing was changed",
        )


def _refuse_mounted(path: Path) -> None:
    if path.is_mount():
        raise ConfigError(
            "is where a disk is mounted, and cannot be replaced",
            where=str(path),
            remedy="name a folder in it; nothing was changed",
        )


def is_there(path: Path) -> bool:
    """Whether there is something at a path.

    Raises:
        OSError: This user may not look there, or the name is too long: for `Path.exists` of Python 3.14 on nothing is
            there, and people would look for what they have.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last one of a name with a null in it
        return False
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False
    return True


def refuse_unless_empty(path: Path) -> None:
    """Keeps a command from writing among other things.

    Raises:
        ConfigError: It is a file, or a folder with something in it.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(
            "is there already", where=str(path), remedy="name a new or an empty folder; nothing was changed"
        )


def relative_path(target: Path, folder: Path) -> str:
    """The way from a folder to a file as the kernel goes it, whatever links lead to either.

    A link that is the file itself stays: its name is the one that the user knows. A loop of links is no way at all, and
    stays as it is, as does a name that no file can have.
    """
    if "\0" in str(target):
        return str(target)
    return os.path.relpath(f"{os.path.realpath(target.parent)}/{target.name}", os.path.realpath(folder))


def slug(text: str) -> str:
    """Text as part of a file name: letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "-"


def distinct_slug(text: str) -> str:
    """The same, and different for different texts: one that a name cannot hold as it is gets letters of its own."""
    if re.fullmatch(r"[a-z0-9.][a-z0-9.-]*", text):
        return text
    readable = slug(Path(text).name)[:40].strip("-")
    return "-".join(filter(None, [readable, hashlib.sha256(text.encode()).hexdigest()[:8]]))


def write_atomically(path: Path, content: bytes | str, *, makes_folder: bool = True) -> None:
    """Writes a whole file, or leaves the old one; see `atomic_path`.

    Raises:
        FileNotFoundError: The folder is not there, and is not to be made.
        ResourceError: The disk is full or not writable.
    """
    with atomic_path(path, makes_folder=makes_folder) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file, whole or not at all.

    Raises:
        ResourceError: The disk is full or not writable; the file is as it was.
    """
    content = line.encode() + b"\n"
    with disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if os.write(descriptor, content) < len(content):  # the rest had no room
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file below a folder: content by path within it; nothing where there is no folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }


def settled_files(folder: Path) -> dict[str, os.stat_result]:
    """Files below a folder, by path within it, but those that are being written, and locks; others may work in it.

    Raises:
        OSError: A folder cannot be read that is there.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # let go, or given its name, meanwhile
            raise error

    found = {}
    for above, below, names in os.walk(folder, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        for file in (Path(above, name) for name in names if not name.startswith(".")):
            with suppress(FileNotFoundError):
                status = file.stat()
                if stat.S_ISREG(status.st_mode):
                    found[file.relative_to(folder).as_posix()] = status
    return found


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it.

    Raises:
        ResourceError: It cannot be made, for a file stands in its way, for one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if (refused := as_refusal(error, folder, "made")) is None:
            message = f"cannot be made: {error.strerror} ({error.filename})"
            refused = ResourceError(message, where=str(folder), remedy="choose another folder")
        raise refused from error


def cache_home() -> Path:
    """The folder of this user's caches.

    Raises:
        ResourceError: There is none, as in a container whose user is no more than a number.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        message = "this user has no home folder, where copies of runs in object storage lie"
        raise ResourceError(message, remedy="set HOME or XDG_CACHE_HOME to a folder of this user's") from error


def remove_empty_folders(folder: Path) -> None:
    """Deletes the folders below a folder that hold no file."""
    for each in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(each.iterdir()):
            each.rmdir()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what a disk refuses inside the block into one clear error.

    Raises:
        ResourceError: The disk is full, broken, or not writable, or takes no such name.
    """
    try:
        yield
    except OSError as error:
        if (refused := as_refusal(error, path)) is None:
            raise
        raise refused from error


def as_refusal(error: OSError, path: Path | None, what: str = "written") -> ResourceError | None:
    """What a disk refused, as one clear error; None where the error is another one, or clear already.

    Args:
        error: As Python raised it.
        path: What it was about, if that is known.
        what: "cannot be" so.
    """
    number = error.errno
    if isinstance(error, shutil.Error) and (found := re.search(r"\[Errno (\d+)\]", str(error))):
        number = int(found[1])  # `copytree` tells of all files at once, in words alone
    if isinstance(error, FxrayError) or number not in _REMEDIES:
        return None
    room = f" ({_room(path)})" if path and number in (errno.ENOSPC, errno.EDQUOT) else ""
    message = f"cannot be {what}: {os.strerror(number)}{room}"
    refused = ResourceError(message, where=str(path or "output"), remedy=_REMEDIES[number])
    refused.errno = number
    return refused


def _room(path: Path) -> str:
    disk = os.statvfs(next(each for each in path.absolute().parents if os.path.exists(each)))  # noqa: PTH110
    if disk.f_files and not disk.f_favail:
        return "no inode free: it holds as many files and folders as it can"
    return f"{disk.f_bavail * disk.f_frsize // 2**20} MiB free"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex, read in pieces."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
