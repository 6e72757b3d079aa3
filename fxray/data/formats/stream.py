"""Rows of JSON, JSON lines and folders of files, one after the other, however large the file.

A broken file ends its rows with a finding; what came before it stands. Numbers are parsed with `use_float` everywhere:
without it ijson's parser in C can crash at an integer of thousands of digits.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import ijson

from fxray.data.formats.record import FieldProblem, Finding, Place, Raw
from fxray.errors import DataError

MAX_LINE_BYTES = 64 * 2**20
Suffix = Literal[".json", ".xml", ".parquet"]
"""Of the files of annotations that are read below a folder."""
_SUFFIXES = (".json", ".jsonl", ".ndjson")
MAX_DEPTH = 200
"""Of nesting in JSON. Paths to deeper places are as long as they are deep, so half a megabyte could fill the memory."""


def items(path: Path, prefix: str, kind: str) -> Iterator[Raw | Finding]:
    """The elements of a list in a JSON file.

    Args:
        path: The file.
        prefix: Where the list is: "" for the file itself, "a.b" for `{"a": {"b": [...]}}`.
        kind: What a row is called in findings.
    """
    place = f"{prefix}.item" if prefix else "item"
    yield from _guarded(path, ((f"{kind} {n}", row) for n, row in _numbered(path, place)))


def entries(path: Path, prefix: str) -> Iterator[Raw | Finding]:
    """The values of an object in a JSON file, each called after its key."""

    def pairs() -> Iterator[tuple[str, Any]]:
        _check_depth(path)
        with _opened(path) as file:
            yield from ijson.kvitems(file, prefix, use_float=True)

    yield from _guarded(path, pairs())


def lines(path: Path) -> Iterator[Raw | Finding]:
    """The objects of a file of JSON lines; blank lines are passed over."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            place = Place(str(path), f"line {number}")
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                shown = line[:60].decode("utf-8", "replace")
                yield Finding.of(place, FieldProblem("line", shown, "longer than 64 MiB"))
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                continue
            if not line.strip():
                continue
            try:
                yield place, json.loads(line)
            except (ValueError, RecursionError) as error:
                shown = line[:60].decode("utf-8", "replace")
                yield Finding.of(place, FieldProblem("line", shown, f"no JSON: {error}"))


def rows(path: Path) -> Iterator[Raw | Finding]:
    """The objects of a JSON list or of JSON lines, whichever the file holds, whatever its name ends with."""
    with _opened(path) as file:
        start = file.read(4096).lstrip()[:1]
    return items(path, "", "row") if start == b"[" else lines(path)


def documents(src: Path, suffix: Suffix) -> Iterator[Path]:
    """The file itself, or all files of a kind below a folder, by name; a link that leads nowhere is one of them.

    Raises:
        DataError: There is none.
    """
    if not src.is_dir():
        yield src
        return
    of_kind = (path for path in src.rglob("*") if path.suffix.lower() == suffix)
    found = sorted(path for path in of_kind if path.is_file() or not path.exists())
    if not found:
        raise DataError(f"no {suffix} file below this folder", where=str(src), remedy="check the path and the format")
    yield from found


def of_documents(src: Path, suffix: Suffix, rows_of: Callable[[Path], Iterable[Any]]) -> Iterator[Any]:
    """The rows of one file, or of all files of a kind below a folder; there a file that is unreadable is a finding.

    Raises:
        DataError: There is no file, or the only one cannot be read.
    """
    for path in documents(src, suffix):
        try:
            yield from rows_of(path)
        except DataError as error:
            if not src.is_dir():
                raise
            yield Finding.of(Place(str(path)), FieldProblem("file", path.name, error.message))


def first_key(path: Path) -> str | None:
    """The first key of the object in a JSON file; None where the file is a list or anything else.

    Raises:
        DataError: The file is no JSON.
    """
    with _opened(path) as file:
        try:
            for event, value in ijson.basic_parse(file, use_float=True):
                if event == "map_key":
                    return str(value)
                if event != "start_map":
                    break
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise DataError(
                f"no JSON: {_first_line(error)}", where=str(path), remedy="check the path and the format"
            ) from error
    return None


def _numbered(path: Path, prefix: str) -> Iterator[tuple[int, Any]]:
    _check_depth(path)
    with _opened(path) as file:
        yield from enumerate(ijson.items(file, prefix, use_float=True))


def _check_depth(path: Path) -> None:
    status = path.stat()
    depth = _depth(path, status.st_size, status.st_mtime_ns)
    if depth > MAX_DEPTH:
        raise DataError(
            f"values nested more than {MAX_DEPTH} deep", where=str(path), remedy="no annotation tool writes such a file"
        )


@lru_cache(maxsize=8)
def _depth(path: Path, num_bytes: int, mtime_ns: int) -> int:
    """Depth of the deepest value of a JSON file, as far as it is JSON; reading stops beyond the bound."""
    del num_bytes, mtime_ns  # they are there so that a changed file is read again
    depth = deepest = 0
    with _opened(path) as file, suppress(ijson.JSONError, UnicodeDecodeError):
        for event, _ in ijson.basic_parse(file, use_float=True):
            if event in ("start_map", "start_array"):
                depth += 1
                deepest = max(deepest, depth)
                if depth > MAX_DEPTH:
                    break
            elif event in ("end_map", "end_array"):
                depth -= 1
    return deepest


def _guarded(path: Path, rows: Iterator[tuple[str, Any]]) -> Iterator[Raw | Finding]:
    last = "start"
    try:
        for name, value in rows:
            last = name
            yield Place(str(path), name), value
    except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
        problem = FieldProblem(
            "file", str(error).strip().splitlines()[0], f"JSON breaks after {last}; the rest is unread"
        )
        yield Finding.of(Place(str(path)), problem)


def _first_line(error: Exception) -> str:
    said = error.args[0] if error.args else ""  # the parser in C gives bytes, with a picture of the place below
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]


def _opened(path: Path) -> Any:
    """The file, behind the byte order mark that Windows writes before UTF-8."""
    try:
        file = path.open("rb")
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        return file
    except IsADirectoryError as error:
        inside = sorted(file.name for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)[:5]
        remedy = f"name the file in it: {', '.join(inside)}" if inside else "name the file of annotations"
        raise DataError("is a folder, expected a file", where=str(path), remedy=remedy) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from error


def is_closed(path: Path, prefix: str) -> bool:
    """Whether a list at a prefix of a JSON file ends; False where the file breaks off inside it or before it."""
    is_at_end = False
    with _opened(path) as file, suppress(ijson.JSONError, UnicodeDecodeError):
        for place, event, _ in ijson.parse(file, use_float=True):
            if place == prefix and event in ("start_array", "end_array"):
                is_at_end = event == "end_array"
    return is_at_end


def document(path: Path) -> Any:
    """A whole JSON file that is one row, of at most 64 MiB.

    Raises:
        FieldProblem: It is no JSON, or larger than `MAX_LINE_BYTES`.
    """
    try:
        if path.stat().st_size > MAX_LINE_BYTES:
            raise FieldProblem("file", str(path), "larger than 64 MiB, expected one row")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, FieldProblem):
            raise
        raise FieldProblem("file", str(path), f"no JSON: {error}") from error


def is_object(path: Path, prefix: str) -> bool:
    """Whether a JSON file holds an object at a prefix; False where there is a list or anything else.

    Raises:
        DataError: There is nothing at the prefix.
    """
    _check_depth(path)
    with _opened(path) as file:
        try:
            for place, event, _ in ijson.parse(file, use_float=True):
                if place == prefix:
                    return bool(event == "start_map")
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise DataError(
                f"no JSON: {_first_line(error)}", where=str(path), remedy="check the path and the format"
            ) from error
    raise DataError(f"nothing at {prefix!r}", where=str(path), remedy="correct `rows` in the mapping file")
