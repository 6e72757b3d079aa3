"""A file or folder is the old one or the new one, never a part of either."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from fxray.errors import ConfigError, ResourceError
from fxray.files import (
    atomic_dir,
    atomic_path,
    disk_errors,
    is_there,
    make_folder,
    refuse_to_replace,
    relative_path,
    settled_files,
    write_atomically,
)


def half_write(path: Path) -> None:
    path.write_text("half")
    path.parent.write_text("not a file")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "old")
    with pytest.raises(IsADirectoryError), atomic_path(tmp_path / "a") as aside:
        half_write(aside)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_what_may_not_be_looked_at_is_not_taken_for_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    found = {name: is_there(tmp_path / name) for name in ("file", ".", "absent", "file/inside", "circle", "null\0")}
    assert [name for name in found if found[name]] == ["file", "."]
    with pytest.raises(OSError, match="File name too long"):
        is_there(tmp_path / ("n" * 300))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(PermissionError):
        is_there(tmp_path / "file")


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for content in ("1", "2"):
        with atomic_dir(tmp_path / "d") as folder:
            (folder / f"file-{content}").write_text(content)
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["file-2"]
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_two_that_fill_a_folder_do_not_meet_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fxray.asides.fcntl.flock", refuse)
    with atomic_dir(tmp_path / "d") as first:  # as by processes of one number in two containers
        (first / "x").write_text("first")
        with atomic_dir(tmp_path / "d") as second:
            (second / "x").write_text("second")
        assert (tmp_path / "d" / "x").read_text() == "second"
    assert (tmp_path / "d" / "x").read_text() == "first"
    assert [each.name for each in tmp_path.iterdir()] == ["d"]


def test_a_folder_is_written_where_others_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    with monkeypatch.context() as present:
        present.setattr(Path, "iterdir", refuse)
        with atomic_dir(tmp_path / "d") as folder:
            (folder / "x").write_text("whole")
    assert (tmp_path / "d" / "x").read_text() == "whole"


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "d") as folder:
        (folder / "x").write_text("old")
    with pytest.raises(IsADirectoryError), atomic_dir(tmp_path / "d") as folder:
        half_write(folder / "x")
    assert (tmp_path / "d" / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_full_disk_is_said_with_its_place(tmp_path: Path) -> None:
    message = r"report: cannot be written: No space left .*MiB free.*\n.*free some space"
    with pytest.raises(ResourceError, match=message), atomic_path(tmp_path / "report"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_a_free_inode_is_told_from_one_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = os.statvfs(tmp_path)
    for num_free, said in ((0, "no inode free"), (1, "MiB free")):
        fields = [*disk[:7], num_free, *disk[8:]]
        monkeypatch.setattr(os, "statvfs", lambda _, fields=fields: os.statvfs_result(fields))
        with pytest.raises(ResourceError, match=rf"No space left .*{said}"), disk_errors(tmp_path / "report"):
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "let this user"),
        (errno.EROFS, "mounted for writing"),
        (errno.EIO, "look after the disk"),
        (errno.EFBIG, "ulimit -f"),
    ],
)
def test_the_remedy_is_of_what_the_disk_refuses(tmp_path: Path, number: int, remedy: str) -> None:
    said = rf"report: cannot be written: {os.strerror(number)}\n.*{remedy}"
    with pytest.raises(ResourceError, match=said), atomic_path(tmp_path / "report"):
        raise OSError(number, os.strerror(number))


def test_a_name_that_no_file_can_have_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"cannot be written: File name too long\n.*shorter"):
        write_atomically(tmp_path / ("n" * 300), "x")
    with pytest.raises(ResourceError, match=r"cannot be made: File name too long\n.*shorter"):
        make_folder(tmp_path / ("n" * 300))


def test_an_error_names_the_file_and_not_what_is_written_aside(tmp_path: Path) -> None:
    refused = OSError(errno.ENOSPC, "No space left on device")
    for write in (atomic_dir, atomic_path):
        with pytest.raises(ResourceError) as told, write(tmp_path / "d") as aside, disk_errors(aside / "part"):
            raise refused
        assert told.value.where == str(tmp_path / "d" / "part")


def test_a_disk_that_is_full_before_a_whole_folder_is_copied_is_said(tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_atomically(tmp_path / "policy" / "weights", "x")
    with (
        pytest.raises(ResourceError, match=r"/d: cannot be written: No space left .*MiB free"),
        atomic_dir(tmp_path / "d") as aside,
    ):
        shutil.copytree(tmp_path / "policy", aside, copy_function=refuse, dirs_exist_ok=True)


@pytest.mark.parametrize("refused", ["rmtree", "replace"])
def test_a_folder_that_cannot_be_replaced_or_deleted_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    for name in ("x", "y"):
        write_atomically(tmp_path / "d" / name, "old")
    real = shutil.rmtree

    def refuse(folder: Path, *_: object, ignore_errors: bool = False) -> None:
        if (folder / "y").exists():
            (folder / "x").unlink()
            if not ignore_errors:
                raise OSError(errno.ENOTEMPTY, "Directory not empty")
        else:
            real(folder, ignore_errors=ignore_errors)

    def break_down(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    if refused == "replace":
        monkeypatch.setattr(Path, "replace", break_down)
    with nullcontext() if refused == "rmtree" else pytest.raises(ResourceError), atomic_dir(tmp_path / "d") as folder:
        (folder / "x").write_text("new")
    assert (tmp_path / "d" / "x").read_text() == ("new" if refused == "rmtree" else "old")
    assert (tmp_path / "d" / "y").exists() == (refused == "replace")


@pytest.mark.parametrize("refused", ["fxray.asides.os.open", "pathlib.Path.rename"])
def test_a_folder_that_cannot_be_begun_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as present:
        present.setattr(refused, refuse)
        with pytest.raises(ResourceError, match="cannot be written: Input/output error"), atomic_dir(tmp_path / "d"):
            pytest.fail("the block runs")
    assert list(tmp_path.iterdir()) == []


def test_a_truly_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    write_atomically(tmp_path / "a", "old")
    with pytest.raises(ResourceError), atomic_path(tmp_path / "a"), full.open("wb", buffering=0) as device:
        device.write(b"x")
    assert (tmp_path / "a").read_text() == "old"


def test_a_read_only_disk_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("write_bytes", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(ResourceError, match="cannot be written: Read-only file system"):
        write_atomically(tmp_path / "a", "x")


def test_a_folder_is_replaced_only_where_all_in_it_is_written_anew(tmp_path):
    def refuse(path):
        refuse_to_replace(path, unless_all_are={"config.json", "model.bin"})

    refuse(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    refuse(tmp_path / "model")
    (tmp_path / "file").write_text("letters")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    for other, said in ((tmp_path, "holds empty"), (tmp_path / "file", "no folder"), (tmp_path / "model", "notes")):
        with pytest.raises(ConfigError, match=rf"is there already, and .*{said}.*\n.*nothing was changed"):
            refuse(other)
    assert (tmp_path / "file").read_text() == "letters"


def test_the_folder_in_which_a_command_runs_is_never_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", str(tmp_path)):
        with pytest.raises(ConfigError, match="in which the command runs"), atomic_dir(Path(name)):
            pass
    (tmp_path / "f").write_text("still where it was")
    assert Path("f").exists()


def test_a_folder_behind_a_link_is_the_one_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    for name in ("empty", "absent"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
        with atomic_dir(tmp_path / name) as folder:
            (folder / "x").write_text("new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "disk" / name / "x").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["absent", "disk", "empty"]


def test_a_link_that_leads_in_a_circle_is_said(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="loop: is a link that leads in a circle"), atomic_dir(tmp_path / "loop"):
        pytest.fail("the block runs")
    assert [p.name for p in tmp_path.iterdir()] == ["loop"]


def test_a_mounted_folder_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    with pytest.raises(ConfigError, match=r"disk is mounted(.|\n)*name a folder in it"), atomic_dir(tmp_path / "disk"):
        pytest.fail("the block runs")


@pytest.mark.parametrize("write", [atomic_path, atomic_dir])
def test_a_file_in_the_place_of_a_folder_is_said(tmp_path: Path, write) -> None:
    (tmp_path / "a").write_text("old")
    for target in (tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"):
        with pytest.raises(ResourceError, match=r"/a.*: cannot be made: .*/a"), write(target):
            pass
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_in_the_place_of_a_file_is_said_and_kept(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ResourceError, match="is a folder"), atomic_path(tmp_path / "a") as aside:
        aside.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_pipe_in_the_place_of_a_file_is_said_and_kept(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for name in ("a", "b"):
        with pytest.raises(ResourceError, match="is a device or a pipe"), atomic_path(tmp_path / name) as aside:
            aside.touch()
    assert (tmp_path / "a").is_fifo()
    assert (tmp_path / "b").is_symlink()


def test_a_relative_path_is_the_way_the_kernel_goes(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    (tmp_path / "a").write_text("here")
    (tmp_path / "alias").symlink_to("a")
    assert relative_path(tmp_path / "a", tmp_path / "link" / "new") == "../../../a"
    assert relative_path(tmp_path / "link" / ".." / "b", tmp_path) == "deep/b"
    assert relative_path(tmp_path / "alias", tmp_path / "link") == "../../alias"
    assert (tmp_path / "link" / relative_path(tmp_path / "alias", tmp_path / "link")).read_text() == "here"
    (tmp_path / "loop").symlink_to("loop")
    assert relative_path(tmp_path / "loop" / "a", tmp_path) == "loop/a"
    assert relative_path(tmp_path / "no\0name" / "a", tmp_path) == str(tmp_path / "no\0name" / "a")


FULL = """
import resource, sys
from pathlib import Path
from fxray.files import append_line
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for number in range(1000):
    append_line(Path(sys.argv[1]), f"{number:08d}" * 10)
"""


def test_a_line_that_has_no_room_leaves_the_lines_before_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", FULL, str(log)], capture_output=True, text=True, check=False)
    assert f"ResourceError: {log}: cannot be written: " in done.stderr
    assert log.read_text() == "".join(f"{number:08d}" * 10 + "\n" for number in range(12))


def test_a_folder_is_listed_while_others_work_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config.yaml", "step-1/adapter/x", "step-2/y", ".step-3.9.tmp/half", ".lock", "sft/.z.9.tmp"):
        write_atomically(tmp_path / name, "12345")
    assert {name: each.st_size for name, each in settled_files(tmp_path).items()} == {
        "config.yaml": 5, "step-1/adapter/x": 5, "step-2/y": 5,
    }  # fmt: skip
    real, errors = os.scandir, {"step-2": FileNotFoundError(errno.ENOENT, "No such file or directory")}

    def scandir(folder: str) -> object:
        if error := errors.get(Path(folder).name):
            raise error
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert sorted(settled_files(tmp_path)) == ["config.yaml", "step-1/adapter/x"]
    errors["adapter"] = OSError(errno.EIO, "Input/output error")  # what lies there is not gone
    with pytest.raises(OSError, match="Input/output error"):
        settled_files(tmp_path)
    assert settled_files(tmp_path / "nowhere") == {}
