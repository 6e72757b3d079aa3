"""A report is not replaced by one that says less, because the images are elsewhere, nor made of what is no run."""

from pathlib import Path

import pytest

from fxray.errors import DataError, FxrayError
from fxray.report.page import write_report


def test_a_report_with_scores_stays_where_the_test_set_is_not(make_run):
    run_dir = make_run(num_samples=8)
    before = write_report(run_dir).page.read_bytes()
    (run_dir / "data").rename(run_dir / "elsewhere")
    with pytest.raises(DataError, match=r"report\.html: a report with scores is there, and stays"):
        write_report(run_dir)
    assert (run_dir / "report.html").read_bytes() == before
    (run_dir / "elsewhere").rename(run_dir / "data")
    assert write_report(run_dir).comparison.evaluations


def test_a_folder_with_a_file_by_the_name_of_answers_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "evaluation").touch()
    with pytest.raises(FxrayError, match="not a run directory"):
        write_report(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation"]
