"""A folder of results: nothing is examined twice, nothing is lost, and nothing else is touched."""

import errno
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from fxray.detect.finding import Finding
from fxray.detect.folder import PARTS, RESULTS, SETTINGS, opened_folder, thumbnail_file, write_thumbnail
from fxray.errors import ConfigError, DataError, ResourceError

SETTINGS_A = {"adapter_sha256": "aa", "fxray": "1"}


def record_of(file: Path, problem: str = "no image", sha256: str = "ab" * 32, *, is_lasting: bool = True) -> dict:
    """A finding of a file that is no image, or, without a problem, of one that was examined."""
    status, facts = file.stat(), {"sha256": sha256}
    facts |= {"size_bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    return Finding(str(file), None, problem, is_lasting=is_lasting, **facts).as_record()


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    (tmp_path / "in").mkdir()
    files = [tmp_path / "in" / f"{name}.png" for name in "abc"]
    for file in files:
        file.write_bytes(b"x")
    return [str(file) for file in files]


def test_what_was_added_is_there_after_any_end(tmp_path: Path, images: list[str]) -> None:
    out = tmp_path / "out"
    with suppress(KeyboardInterrupt), opened_folder(out, SETTINGS_A) as results:
        assert results.missing(images) == images
        results.add(record_of(Path(images[1])), b"jpeg")
        raise KeyboardInterrupt
    assert thumbnail_file(out, "ab" * 32).read_bytes() == b"jpeg"
    assert not (out / RESULTS).exists()
    with opened_folder(out, SETTINGS_A | {"fxray": "2"}) as results:
        assert results.missing(images) == [images[0], images[2]]
        results.add(record_of(Path(images[0])), b"")
        results.add(record_of(Path(images[2])), b"")
        ordered = results.finish(images)
    assert [record["file"] for record in ordered] == ["../in/a.png", "../in/b.png", "../in/c.png"]
    lines = [json.loads(line) for line in (out / RESULTS).read_text().splitlines()]
    assert lines == ordered
    assert not (out / PARTS).exists()


def test_only_new_and_changed_files_are_missing(tmp_path: Path, images: list[str]) -> None:
    out = tmp_path / "out"
    with opened_folder(out, SETTINGS_A) as results:
        for image in images:
            results.add(record_of(Path(image)), b"")
        results.finish(images)
    os.utime(images[0], ns=(1, 1))
    Path(images[1]).write_bytes(b"xy")
    Path(images[2]).rename(tmp_path / "in" / "d.png")
    now = [*images[:2], str(tmp_path / "in" / "d.png")]
    with opened_folder(out, SETTINGS_A) as results:
        assert results.missing(now) == now
        assert results.missing([images[2]]) == [images[2]]  # gone: whoever reads it says so
        results.add(record_of(Path(now[0]), problem="later"), b"")
        ordered = results.finish(now)
    assert [record["file"] for record in ordered] == ["../in/a.png", "../in/b.png", "../in/c.png"]
    assert ordered[0]["problem"] == "later"


def test_what_was_found_in_a_file_outlives_its_disk_but_no_change_of_the_file(
    tmp_path: Path, images: list[str]
) -> None:
    verdict = {"verdict": "generated", "probability": 0.9}
    with opened_folder(tmp_path / "out", SETTINGS_A) as results:
        for image in images:
            record = record_of(Path(image), sha256="ab" * 32)
            del record["problem"]
            assert results.add(record | verdict, b"")
        found = results.finish(images)
    unread = {"sha256": "", "is_lasting": False}
    forbidden = record_of(Path(images[1]), "cannot be read: Permission denied", **unread)
    Path(images[2]).write_bytes(b"other")
    changed = record_of(Path(images[2]), "cannot be read: Permission denied", **unread)
    Path(images[0]).unlink()
    away = forbidden | {"file": images[0], "problem": "cannot be read: No such file", "size_bytes": -1}
    with opened_folder(tmp_path / "out", SETTINGS_A) as results:
        assert results.missing(images) == [images[0], images[2]]
        assert [results.add(record, b"") for record in (away | {"modified_ns": -1}, forbidden, changed)] == [
            False, False, True,
        ]  # fmt: skip
        ordered = results.finish(images)
    assert ordered[:2] == found[:2]
    assert ("verdict" in ordered[2], ordered[2]["problem"]) == (False, "cannot be read: Permission denied")


def test_what_failed_is_tried_again_unless_the_file_itself_is_the_reason(tmp_path: Path, images: list[str]) -> None:
    with opened_folder(tmp_path / "out", SETTINGS_A) as results:
        results.add(record_of(Path(images[0]), problem="the engine ended", is_lasting=False), b"")
        results.add(record_of(Path(images[1]), problem="no image", is_lasting=True), b"")
        results.finish(images)
    with opened_folder(tmp_path / "out", SETTINGS_A) as results:
        assert results.missing(images[:2]) == [images[0]]


def test_the_folder_moves_with_its_images(tmp_path: Path, images: list[str]) -> None:
    with opened_folder(tmp_path / "out", SETTINGS_A) as results:
        results.add(record_of(Path(images[0])), b"")
        results.finish(images)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("in", "out"):
        (tmp_path / name).rename(moved / name)
    with opened_folder(moved / "out", SETTINGS_A) as results:
        assert results.missing([str(moved / "in" / "a.png")]) == []


def test_other_things_and_other_detectors_are_refused(tmp_path: Path, images: list[str]) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"holds 'letter\.txt'"), opened_folder(tmp_path / "home", SETTINGS_A):
        pass
    assert [entry.name for entry in (tmp_path / "home").iterdir()] == ["letter.txt"]
    out, again = tmp_path / "out", pytest.raises(ResourceError, match="another process writes here")
    with opened_folder(out, SETTINGS_A), again, opened_folder(out, SETTINGS_A):
        pass
    other = pytest.raises(ConfigError, match="adapter_sha256 is 'aa', now it would be 'bb'")
    with other, opened_folder(out, {"adapter_sha256": "bb"}):
        pass


def test_a_folder_of_before_base_models_were_told_apart_is_gone_on_with(tmp_path: Path) -> None:
    known = SETTINGS_A | {"base_fingerprint": "aa", "dtype": "float32"}
    for settings in (SETTINGS_A, known):
        with opened_folder(tmp_path / "old", settings):
            pass
    with opened_folder(tmp_path / "new", known):
        pass
    for other in ({"base_fingerprint": "bb"}, {"dtype": "bfloat16"}):
        (name,) = other
        refused = pytest.raises(ConfigError, match=f"other settings: {name} is")
        with refused, opened_folder(tmp_path / "new", known | other):
            pass


def test_results_go_on_with_a_base_model_and_an_adapter_under_other_names(tmp_path: Path) -> None:
    known = SETTINGS_A | {"base_model": "tiny", "base_fingerprint": "aa", "adapter": "adapter"}
    moved = {"base_model": "elsewhere", "adapter": "copy"}
    for settings in (known, known | moved):
        with opened_folder(tmp_path / "known", settings):
            pass
    unknown = known | {"base_fingerprint": None}
    with opened_folder(tmp_path / "unknown", unknown):
        pass
    refused = pytest.raises(ConfigError, match="other settings: base_model is 'tiny'")
    with refused, opened_folder(tmp_path / "unknown", unknown | moved):
        pass


def test_what_is_no_text_is_one_error_and_a_strangers_part_is_left_alone(tmp_path: Path, images: list[str]) -> None:
    out = tmp_path / "out"
    with opened_folder(out, SETTINGS_A):
        pass
    (out / "parts").mkdir(exist_ok=True)
    (out / "parts" / "mine.jsonl").write_text("{}")
    with opened_folder(out, SETTINGS_A) as folder:
        assert folder.missing(images) == images
        folder.finish(images)
    assert (out / "parts" / "mine.jsonl").read_text() == "{}"
    (out / "settings.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="cannot be read"), opened_folder(out, SETTINGS_A):
        pass


@pytest.mark.parametrize("line", ["{", "[]", '{"file": "a"}', "[" * 100_000])
def test_damage_names_the_line(tmp_path: Path, line: str) -> None:
    with opened_folder(tmp_path, SETTINGS_A):
        pass
    (tmp_path / RESULTS).write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"detections\.jsonl, line 1"), opened_folder(tmp_path, SETTINGS_A):
        pass
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(DataError, match="cannot be read"), opened_folder(tmp_path, SETTINGS_A):
        pass


def test_a_thumbnail_that_has_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_thumbnail(tmp_path, "ab" * 32, b"jpeg")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
