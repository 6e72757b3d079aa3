"""What the driver of many workers waits for. The workers themselves: benchmarks and `fxray detect --workers`."""

import json
import time

import pytest

from fxray.detect.detection import Versions
from fxray.detect.detector import Detector
from fxray.detect.folder import ResultFolder
from fxray.detect.reading import Wanted
from fxray.detect.workers import DetectorWorker, _within, absolute_rows
from fxray.errors import DeadlineError, WorkerDiedError


def test_rows_come_within_the_deadline_or_it_is_named():
    assert list(_within(iter(range(2000)), 5)) == list(range(2000))
    with pytest.raises(DeadlineError, match=r"detection workers: no finding came within 0\.05 s"):
        list(_within((time.sleep(2) for _ in range(1)), 0.05))
    with pytest.raises(WorkerDiedError, match=r"the workers gave up: .*by zero"):
        list(_within((1 // k for k in (1, 0)), 5))


@pytest.fixture
def worker(monkeypatch):
    """One whose files are all no images."""
    from fxray.config.load import load_config

    detector = Detector(
        None, "prompt", min_pixels=3136, max_pixels=3136, max_new_tokens=9, versions=Versions("0", "tiny", "", "")
    )
    monkeypatch.setattr("fxray.detect.workers.open_detector", lambda config, adapter: detector)
    monkeypatch.setattr(
        Detector, "stream", lambda self, pictures: iter(() if pictures.take(wait=True) is None else [1])
    )
    return DetectorWorker(load_config("tiny", ()).model_dump_json(), "", Wanted())


def test_a_worker_finds_files_from_whatever_folder_it_was_started_in(worker, monkeypatch, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    rows = absolute_rows(["in/a.png", "./in/a.png"])
    expected = ResultFolder(tmp_path / "out").key("in/a.png")
    monkeypatch.chdir(tmp_path / "elsewhere")
    (record,) = worker({"file": [row["file"] for row in rows]})["record"]
    assert "no image Pillow knows" in json.loads(record)["problem"]
    assert ResultFolder(tmp_path / "out").key(json.loads(record)["file"]) == expected == "../in/a.png"


def test_a_worker_gives_columns_that_ray_data_carries(worker):
    columns = worker({"file": ["absent.png"]})
    assert [json.loads(record)["problem"] for record in columns["record"]] == [
        "cannot be read: No such file or directory"
    ]
    assert columns["thumbnail"] == [b""]
