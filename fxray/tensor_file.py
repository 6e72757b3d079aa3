"""Safetensors files in pieces: weights that no single message could carry, described by their header alone.

    header | tensor, tensor, ... | tensor, ... | ...      each part is a piece; joined they are one safetensors file

A tensor is never cut, so that whoever reads a piece in shared memory needs no copy of it.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

PIECE_BYTES = 2**28
MAX_HEADER_BYTES = 10**8
"""As safetensors' own: any other file begins with bytes that may announce more than there is memory."""
NUM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class Entry:
    """What a header says of a tensor.

    Attributes:
        name: As in the file.
        dtype: By safetensors' name: "F32", "BF16".
        shape: Of the tensor.
        start: Offset of its first byte behind the header.
        end: Offset behind its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def make_header(tensors: Iterable[tuple[str, str, Sequence[int]]]) -> tuple[bytes, list[Entry]]:
    """The header of a file that holds tensors in this order, and its entries.

    Args:
        tensors: Name, type and shape of each.
    """
    entries, end = [], 0
    for name, dtype, shape in tensors:
        start, end = end, end + NUM_BYTES[dtype] * int(np.prod(shape, dtype=np.int64))
        entries.append(Entry(name, dtype, tuple(shape), start, end))
    content = {
        each.name: {"dtype": each.dtype, "shape": list(each.shape), "data_offsets": [each.start, each.end]}
        for each in entries
    }
    text = json.dumps({"__metadata__": {"format": "pt"}} | content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, entries


def read_header(content: bytes | memoryview) -> list[Entry]:
    """The entries of a header, in the order of their bytes.

    Raises:
        ValueError: It is cut or no header of a safetensors file, or its tensors do not follow each other.
    """
    try:
        (num_bytes,) = struct.unpack("<Q", content[:8])
        if len(content) != 8 + num_bytes:
            raise ValueError(f"it has {len(content)} bytes and announces {8 + num_bytes}")
        fields = json.loads(bytes(content[8:]))
        entries = [
            Entry(str(name), str(each["dtype"]), tuple(map(int, each["shape"])), *map(int, each["data_offsets"]))
            for name, each in fields.items()
            if name != "__metadata__"
        ]
    except (struct.error, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it is no safetensors header: {error!r}") from error
    entries.sort(key=lambda each: (each.start, each.end))
    end = 0
    for each in entries:
        expected = NUM_BYTES.get(each.dtype, 0) * int(np.prod(each.shape, dtype=np.int64))
        if each.start != end or each.end - each.start != expected:
            raise ValueError(f"tensor {each.name} does not lie where its header says")
        end = each.end
    return entries


def cut(entries: Sequence[Entry], piece_bytes: int = PIECE_BYTES) -> Iterator[list[Entry]]:
    """Runs of whole tensors that make up one piece each: at most `piece_bytes`, or a single tensor.

    Args:
        entries: In the order of their bytes.
        piece_bytes: Most bytes of a run of several tensors.
    """
    run: list[Entry] = []
    for each in entries:
        if run and each.end - run[0].start > piece_bytes:
            yield run
            run = []
        run.append(each)
    if run:
        yield run


def read_entries(folder: Path) -> list[Entry]:
    """What the files of a model's folder hold, by their headers alone; offsets are those within each file.

    Raises:
        OSError: A file cannot be read.
        ValueError: A header is damaged.
    """
    entries: list[Entry] = []
    for file in sorted(folder.glob("*.safetensors")):
        entries += read_header(_header_of(file))
    return entries


def read_whole_header(file: Path) -> list[Entry]:
    """What a file holds, by its header, when all of that is there.

    Raises:
        OSError: The file cannot be read.
        ValueError: Its header is damaged, or it has fewer bytes than that says, or more.
    """
    header = _header_of(file)
    entries = read_header(header)
    _refuse_cut(entries, file.stat().st_size - len(header), file.name)
    return entries


def _refuse_cut(entries: Sequence[Entry], num_bytes: int, name: str) -> None:
    if num_bytes != (announced := entries[-1].end if entries else 0):
        raise ValueError(f"{name} holds {num_bytes} bytes of tensors and announces {announced}")


def _header_of(file: Path) -> bytes:
    """As many bytes as a file's first eight announce, fewer where it is shorter or no header is so long."""
    most_bytes = min(file.stat().st_size, MAX_HEADER_BYTES)
    with file.open("rb") as content:
        prefix = content.read(8)
        return prefix + content.read(min(int.from_bytes(prefix, "little"), most_bytes))


def read_pieces(folder: Path, piece_bytes: int = PIECE_BYTES) -> tuple[Bytes, ...]:
    """The weights of a model's folder, in however many files, as pieces; tensors are in the order of their names.

    Raises:
        OSError: A file cannot be read.
        ValueError: There is none, one is cut, or two hold the same tensor.
    """
    found: dict[str, tuple[Entry, Bytes]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        header = _header_of(file)
        entries = read_header(header)
        data = np.memmap(file, np.uint8, "r")[len(header) :]
        _refuse_cut(entries, len(data), file.name)
        if twice := found.keys() & {each.name for each in entries}:
            raise ValueError(f"tensor {min(twice)} stands in two files")
        found |= {each.name: (each, data) for each in entries}
    if not found:
        raise ValueError("no *.safetensors file holds a tensor")
    tensors = {name: data[each.start : each.end] for name, (each, data) in sorted(found.items())}
    kinds = {name: (each.dtype, each.shape) for name, (each, _) in found.items()}
    return join_pieces(tensors, kinds, piece_bytes)


def join_pieces(
    tensors: Mapping[str, Bytes], kinds: Mapping[str, tuple[str, Sequence[int]]], piece_bytes: int = PIECE_BYTES
) -> tuple[Bytes, ...]:
    """Tensors as pieces of one file.

    Args:
        tensors: Bytes of each, in the order of the file.
        kinds: Type and shape of each.
        piece_bytes: Most bytes of a piece with several tensors.
    """
    header, entries = make_header((name, *kinds[name]) for name in tensors)
    runs = (np.concatenate([tensors[each.name] for each in run]) for run in cut(entries, piece_bytes))
    return (np.frombuffer(header, np.uint8), *runs)


def pieces_sha256(pieces: Iterable[Bytes]) -> str:
    """SHA-256 over pieces, one after the other, in hex: that of the file that they make up."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece.data)
    return digest.hexdigest()
