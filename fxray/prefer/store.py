"""The study file: one SQLite database with images, annotations, raters and votes.

It is opened in WAL mode with `synchronous=FULL`: a vote that is answered is on the disk. Several processes may have it
open, such as the server, a judge and the analysis.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fxray.errors import DataError, DeadlineError, FxrayError, ResourceError
from fxray.files import atomic_path
from fxray.prefer.tables import APPLICATION_ID, TABLES, VERSION

LOCK_DEADLINE_S = 10.0
"""How long a write waits for another process's."""
_UNCHANGING = "?mode=ro&immutable=1"
"""Of a file that nobody writes to: SQLite then keeps nothing beside it."""


class Store:
    """An open study file, for any number of threads.

    Args:
        path: The file, for errors.
        connection: To it; closed by `close`.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection, self._lock = connection, threading.RLock()
        self.facts: dict[str, Any] = json.loads(self.read("SELECT facts FROM study")[0]["facts"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        with self._lock:
            self._connection.close()

    def read(self, query: str, *values: object) -> list[sqlite3.Row]:
        """All rows of a query.

        Raises:
            FxrayError: See `transaction`.
        """
        with self._lock, _told(self.path):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection whose writes are on the disk when the block ends well, and undone when it does not.

        Raises:
            DeadlineError: Another process holds the file for more than `LOCK_DEADLINE_S`.
            ResourceError: The disk is full or not writable.
            DataError: The file is damaged.
        """
        with self._lock, _told(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def new_study(path: Path, facts: dict[str, Any]) -> Iterator[sqlite3.Connection]:
    """A new study file to fill, which is there when the block ends well.

    Args:
        path: Where; nothing may be there.
        facts: What is to be known of the study, in JSON's types; may be added to within the block.

    Raises:
        DataError: There is something, which may hold votes.
        ResourceError: The disk is full or not writable.
    """
    if path.exists():
        raise DataError("is there already", where=str(path), remedy="choose another name; a study file holds votes")
    for left in (path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-journal")):
        if left.exists():
            raise DataError(
                "is of a study that was not closed, and SQLite would put its votes into a new one of that name",
                where=str(left),
                remedy="choose another name, or remove this file too",
            )
    with atomic_path(path) as aside:
        with _told(path):
            connection = sqlite3.connect(aside, isolation_level=None)
        try:
            with _told(path):
                connection.executescript(
                    f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; {TABLES} BEGIN"
                )
                yield connection
                connection.execute("INSERT INTO study VALUES (?)", (json.dumps(facts, ensure_ascii=False),))
                connection.execute("COMMIT")
        finally:
            connection.close()


def open_study(path: Path, *, only_read: bool = False) -> Store:
    """Opens a study file.

    Args:
        path: The file.
        only_read: Nothing will be written, so that the file and its folder need not be writable.

    Raises:
        DataError: It is missing, no study file, or one of another version.
        ResourceError: It cannot be opened or written.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises where a folder may not be entered
        raise DataError("no such study file", where=str(path), remedy="make it with `fxray prefer create`")
    if not only_read:
        return _opened(path, "")
    try:
        return _opened(path, "" if _is_writable(path) else _UNCHANGING if _is_at_rest(path) else "?mode=ro")
    except ResourceError as error:  # a disk without room for what SQLite keeps beside a study
        if _holds_all_votes(path):
            return _opened(path, _UNCHANGING)
        raise ResourceError(
            f"cannot be read here: {error.message.partition(': ')[2]}",
            where=str(path),
            remedy=f"free some space, or copy it and {path.name}-wal, which holds the last votes, to another folder",
        ) from error


def _opened(path: Path, mode: str) -> Store:
    with _told(path):
        connection = sqlite3.connect(
            path.absolute().as_uri() + mode,
            timeout=LOCK_DEADLINE_S, isolation_level=None, check_same_thread=False, uri=True,
        )  # fmt: skip
    connection.row_factory = sqlite3.Row
    try:
        with _told(path):
            connection.execute("PRAGMA trusted_schema = OFF")
            found = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if found != APPLICATION_ID:
                raise _no_study(path)
            if version != VERSION:
                raise DataError(
                    f"a study of version {version}, this fxray reads version {VERSION}",
                    where=str(path),
                    remedy="open it with the fxray that made it",
                )
            for pragma in () if mode else ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                connection.execute(f"PRAGMA {pragma}")
            return Store(path, connection)
    except BaseException:
        connection.close()
        raise


def _is_writable(path: Path) -> bool:
    file = path.resolve()
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)  # SQLite keeps files beside a study


def _is_at_rest(path: Path) -> bool:
    """Whether all votes are in the file itself, and no process has it open."""
    return _holds_all_votes(path) and not _beside(path, "-shm")


def _holds_all_votes(path: Path) -> bool:
    return not _beside(path, "-wal") and not _beside(path, "-journal")


def _beside(path: Path, ending: str) -> bool:
    """Whether SQLite has a file of its own beside a study, and something in it."""
    file = path.resolve().with_name(f"{path.resolve().name}{ending}")
    return file.exists() and file.stat().st_size > 0


def now() -> str:
    """The time in UTC to the millisecond, as it stands in study files."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what SQLite raises into one clear error; what breaks a rule of the tables stays as it is."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        raise _error_of(path, error) from error


def _error_of(path: Path, error: sqlite3.DatabaseError) -> FxrayError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DeadlineError(
            f"another process has held the study file for {LOCK_DEADLINE_S:g} s",
            where=str(path),
            remedy="try again, or end what holds it",
        )
    if code == sqlite3.SQLITE_NOTADB:
        return _no_study(path)
    if code == sqlite3.SQLITE_CANTOPEN:
        return ResourceError(f"cannot be opened: {error}", where=str(path), remedy="see who may read and write there")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
        return ResourceError(
            f"cannot be written: {error}", where=str(path), remedy="free some space, or see who may write there"
        )
    return DataError(f"is damaged: {error}", where=str(path), remedy="go on from a copy of the study file")


def _no_study(path: Path) -> DataError:
    return DataError("is no study file", where=str(path), remedy="name a file that `fxray prefer create` made")
