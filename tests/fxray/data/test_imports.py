"""Imports that are interrupted, refused, repeated, large."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import get_args

import pytest
from PIL import Image

from fxray.data import import_job
from fxray.data.dataset import Dataset
from fxray.data.formats.catalogue import find
from fxray.data.formats.record import Place, Record
from fxray.data.formats.stream import Suffix
from fxray.data.import_job import ImportJob
from fxray.data.imports import import_dataset, plan
from fxray.data.rows import Reading
from fxray.errors import ConfigError, DataError, ResourceError
from fxray.events import PhaseStarted, Step, ignore
from fxray.schema import Verdict


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Twenty images, ten of each label, one damaged; parts of three rows."""
    monkeypatch.setattr(import_job, "RECORDS_PER_PART", 3)
    for number in range(20):
        path = tmp_path / "set" / ("real" if number % 2 else "fake") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30 + number, 40), (number * 9, 9, 90)).save(path)
    (tmp_path / "set" / "fake" / "04.png").write_bytes(b"no image")
    return tmp_path / "set"


def import_(source, dst, form="folders", **options):
    plain = {"images": source, "reading": Reading("displayed"), "is_strict": False, "on_event": ignore}
    return import_dataset(find(form), source, dst, **(plain | options))


def files(dst):
    return {str(path.relative_to(dst)): path.read_bytes() for path in dst.rglob("*") if path.is_file()}


def test_checksums_hold_and_nothing_else_is_left(source, tmp_path):
    summary = import_(source, tmp_path / "a")
    assert (summary.num_rows, summary.num_refused, summary.num_images) == (19, 1, 19)
    listed = dict(line.split("  ")[::-1] for line in (tmp_path / "a" / "SHA256SUMS").read_text().splitlines())
    found = files(tmp_path / "a")
    assert {name: hashlib.sha256(found[name]).hexdigest() for name in listed} == listed
    assert set(found) - set(listed) == {"SHA256SUMS", "import.json"}
    assert summary.num_image_bytes == sum(len(content) for name, content in found.items() if name.startswith("images/"))
    images = [path for path in (tmp_path / "a" / "images").rglob("*") if path.is_file()]
    assert all(path.stat().st_mode & 0o222 == 0 for path in images)  # no tool changes them in place


@pytest.mark.parametrize("suffix", get_args(Suffix))
def test_a_file_of_annotations_that_changed_since_makes_another_plan(tmp_path, suffix):
    def state():
        return plan(find("folders"), tmp_path, tmp_path, Reading("displayed"))["source_state"]

    annotations, image = tmp_path / f"a{suffix.upper()}", tmp_path / "a.png"
    for file in (annotations, image):
        file.write_text("[]")
    before = state()
    image.write_text("[1]")
    assert state() == before
    annotations.write_text("[1]")
    assert state() != before


def test_an_interrupted_import_goes_on_and_ends_the_same(source, tmp_path, monkeypatch):
    import_(source, tmp_path / "whole")
    convert, done = ImportJob.convert, []

    def stop_at_four(job, number, reading):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(number)
        return convert(job, number, reading)

    monkeypatch.setattr(ImportJob, "convert", stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        import_(source, tmp_path / "parts")
    assert not (tmp_path / "parts" / "dataset.parquet").exists()
    again = []
    monkeypatch.setattr(ImportJob, "convert", lambda job, n, reading: again.append(n) or convert(job, n, reading))
    lost = next((tmp_path / "parts" / "images").rglob("*.png"))
    lost.unlink()  # a part whose images have gone is done again
    events = []
    import_(source, tmp_path / "parts", on_event=events.append)
    assert len(again) == 4
    assert set(again) & set(done)
    assert PhaseStarted("convert", 7, 3) in events
    assert [event.step for event in events if isinstance(event, Step) and event.phase == "convert"] == [4, 5, 6, 7]
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


SLOW_IMPORT = """
import sys, time
from pathlib import Path
from fxray.data import import_job, imports
from fxray.data.formats.catalogue import find
from fxray.data.rows import Reading
from fxray.events import ignore
import_job.RECORDS_PER_PART = 3
convert = import_job.ImportJob.convert
import_job.ImportJob.convert = lambda *job: (time.sleep(0.2), convert(*job))[1]
src, dst = map(Path, sys.argv[1:])
reading = Reading("displayed")
imports.import_dataset(find("folders"), src, dst, images=src, reading=reading, is_strict=False, on_event=ignore)
"""


def test_a_killed_import_goes_on(source, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SLOW_IMPORT, source, tmp_path / "a"])
    deadline_s = time.monotonic() + 60
    while not list((tmp_path / "a" / ".import").glob("part-000002.json")):
        assert time.monotonic() < deadline_s, "the third part is never done"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    import_(source, tmp_path / "a")
    import_(source, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_strict_refuses_and_leaves_the_findings_alone(source, tmp_path):
    with pytest.raises(DataError, match=r"1 entry cannot be read, 19 rows can:\n  .*04\.png") as caught:
        import_(source, tmp_path / "a", is_strict=True)
    assert "--strict" in caught.value.remedy
    (left,) = (tmp_path / "a").iterdir()
    assert json.loads(left.read_text())["field"] == "file"
    Image.new("RGB", (50, 50)).save(source / "fake" / "04.png")  # mended
    assert import_(source, tmp_path / "a", is_strict=True).num_rows == 20


def test_an_import_that_could_not_begin_on_a_full_disk_begins_once_there_is_room(source, tmp_path, monkeypatch):
    def refuse(path, _):
        raise ResourceError("cannot be written", where=str(path))

    with monkeypatch.context() as full:
        full.setattr(import_job, "write_atomically", refuse)
        with pytest.raises(ResourceError):
            import_(source, tmp_path / "a")
    assert import_(source, tmp_path / "a").num_rows == 19


def test_an_unfinished_import_of_something_else_is_not_mixed_in(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ImportJob, "convert", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            import_(source, tmp_path / "a")
    with pytest.raises(ConfigError, match="other options"):
        import_(source, tmp_path / "a", reading=Reading("displayed", label=Verdict.REAL))
    assert import_(source, tmp_path / "a").num_rows == 19


@pytest.fixture
def marked(tmp_path):
    """LabelMe files below a folder: an image that is real."""
    (tmp_path / "marked" / "sub").mkdir(parents=True)
    Image.new("RGB", (30, 40)).save(tmp_path / "marked" / "sub" / "a.png")
    content = json.dumps({"imagePath": "a.png", "flags": {"real": True}, "shapes": []})
    (tmp_path / "marked" / "sub" / "a.json").write_text(content)
    return tmp_path / "marked"


def begin(source, dst, monkeypatch):
    """An import that is interrupted once its annotations are read."""
    with monkeypatch.context() as patch:
        patch.setattr(ImportJob, "convert", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            import_(source, dst, form="labelme")


def test_annotations_that_were_mended_after_an_interruption_are_never_taken_as_they_were(marked, tmp_path, monkeypatch):
    begin(marked, tmp_path / "a", monkeypatch)
    file = marked / "sub" / "a.json"
    file.write_text(file.read_text().replace("real", "fake"))
    with pytest.raises(ConfigError, match=r"the source has changed since(.|\n)*delete this folder and run"):
        import_(marked, tmp_path / "a", form="labelme")
    import_(marked, tmp_path / "b", form="labelme")
    (sample,) = Dataset.open(tmp_path / "b" / "dataset.parquet").samples
    assert sample.annotation.verdict is Verdict.GENERATED


@pytest.mark.parametrize(("name", "is_source"), [("sub/b.json", True), ("sub/b.png", True), ("sub/.DS_Store", False)])
def test_files_that_came_after_an_interruption_are_told_but_hidden_ones(name, is_source, marked, tmp_path, monkeypatch):
    begin(marked, tmp_path / "a", monkeypatch)
    (marked / name).write_text("x")
    if is_source:
        with pytest.raises(ConfigError, match="the source has changed"):
            import_(marked, tmp_path / "a", form="labelme")
    else:
        assert import_(marked, tmp_path / "a", form="labelme").num_rows == 1


def test_a_source_that_is_none_leaves_nothing(source, tmp_path):
    for dst in (tmp_path / "new", tmp_path / "empty"):
        with pytest.raises(DataError, match="no folder named after a label"):
            import_(source / "fake", dst)
        assert not dst.exists()
        (tmp_path / "empty").mkdir(exist_ok=True)
    assert import_(source, tmp_path / "new").num_rows == 19


def test_what_is_there_stays(source, tmp_path):
    import_(source, tmp_path / "a")
    before = files(tmp_path / "a")
    with pytest.raises(ConfigError, match="is there already"):
        import_(source, tmp_path / "a")
    assert files(tmp_path / "a") == before
    with pytest.raises(ConfigError, match="lies inside the folder that is read"):
        import_(source, source / "fake" / "set")


def test_many_processes_take_over_where_one_would_be_slow(source, tmp_path):
    taken = []

    def all_cores(work, parts):
        taken.extend(parts)
        for part in reversed(parts):  # in any order
            yield part, work(part)

    import_(source, tmp_path / "many", all_cores=all_cores, alone_s=0)
    import_(source, tmp_path / "one", all_cores=all_cores, alone_s=1000)
    assert taken == [4, 5, 6]
    assert files(tmp_path / "many") == files(tmp_path / "one")


@pytest.mark.ray
def test_ray_converts_the_parts(source, tmp_path, cluster, monkeypatch):
    import contextlib

    from fxray.launch import parts

    monkeypatch.setattr(parts, "ray_cluster", lambda *_, **__: contextlib.nullcontext())  # the session's is there
    import_(source, tmp_path / "many", all_cores=parts.on_all_cores, alone_s=0)
    import_(source, tmp_path / "one")
    assert files(tmp_path / "many") == files(tmp_path / "one")


def test_ids_are_unique_whatever_the_files_are_called(tmp_path):
    Image.new("RGB", (30, 40)).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "sample_id": name} for name in ("a.png#2", "x", "x", "x#2")] + [{"image": "a.png"}] * 3
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reading = Reading("displayed", label=Verdict.GENERATED)
    options = {"images": tmp_path, "reading": reading, "is_strict": True, "on_event": ignore}
    import_dataset(find("manifest"), tmp_path / "list.jsonl", tmp_path / "a", **options)
    names = [sample.sample_id for sample in Dataset.open(tmp_path / "a" / "dataset.parquet").samples]
    assert names == ["a.png#2", "x", "x#2", "x#2#2", "a.png", "a.png#3", "a.png#4"]


def test_rows_of_one_image_share_a_source_and_rows_of_a_namesake_do_not(tmp_path):
    for name in ("a/0.png", "b/0.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        Image.new("RGB", (30, 40), (9, 9, 90)).save(tmp_path / "set" / name)
    job, names = ImportJob(tmp_path / "dst", {}), ("a/0.png", "b/0.png", "a/0.png")
    records = [Record(Place("list"), str(tmp_path / "set" / name), "image", "0.png", label="real") for name in names]
    job.read(lambda: iter(records), ignore)
    job.convert(0, Reading("displayed"))
    job.land(1, is_strict=True, on_event=ignore)
    samples = Dataset.open(tmp_path / "dst" / "dataset.parquet").samples
    assert [sample.sample_id for sample in samples] == ["0.png", "0.png#2", "0.png#3"]
    assert [sample.source for sample in samples] == ["0.png", "0.png#2", "0.png"]


def test_a_generator_is_given_to_generated_images_alone(source, tmp_path):
    import_(source, tmp_path / "a", reading=Reading("displayed", generator="sdxl"))
    samples = Dataset.open(tmp_path / "a" / "dataset.parquet").samples
    assert {(sample.annotation.verdict, sample.generator) for sample in samples} == {
        (Verdict.REAL, "real"),
        (Verdict.GENERATED, "sdxl"),
    }


def test_a_file_name_that_is_no_utf_8_is_escaped_in_id_and_source(source, tmp_path):
    (source / "fake" / "00.png").rename(source / "fake" / os.fsdecode(b"\xff.png"))
    import_(source, tmp_path / "a")
    samples = Dataset.open(tmp_path / "a" / "dataset.parquet").samples
    assert [s.source for s in samples if s.sample_id == "fake/\\udcff.png"] == ["fake/\\udcff.png"]


def test_a_prefix_tells_the_ids_and_sources_of_two_imports_apart(source, tmp_path):
    for name in ("a", "b"):
        import_(source, tmp_path / name, reading=Reading("displayed", id_prefix=f"{name}/"))
    first, second = (Dataset.open(tmp_path / name / "dataset.parquet").samples for name in "ab")
    assert {sample.sample_id for sample in first} == {f"a/{sample.sample_id[2:]}" for sample in second}
    assert [sample.source for sample in second] == [sample.sample_id for sample in second]


def test_a_folder_that_cannot_be_made_is_said(source, tmp_path):
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ResourceError, match=r"cannot be made: Not a directory(.|\n)*choose another folder"):
        import_(source, tmp_path / "file.txt" / "set")
