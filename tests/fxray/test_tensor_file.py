import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save_file

from fxray.tensor_file import (
    cut,
    join_pieces,
    make_header,
    pieces_sha256,
    read_entries,
    read_header,
    read_pieces,
    read_whole_header,
)

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(5, np.float16), "c": np.zeros((), np.int64)}


def test_pieces_joined_are_the_file_that_safetensors_reads(tmp_path: Path) -> None:
    save_file({"b": TENSORS["b"]}, tmp_path / "model-1.safetensors")
    save_file({"a": TENSORS["a"], "c": TENSORS["c"]}, tmp_path / "model-2.safetensors")
    for piece_bytes, num_pieces in ((10, 4), (34, 3), (1000, 2)):  # a: 10 bytes, b: 24, c: 8, behind the header
        pieces = read_pieces(tmp_path, piece_bytes)
        assert len(pieces) == num_pieces
        content = b"".join(piece.tobytes() for piece in pieces)
        read = load(content)
        assert all(np.array_equal(read[name], tensor) for name, tensor in TENSORS.items())
        assert pieces_sha256(pieces) == pieces_sha256([np.frombuffer(content, np.uint8)])
    assert {each.name: each.shape for each in read_entries(tmp_path)} == {"a": (5,), "b": (2, 3), "c": ()}


def test_a_tensor_is_never_cut() -> None:
    _, entries = make_header([("a", "F32", (2,)), ("b", "F32", (100,)), ("c", "BF16", (2,)), ("d", "F32", (1,))])
    assert [[each.name for each in run] for run in cut(entries, 12)] == [["a"], ["b"], ["c", "d"]]
    header, entries = make_header([("x", "BF16", (3,))])
    assert read_header(header) == entries
    assert len(header) % 8 == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda header: header[:-1], "announces"),
        (lambda header: b"short", "no safetensors header"),
        (lambda header: struct.pack("<Q", 2) + b"[]", "no safetensors header"),
        (lambda header: struct.pack("<Q", 1) + b"{", "Expecting"),
        (lambda header: with_offsets(0, 4), "tensor a does not lie where"),
        (lambda header: with_offsets(4, 12), "tensor a does not lie where"),
    ],
)
def test_a_damaged_header_is_refused(damage, message) -> None:
    header, _ = make_header([("a", "F32", (2,))])
    with pytest.raises(ValueError, match=message):
        read_header(damage(header))


def with_offsets(start: int, end: int) -> bytes:
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [start, end]}}).encode()
    return struct.pack("<Q", len(text)) + text


def test_a_folder_that_is_cut_doubled_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a tensor"):
        read_pieces(tmp_path)
    save_file({"b": TENSORS["b"]}, tmp_path / "one.safetensors")
    content = (tmp_path / "one.safetensors").read_bytes()
    (tmp_path / "two.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="tensor b stands in two files"):
        read_pieces(tmp_path)
    (tmp_path / "two.safetensors").unlink()
    (tmp_path / "one.safetensors").write_bytes(content[:-4])
    with pytest.raises(ValueError, match="holds 20 bytes of tensors and announces 24"):
        read_pieces(tmp_path)


def test_tensors_that_are_joined_keep_their_order() -> None:
    tensors = {name: tensor.reshape(-1).view(np.uint8) for name, tensor in TENSORS.items()}
    kinds = {"a": ("F16", (5,)), "b": ("F32", (2, 3)), "c": ("I64", ())}
    header, *_ = join_pieces(tensors, kinds)
    assert [each.name for each in read_header(header.tobytes())] == ["b", "a", "c"]


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 16, struct.pack("<Q", 2**40) + b"{}"])
@pytest.mark.parametrize("read", [read_pieces, read_entries])
def test_a_file_shorter_than_it_announces_is_refused(tmp_path: Path, content: bytes, read) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"no safetensors header|announces"):
        read(tmp_path)


def test_of_a_file_of_another_kind_no_more_is_read_than_a_header_may_have(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"PK\x03\x04" + bytes(3) + b"\x08")  # as torch.save begins: more than half an exabyte
    with file.open("r+b") as content:
        content.truncate(2**28)
    with pytest.raises(ValueError, match="it has 100000008 bytes and announces 57646"):
        read_whole_header(file)
