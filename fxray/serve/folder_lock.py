"""Who writes to `serve.data_dir`: one gateway at a time, for another one would answer its batches with its detector."""

import fcntl
import os
import platform
import time
from pathlib import Path
from typing import IO

from fxray.errors import ResourceError
from fxray.files import disk_errors, make_folder
from fxray.launch.lease import LOCK_FILE, NO_LOCKS

_POLL_S = 0.2


def lock_folder(folder: Path, *, wait_s: float) -> IO[str]:
    """Takes a folder, which is made if it is not there. Where the filesystem knows no locks, every process gets it.

    Args:
        folder: The folder.
        wait_s: For the process that holds it to end.

    Returns:
        The lock: the folder is free again once this file is closed, or the process has ended.

    Raises:
        ResourceError: Another service holds the folder for longer, or it is not writable.
    """
    make_folder(folder)
    with disk_errors(folder / LOCK_FILE):
        file = (folder / LOCK_FILE).open("a+")
    end_s = time.monotonic() + wait_s
    try:
        while not _is_locked(file):
            if time.monotonic() >= end_s:
                file.seek(0)
                raise ResourceError(
                    f"another service ({file.read().strip() or 'unknown'}) keeps its batches here",
                    where=str(folder),
                    remedy="end it, or choose another folder with --data-dir (serve.data_dir)",
                )
            time.sleep(_POLL_S)
        with disk_errors(folder / LOCK_FILE):
            file.truncate(0)
            who = f"pid {os.getpid()} on {platform.node()}"
            os.write(file.fileno(), who.encode())  # what stays in a buffer fails again when the file is closed
    except BaseException:
        file.close()
        raise
    return file


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
