"""What paths stand for: folders, globs, lists, links and things that are no images."""

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fxray.detect.files import files_of
from fxray.errors import DataError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/1.png", "a/1.PNG", "a/notes.txt", "a/2.jpg", "a/deep/3.webp", "a/photo.HEIC", "out/drawn/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def names(found: list[str], folder: Path) -> list[str]:
    return [os.path.relpath(path, folder) for path in found]


def test_folders_are_searched_whole_but_for_the_results(tree: Path) -> None:
    found = files_of([str(tree)], leave_out=tree / "out")
    assert names(found, tree) == ["a/1.PNG", "a/2.jpg", "a/photo.HEIC", "a/deep/3.webp", "b/1.png"]
    (tree / "empty").mkdir()
    assert files_of([str(tree / "empty"), "absent"]) == [str(tree / "empty"), "absent"]


def test_what_is_an_image_without_saying_so_and_what_is_none_that_is_read_are_listed(tmp_path: Path) -> None:
    starts = {"f_00a1": b"\xff\xd8\xff\xe0", "cached": b"RIFF\x10\0\0\0WEBPVP8 ", "still": b"\0\0\0\x20ftypavif"}
    others = {"README": b"read me", "empty": b"", "sound": b"RIFF\x10\0\0\0WAVEfmt ", "notes.txt": b"\xff\xd8\xff\xe0"}
    for name, content in (starts | others | {"IMG_1.NEF": b"MM\0*"}).items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    assert names(files_of([str(tmp_path)]), tmp_path) == sorted([*starts, "IMG_1.NEF"])


@pytest.mark.parametrize("path", ["", "**/*.jpg", "**/*", "*"])
def test_results_are_not_examined_however_their_folder_is_reached(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("photos/a.jpg", "photos/found/thumbnails/ab/ab.jpg", "photos/found/drawn/a-1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    found = Path("photos/found")
    assert files_of([f"photos/{path}"], leave_out=found) == ["photos/a.jpg"]
    assert files_of(["photos/a.jpg", "photos/found"], leave_out=found) == ["photos/a.jpg"]
    named = "photos/found/drawn/a-1.png"
    assert files_of([named], leave_out=found) == [named]


def test_globs_are_matched_unless_a_file_has_that_very_name(tree: Path) -> None:
    assert names(files_of([str(tree / "a/*.[jJ]pg"), str(tree / "**/3.*")]), tree) == ["a/2.jpg", "a/deep/3.webp"]
    (tree / "[x].png").write_bytes(b"")
    assert names(files_of([str(tree / "[x].png")]), tree) == ["[x].png"]
    assert files_of(["nothing/*.png"]) == ["nothing/*.png"]


def test_a_list_beside_the_images_is_passed_over_unless_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("name,label\na.jpg,1\n")
    assert names(files_of([f"{tmp_path}/*"]), tmp_path) == names(files_of([str(tmp_path)]), tmp_path) == ["a.jpg"]
    with pytest.raises(DataError, match="or name the folder: its lists are passed over"):
        files_of([str(tmp_path / "labels.csv")])
    (tmp_path / "labels.csv").write_text("path\nb.jpg\n")
    assert names(files_of([f"{tmp_path}/*.csv"]), tmp_path) == ["b.jpg"]
    assert names(files_of([f"{tmp_path}/label*"]), tmp_path) == ["b.jpg"]


def test_each_file_counts_once_in_the_order_given(tree: Path) -> None:
    paths = [str(tree / "b/1.png"), str(tree / "a/2.jpg"), str(tree / "b")]
    assert names(files_of(paths), tree) == ["b/1.png", "a/2.jpg"]
    assert files_of(["-", "z.png"], io.BytesIO(b"x y.png\r\n\nz.png\n")) == ["x y.png", "z.png"]
    assert files_of(["-"], None) == []


def test_paths_that_nuls_divide_keep_their_line_breaks_and_their_bytes() -> None:
    assert files_of(["-"], io.BytesIO(b"x\ny.png\0a/b.png\r\0")) == ["x\ny.png", "a/b.png\r"]
    assert files_of(["-"], io.BytesIO(b"caf\xe9\r.png\nz.png")) == ["caf\udce9\r.png", "z.png"]


def test_loops_of_links_end_and_broken_links_are_told(tree: Path) -> None:
    (tree / "a/up").symlink_to(tree)
    (tree / "a/self").symlink_to(tree / "a")
    (tree / "a/broken.png").symlink_to(tree / "gone.png")
    (tree / "linked.png").symlink_to(tree / "b/1.png")
    found = names(files_of([str(tree / "a")]), tree)
    assert len(found) == len(set(found))
    assert "a/broken.png" in found
    assert "a/up/linked.png" in found


def test_a_path_that_is_too_long_stands_for_itself_and_the_rest_is_listed(tree: Path) -> None:
    too_long = "x" * 300 + ".jpg"
    assert names(files_of([too_long, str(tree / "b")]), tree)[1:] == ["b/1.png"]
    assert files_of(["-"], io.BytesIO(f"{too_long}\nz.png\n".encode())) == [too_long, "z.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_searched_stands_for_itself(tree: Path) -> None:
    (tree / "a").chmod(0)
    assert str(tree / "a") in files_of([str(tree)])
    (tree / "a").chmod(0o700)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_lists_name_files_relative_to_themselves(tmp_path: Path, suffix: str) -> None:
    rows = [{"label": "x", "path": "a b.png"}, {"label": "y", "path": "/abs/c.png"}]
    file = tmp_path / f"list.{suffix}"
    match suffix:
        case "csv":
            file.write_text("label,path\nx,a b.png\ny,/abs/c.png\n", "utf-8-sig")
        case "jsonl":
            file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), file)
    assert files_of([str(file)]) == [str(tmp_path / "a b.png"), "/abs/c.png"]


def test_a_folder_in_a_list_is_searched_but_for_the_results_and_a_list_in_it_is_not_read(tree: Path) -> None:
    (tree / "list.csv").write_text("path\na\nother.csv\nout\nb/1.png\n")
    found = names(files_of([str(tree / "list.csv")], leave_out=tree / "out"), tree)
    assert found == ["a/1.PNG", "a/2.jpg", "a/photo.HEIC", "a/deep/3.webp", "other.csv", "b/1.png"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"label,note\nx,y,z\n", r"a\.csv, line 1: no column is named path, file, .*: label, note\n"),
        ("a.csv", b'path\n"x', r"is no readable list of images"),
        ("a.csv", b"path\nx\n''\n,\n", r"a\.csv, line 4: path '', expected a path"),
        ("a.jsonl", b'{"path": 3}\n', r"a\.jsonl, line 1: path '3'"),
        ("a.jsonl", b'{"file": "x"}\n[3]\n', r"a\.jsonl, line 2: no column is named .*; there are: none"),
        ("a.jsonl", b"[" * 100_000, r"is no readable list of images"),
        ("a.parquet", b"PAR1 not", r"is no readable list of images"),
        ("absent.csv", None, r"is no readable list of images: No such file"),
    ],
)
def test_a_list_that_is_none_is_one_clear_error(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        files_of([str(tmp_path / name)])


def test_parquet_without_paths_names_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"pixels": [b"x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: no column is named path, .*; there are: pixels"):
        files_of([str(tmp_path / "a.parquet")])


def test_a_folder_that_is_called_like_a_list_is_searched(tmp_path: Path) -> None:
    image = tmp_path / "scans.csv" / "a.jpg"
    image.parent.mkdir()
    image.write_bytes(b"any")
    (tmp_path / "list.jsonl").write_text('{"path": "scans.csv"}\n')
    for path in ("scans.csv", "*.csv", "list.jsonl"):
        assert files_of([str(tmp_path / path)]) == [str(image)], path


def test_a_folder_that_vanishes_while_it_is_searched_is_told_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = os.walk

    def losing(folder: str, **options: object) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, names in walk(folder, **options):  # type: ignore[call-overload]
            if place.endswith("b"):
                shutil.rmtree(place)
            yield place, folders, names

    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"any")
    monkeypatch.setattr(os, "walk", losing)
    assert files_of([str(tmp_path)]) == [str(tmp_path / path) for path in ("a/1.jpg", "c/1.jpg", "b")]
