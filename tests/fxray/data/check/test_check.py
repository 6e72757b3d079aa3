"""The check as a whole: files that cannot be read, rules of the set, order, exit codes, memory."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import balanced, encoded, picture, row, write

from fxray.data.check.check import Check, check
from fxray.data.check.scan import Scan, scan
from fxray.data.dataset import SCHEMA, dataset_writer


def found_rules(found: Check) -> set[str]:
    return {finding.rule for finding in found.findings}


def of_rule(found: Check | Scan, rule: str) -> list[list[int]]:
    """Rows of each finding of a rule."""
    return [[f.place.row, *(o.row for o in f.others)] for f in found.findings if f.rule == rule]


def test_every_bad_row_is_listed_where_it_is(tmp_path: Path) -> None:
    rows = balanced(100)
    for number in range(3, 100, 8):
        rows[number]["tags"] = ["fingers"]
    found = check([write(tmp_path / "a.parquet", rows)])
    assert of_rule(found, "tag") == [[number] for number in range(3, 100, 8)]
    first = next(f for f in found.findings if f.rule == "tag")
    assert first.to_json() == {
        "severity": "error",
        "rule": "tag",
        "file": str(tmp_path / "a.parquet"),
        "row": 3,
        "sample_id": "s3",
        "field": "tags",
        "value": "['fingers']",
        "message": "['fingers'], expected some of perspective errors, artistic styles, unknown objects, "
        "structure errors, texture errors, other anomalies, each once",
        "remedy": "write the file with fxray.data.dataset.write_dataset, or mend the row",
        "others": [],
    }
    assert json.loads(json.dumps(found.to_json()))["severities"]["error"] == 13


def test_a_file_that_another_tool_made_one_row_group_of_is_told(tmp_path: Path) -> None:
    """To train on it means to read half of the group for each image."""
    rows = balanced(80, lambda image, _: encoded(image) + bytes(310_000))
    path = write(tmp_path / "a.parquet", rows)
    assert of_rule(scan([path]), "row-group") == []
    pq.write_table(pq.read_table(path), path)
    (finding,) = (finding for finding in scan([path]).findings if finding.rule == "row-group")
    assert finding.message == "80 rows with 23 MiB of images, of which half is read for one of them; expected 16 rows"
    without = [row | {"image": None, "image_path": "gone.jpg"} for row in rows]
    pq.write_table(pa.Table.from_pylist(without, SCHEMA), path)
    assert of_rule(scan([path]), "row-group") == []


def test_what_is_no_dataset_is_a_finding(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet", balanced(40))
    (tmp_path / "text.parquet").write_text("PAR1 no")
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "cut.parquet").write_bytes(good.read_bytes()[:-40])
    write(tmp_path / "none.parquet", [])
    for name in ("text", "empty", "cut", "none", "absent"):
        found = check([tmp_path / f"{name}.parquet", good])
        assert next(f.rule for f in found.findings if f.place.file.endswith(f"{name}.parquet")) == "file-unreadable"
        assert found.num_rows == 40


def test_a_file_that_breaks_off_is_read_up_to_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", balanced(64))
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(2).column(1).data_page_offset
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)
    found = check([path])
    (broken,) = [f for f in found.findings if f.rule == "file-unreadable"]
    assert "after row 31" in broken.message
    assert found.num_rows == 32


def test_other_columns_and_types_are_told_and_the_rest_is_checked(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row(0, is_generated=True, label="fake"), row(1, is_generated=True)], schema=SCHEMA)
    pq.write_table(table.drop_columns(["tags"]), tmp_path / "a.parquet")
    found = check([tmp_path / "a.parquet"])
    assert {"schema", "label"} <= found_rules(found)
    assert "column 'tags' is None" in next(f.message for f in found.findings if f.rule == "schema")
    wide = table.set_column(3, "width_px", pa.array(["64", "64"]))
    pq.write_table(wide.replace_schema_metadata(SCHEMA.metadata), tmp_path / "b.parquet")
    assert {"schema", "value", "label"} <= found_rules(check([tmp_path / "b.parquet"]))
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "c.parquet")
    assert "schema" in found_rules(check([tmp_path / "c.parquet"]))
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "d.parquet")
    assert check([tmp_path / "d.parquet"]).num_rows == 2


def test_images_in_a_struct_as_other_tools_keep_them_are_told(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row(0, is_generated=True)], schema=SCHEMA)
    nested = pa.array([{"bytes": b"x", "path": "a.png"}])
    pq.write_table(table.set_column(1, "image", nested), tmp_path / "a.parquet")
    (finding,) = [f for f in check([tmp_path / "a.parquet"]).findings if f.rule == "image-missing"]
    assert finding.message == "{'bytes': b'x', 'path': 'a.png'}, expected the bytes of an image"


def test_copies_within_and_across_labels_and_files(tmp_path: Path) -> None:
    rows = balanced(24)
    rows[2]["image"] = rows[4]["image"]
    rows[6]["image"] = rows[9]["image"]
    others = [r | {"sample_id": f"o{i}"} for i, r in enumerate(balanced(36)[24:])]
    others[0]["image"] = rows[10]["image"]
    found = check([write(tmp_path / "train.parquet", rows), write(tmp_path / "test.parquet", others)])
    assert of_rule(found, "duplicate") == [[2, 4]]
    assert of_rule(found, "duplicate-across-labels") == [[6, 9]]
    assert of_rule(found, "duplicate-across-files") == [[10, 0]]
    assert not {"near-duplicate", "source-across-files"} & found_rules(found)


def test_look_alikes_of_other_sources_across_files_are_an_error(tmp_path: Path) -> None:
    rows, others = balanced(24), [r | {"sample_id": f"o{i}"} for i, r in enumerate(balanced(36)[24:])]
    others[1]["image"] = encoded(picture(5).resize((48, 48)), quality=60)
    others[1] |= {"width_px": 48, "height_px": 48}
    rows[7]["image"] = encoded(picture(3), quality=40)
    rows[8]["image"] = encoded(picture(11), "PNG")
    found = check([write(tmp_path / "train.parquet", rows), write(tmp_path / "test.parquet", others)])
    assert of_rule(found, "near-duplicate-across-files") == [[5, 1]]
    assert of_rule(found, "near-duplicate") == [[3, 7]]
    assert of_rule(found, "near-duplicate-across-labels") == [[8, 11]]


def test_a_source_in_two_files_and_an_id_used_twice(tmp_path: Path) -> None:
    rows, others = balanced(12), balanced(24)[12:]
    others[3]["source"] = "photo 4"
    others[5]["sample_id"] = "s0"
    found = check([write(tmp_path / "train.parquet", rows), write(tmp_path / "test.parquet", others)])
    assert of_rule(found, "source-across-files") == [[4, 3]]
    assert of_rule(found, "repeated-id") == [[5, 0]]
    collections = check([tmp_path / "train.parquet", tmp_path / "test.parquet"], ignores_source=True)
    assert found_rules(found) - found_rules(collections) == {"source-across-files"}


def test_balance_of_classes_and_generators(tmp_path: Path) -> None:
    rows = [row(i, is_generated=i % 3 > 0) for i in range(60)]
    assert "class-balance" in found_rules(check([write(tmp_path / "a.parquet", rows)]))
    rows = balanced(80)
    rows[1]["generator"] = "rare"
    found = check([write(tmp_path / "b.parquet", rows)])
    assert found_rules(found) == {"generator-balance"}
    assert found.findings[0].message == "'rare' has 1 image, the median generator 20"


def test_a_caption_that_is_everywhere(tmp_path: Path) -> None:
    rows = balanced(60)
    for r in rows[:50]:
        for region in r["regions"]:
            region["caption"] = "hand odd"
    found = check([write(tmp_path / "a.parquet", rows)])
    (finding,) = [f for f in found.findings if f.rule == "caption-everywhere"]
    assert finding.message == "'hand odd' is the caption of 25 of 30 regions"


@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"regions": []}, 3), ({"tags": ["x"]}, 4)])
def test_the_exit_code_is_that_of_the_worst_finding(tmp_path: Path, changes: dict, code: int) -> None:
    rows = balanced(20)
    rows[1] |= changes
    assert check([write(tmp_path / "a.parquet", rows)]).exit_code == code


PEAK = """
import sys
from pathlib import Path
from fxray.data.check.scan import scan
print(len(scan([Path(sys.argv[1])]).rows))
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]))  # ru_maxrss would be the parent's too
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Twice the rows, 192 and 384 MB of images: the same peak but for the facts of the rows, 0.7 MB."""
    import numpy as np

    peaks = []
    for num in (512, 1024):  # two parts and more: the second still finds the allocator short of room
        noise = np.random.default_rng(0)
        with dataset_writer(tmp_path / "a.parquet") as writer:
            for start in range(0, num, 16):
                rows = [row(start + i, is_generated=True, image=noise.bytes(375_000)) for i in range(16)]
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        done = subprocess.run(
            [sys.executable, "-c", PEAK, tmp_path / "a.parquet"], capture_output=True, text=True, check=True
        )
        num_rows, peak_kib = map(int, done.stdout.split())
        assert num_rows == num
        peaks.append(peak_kib)
    assert peaks[1] - peaks[0] < 4_000
