"""`fxray reproduce` as a command: what it says, and how it ends."""

import pytest
from typer.testing import CliRunner

from fxray.cli.app import app
from fxray.experiments import reproduce
from fxray.experiments.reproduce import Result
from fxray.report.paper_table import SYNTHETIC, PaperRow, PaperTable


def run(*arguments):
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)])


def test_a_dry_run_lists_rows_trainings_and_steps(tmp_path):
    shown = run("schedules", "--config", "smoke", "--out", tmp_path / "out", "--dry-run")
    assert shown.exit_code == 0, shown.output
    for text in ("GRPO γ throughout", "grpo.schedule-fixed-gamma", "not begun", "6"):
        assert text in shown.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("failures", [{}, {"base": "failed: no memory"}])
def test_the_exit_code_tells_whether_a_training_failed(tmp_path, monkeypatch, failures):
    rows = (PaperRow("base", "Best", ("measured", "0.5 [0.4, 0.6]"), ("0.981",)),)
    table = PaperTable("Mine", ("training", "state", "accuracy"), ("paper: accuracy",), rows, (SYNTHETIC,))
    asked = []

    def work(experiments, setting, on_event, *, max_concurrent):
        asked.extend([*experiments, max_concurrent])
        return {"table4": Result(tmp_path, (table,), failures, True)}

    monkeypatch.setattr(reproduce, "reproduce", work)
    shown = run("table4", "table4", "--config", "smoke", "--out", tmp_path, "--max-concurrent", "3")
    assert shown.exit_code == (1 if failures else 0)
    assert asked == ["table4", 3]
    assert "0.5 [0.4, 0.6]" in shown.stdout
    assert "SYNTHETIC" in shown.stdout
    assert "0.981" not in shown.stdout  # the paper's numbers are in the files, in grey


def test_all_leaves_out_what_the_data_do_not_allow_and_a_name_of_its_own_is_refused(tmp_path):
    shown = run("all", "--config", "smoke", "--out", tmp_path / "out", "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "leave-one-group-out is left out: the generated images are all of one group, Planted" in shown.stderr
    assert "Images of a group" not in shown.stdout
    assert "leave-one-generator-out-noise-burst" in shown.stdout
    named = run("leave-one-group-out", "--config", "smoke", "--out", tmp_path / "out", "--dry-run")
    assert "none can be held out" in str(named.exception)


def test_a_file_of_ones_own_beside_all_is_worked_on_and_a_name_that_is_unknown_told(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("title: Mine\nsource: none\nkind: trainings\nrows: [{title: a row of my own}]\n")
    common = ("--config", "smoke", "--out", tmp_path / "out", "--dry-run")
    for names in (("all", mine), (mine, "all")):
        shown = run(*names, *common)
        assert shown.exit_code == 0, shown.output
        assert "a row of my own" in shown.stdout
        assert "table4" in shown.stdout
        assert "leave-one-group-out is left out" in shown.stderr
    assert "did you mean `table4`" in str(run("all", "table44", *common).exception)
    assert "none can be held out" in str(run("all", "leave-one-group-out", *common).exception)


def test_what_is_not_there_is_said(tmp_path):
    missing = run("table4", "--config", "smoke", "--out", tmp_path, "--ood", "4o=nowhere.parquet")
    assert missing.exit_code == 2
    (tmp_path / "4o.parquet").touch()
    unasked = run("table4", "--config", "smoke", "--out", tmp_path, "--ood", f"4o={tmp_path / '4o.parquet'}")
    assert unasked.exit_code == 2
    assert "no column is about" in " ".join(unasked.stderr.split())
    unknown = run("table44", "--config", "smoke", "--out", tmp_path)
    assert "did you mean `table4`" in str(unknown.exception)


def test_an_outside_data_set_that_is_given_twice_is_wrong_usage(tmp_path):
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for file in files:
        file.touch()
    twice = [part for file in files for part in ("--ood", f"4o={file}")]
    shown = run("table3", "--config", "smoke", "--out", tmp_path / "out", "--dry-run", *twice)
    assert shown.exit_code == 2
    assert "--ood 4o is given twice" in " ".join(shown.stderr.split())


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text("title: t\nsource: none\nkind: trainings\nrows: [{title: a}]\n")
    files = [tmp_path / folder / "mine.yaml" for folder in ("a", "b")]
    shown = run(*files, "--config", "smoke", "--out", tmp_path / "out", "--dry-run")
    assert shown.exit_code == 2
    assert "two experiments would both write to" in " ".join(shown.stderr.split())
