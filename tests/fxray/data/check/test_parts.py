"""Looking at images in parts: where parts begin, what is kept of them, and who looks."""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import balanced, encoded, picture, row, write

from fxray.data.check import parts
from fxray.data.check import scan as scanning
from fxray.data.check.check import check
from fxray.data.check.facts import folder_of
from fxray.data.check.parts import Part, parts_of
from fxray.data.check.scan import scan
from fxray.data.dataset import SCHEMA
from fxray.data.parts import Work
from fxray.events import Event, Note, Step


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two row groups of sixteen rows a part."""
    monkeypatch.setattr(parts, "PART_ROWS", 32)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every image that is decoded."""
    images: list[bytes] = []
    examine = parts.examine_image
    monkeypatch.setattr(
        parts, "examine_image", lambda content, digest: images.append(content) or examine(content, digest)
    )
    return images


def found(path: Path) -> str:
    return json.dumps(check([path]).to_json())


def test_parts_are_whole_row_groups_and_slices_of_those_without_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    beside = [row(i, is_generated=False, image_path=f"{i}.png") | {"image": None} for i in range(80)]
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for rows in (balanced(16), balanced(8), balanced(16), balanced(4), beside, balanced(40), balanced(1)):
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    assert parts_of(path) == [
        Part(path, (0, 3), 0, 0, 40),
        Part(path, (3, 4), 0, 40, 4),
        Part(path, (4, 5), 0, 44, 32),
        Part(path, (4, 5), 32, 76, 32),
        Part(path, (4, 5), 64, 108, 16),
        Part(path, (5, 6), 0, 124, 40),
        Part(path, (6, 7), 0, 164, 1),
    ]
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    assert parts_of(tmp_path / "b.parquet") == []


def test_a_file_whose_name_is_no_text_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    write(tmp_path / "a.parquet", balanced(4)).rename(folder / "a.parquet")
    monkeypatch.chdir(folder)
    for path in (folder / "a.parquet", Path("a.parquet")):
        assert [finding.rule for finding in scan([path]).findings] == ["file-unreadable"]


def test_slices_of_a_row_group_are_its_rows(tmp_path: Path) -> None:
    rows = balanced(70)
    for number, fields in enumerate(rows):
        (tmp_path / f"{number}.jpg").write_bytes(fields["image"])
    beside = [fields | {"image": None, "image_path": f"{number}.jpg"} for number, fields in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(beside, schema=SCHEMA), tmp_path / "beside.parquet")
    inside = scan([write(tmp_path / "inside.parquet", rows)])
    assert len(parts_of(tmp_path / "beside.parquet")) == 3
    assert [r.image.digest for r in scan([tmp_path / "beside.parquet"]).rows] == [r.image.digest for r in inside.rows]


def test_a_second_check_decodes_only_what_is_new(tmp_path: Path, decoded: list[bytes]) -> None:
    rows = balanced(80)
    rows[3]["image"] = rows[3]["image"][:500]  # damaged
    rows[5]["image"] = encoded(picture(5).convert("CMYK"))
    rows[7]["image"] = encoded(picture(7).point(lambda _: 90))  # flat
    path = write(tmp_path / "a.parquet", rows)
    first = found(path)
    assert len(decoded) == 80
    decoded.clear()
    assert found(path) == first
    assert decoded == []
    rows[40]["image"] = encoded(picture(400))
    write(path, rows)
    found(path)
    assert decoded == [rows[40]["image"]]


def test_an_interrupted_check_goes_on(tmp_path: Path, decoded: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("parts", "whole"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.parquet", balanced(80))
    path, whole = tmp_path / "parts" / "a.parquet", tmp_path / "whole" / "a.parquet"
    expected = found(whole)
    decoded.clear()

    def stop(event: Event) -> None:
        if isinstance(event, Step) and event.step == 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan([path], stop)
    assert len(decoded) == 64
    events: list[Event] = []
    scan([path], events.append)
    assert len(decoded) == 80
    assert [event.step for event in events if isinstance(event, Step)] == [32, 64, 80]
    assert found(path) == expected.replace("whole", "parts")


@pytest.mark.parametrize("damage", [b"", b"no stream", None])
def test_facts_that_are_damaged_or_of_another_version_are_found_anew(
    tmp_path: Path, decoded: list[bytes], damage: bytes | None
) -> None:
    path = write(tmp_path / "a.parquet", balanced(32))
    first = found(path)
    (facts,) = folder_of(path).iterdir()
    content = facts.read_bytes()
    facts.write_bytes(content.replace(b"fxray.facts", b"fxray.fakes") if damage is None else damage)
    decoded.clear()
    assert found(path) == first
    assert len(decoded) == 32
    assert facts.read_bytes() == content


def test_facts_of_rows_that_have_gone_are_forgotten(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", balanced(80))
    scan([path])
    assert len(list(folder_of(path).iterdir())) == 3
    scan([write(path, balanced(40))])
    assert [file.name for file in sorted(folder_of(path).iterdir())] == [
        "000000000-000000032.arrow",
        "000000032-000000040.arrow",
    ]


def test_facts_of_rows_that_have_gone_stay_where_nothing_can_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", balanced(40))
    scan([path])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert len(scan([write(path, balanced(24))]).rows) == 24
    assert "000000032-000000040.arrow" in [file.name for file in folder_of(path).iterdir()]


def test_where_nothing_can_be_written_all_is_found_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", balanced(32))
    first = found(path)
    folder_of(path).rename(tmp_path / "elsewhere")
    folder_of(path).write_text("a file stands in the way")
    monkeypatch.setattr(scanning.os, "access", lambda *_: False)
    events: list[Event] = []
    scan([path], events.append)
    assert [event.is_warning for event in events if isinstance(event, Note)] == [True]
    assert found(path) == first


def test_many_processes_look_where_one_would_be_slow(tmp_path: Path) -> None:
    path, taken = write(tmp_path / "a.parquet", balanced(208)), list[int]()

    def all_cores(work: Work, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        taken.extend(numbers)
        yield from ((number, work(number)) for number in reversed(numbers))  # in any order

    many = scan([path], all_cores=all_cores, alone_s=0)
    assert taken == [4, 5, 6]
    assert [r.place.row for r in many.rows] == list(range(208))
    assert [r.image.digest for r in many.rows] == [r.image.digest for r in scan([path]).rows]


@pytest.mark.ray
def test_ray_looks_at_the_parts(tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    from fxray.launch import parts as launched

    monkeypatch.setattr(launched, "ray_cluster", lambda *_, **__: contextlib.nullcontext())  # the session's is there
    path = write(tmp_path / "a.parquet", balanced(208))
    expected = [(r.image.digest, r.image.fingerprint.tolist()) for r in scan([path]).rows]
    for facts in folder_of(path).iterdir():
        facts.unlink()
    many = scan([path], all_cores=launched.on_all_cores, alone_s=0)
    assert [(r.image.digest, r.image.fingerprint.tolist()) for r in many.rows] == expected
    assert len(list(folder_of(path).iterdir())) == 7
